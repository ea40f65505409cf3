"""`Monitor`: what callbacks that follow one metric share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from nnx_alexnet import errors
from nnx_alexnet.callbacks.base import Callback, Stage

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer

Mode = Literal["min", "max"]


class Monitor(Callback):
    """Base of callbacks that follow one metric and remember its best value.

    Args:
        monitor: the metric's name, such as `"val/loss"`.
        mode: `"min"` if smaller is better, `"max"` if larger is.
        min_delta: a value must be better than the best by more than this; 0 or more.

    Attributes:
        best: the best value of this fit, None before the first finite one.
        best_step: the optimizer step at which it was produced.

    Raises:
        ValueError: for an unknown `mode`, a negative `min_delta`, and, when a fit starts, for a
            metric that this fit cannot publish.

    Example:
        >>> monitor = Monitor("val/accuracy", mode="max", min_delta=0.01)
        >>> monitor.is_better(0.92, 0.9), monitor.is_better(0.905, 0.9)
        (True, False)
    """

    def __init__(self, monitor: str, *, mode: Mode = "min", min_delta: float = 0.0):
        check_mode(mode)
        if not min_delta >= 0:
            raise ValueError(f"`min_delta` (={min_delta!r}) must be 0 or more.")
        self.monitor = monitor
        self.mode = mode
        self.min_delta = min_delta
        self.best: float | None = None
        self.best_step: int | None = None

    @property
    def state_key(self) -> str:
        """The class and the metric: several metrics can be followed in one run."""
        return f"{type(self).__qualname__}({self.monitor})"

    def state_dict(self) -> dict[str, Any]:
        """Returns the best value and its step."""
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back the best value and its step."""
        self.best = state["best"]
        self.best_step = state["best_step"]

    def setup(self, trainer: Trainer, stage: Stage) -> None:
        """Refuses a metric that this fit cannot publish."""
        if stage == "fit":
            check_monitor(self.monitor, trainer)

    def on_fit_start(self, trainer: Trainer) -> None:
        """Forgets an earlier fit; a state that is to be resumed is loaded after this."""
        self.best = None
        self.best_step = None

    def current(self, trainer: Trainer) -> float | None:
        """Returns the metric's value if it was produced at this very step, else None."""
        if trainer.metric_steps.get(self.monitor) != trainer.global_step:
            return None
        return trainer.metrics[self.monitor]

    def is_better(self, value: float, best: float | None) -> bool:
        """Returns whether `value` improves on `best`; a value that is not finite never does."""
        if not math.isfinite(value):
            return False
        if best is None:
            return True
        return (
            value < best - self.min_delta if self.mode == "min" else value > best + self.min_delta
        )


def check_mode(mode: str) -> None:
    """Raises `ValueError` unless `mode` is `"min"` or `"max"`."""
    if mode not in ("min", "max"):
        raise errors.unknown("mode", mode, ("min", "max"))


def check_monitor(monitor: str, trainer: Trainer) -> None:
    """Raises `ValueError`, with the names that would work, if the fit has no such metric."""
    if monitor not in trainer.metric_names:
        raise errors.unknown("monitor", monitor, trainer.metric_names)
