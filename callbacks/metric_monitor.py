"""`MetricMonitor`: what callbacks that follow one metric share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnx_alexnet.callbacks.base import Callback, Stage
from nnx_alexnet.support import Mode, check_mode, is_better, logger, unknown

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer

# Metrics that some optimizers and devices have, and others have not.
_SOMETIMES = {
    "lr": (
        "the optimizer does not store its learning rate; "
        "optax.inject_hyperparams(optax.adam)(1e-3) does."
    ),
    "perf/mfu": "the device's peak is not known, or the model does not compute in 16 bits.",
    "perf/peak_memory_bytes": "the device does not report how much memory is in use.",
}


class MetricMonitor(Callback):
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
        >>> monitor = MetricMonitor("val/accuracy", mode="max", min_delta=0.01)
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
        self._missed = MissedValues(monitor, type(self).__name__)

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
        self._missed = MissedValues(self.monitor, type(self).__name__)

    def on_train_end(self, trainer: Trainer) -> None:
        """Warns if some epochs ended without the metric."""
        self._missed.warn()

    def current(self, trainer: Trainer) -> float | None:
        """Returns the metric's value if it was produced at this very step, else None.

        Call it once at the end of an epoch: a metric that is missing then is warned of at the end.
        """
        self._missed.note(trainer)
        return current_value(trainer, self.monitor)

    def is_better(self, value: float, best: float | None) -> bool:
        """Returns whether `value` improves on `best`; a value that is not finite never does."""
        return is_better(value, best, mode=self.mode, min_delta=self.min_delta)


def current_value(trainer: Trainer, name: str) -> float | None:
    """Returns a metric's value if it was produced at this very step, else None."""
    if trainer.metric_steps.get(name) != trainer.global_step:
        return None
    return trainer.metrics[name]


def check_monitor(monitor: str, trainer: Trainer) -> None:
    """Raises `ValueError`, with the names that would work, if no epoch ends with such a metric."""
    known = trainer.epoch_metric_names
    if monitor in known:
        return
    if monitor in trainer.metric_names:
        raise ValueError(
            f"`monitor` (={monitor!r}) is published at log points, not at the end of an epoch; "
            f"{monitor.removesuffix('_step')!r} is the mean over an epoch."
        )
    if monitor in _SOMETIMES and not any(name.startswith(f"{monitor}/") for name in known):
        raise ValueError(f"`monitor` (={monitor!r}) is not published here: {_SOMETIMES[monitor]}")
    raise unknown("monitor", monitor, known)


class MissedValues:
    """Counts the ends of epochs at which a monitored metric had no value, to warn of it.

    Args:
        monitor: the metric's name.
        owner: which callback monitors it.

    Example:
        >>> from types import SimpleNamespace
        >>> from nnx_alexnet.callbacks.metric_monitor import MissedValues
        >>> missed = MissedValues("my/score", "EarlyStopping")
        >>> missed.note(SimpleNamespace(global_step=10, metric_steps={"my/score": 5}))
        >>> missed.describe()
        "`monitor` (='my/score') of EarlyStopping had no value at the end of 1 of 1 epochs."
    """

    def __init__(self, monitor: str, owner: str) -> None:
        self.monitor = monitor
        self._owner = owner
        self._num_checks = self._num_missed = 0

    def note(self, trainer: Trainer) -> None:
        """Notes the end of an epoch; one without a validation owes no metric of it."""
        produced = {n for n, step in trainer.metric_steps.items() if step == trainer.global_step}
        is_of_validation = self.monitor.startswith("val/")
        if is_of_validation and not any(name.startswith("val/") for name in produced):
            return
        self._num_checks += 1
        self._num_missed += self.monitor not in produced

    def describe(self) -> str | None:
        """Returns how often the metric had no value, None if it always had one."""
        if not self._num_missed:
            return None
        return (
            f"`monitor` (={self.monitor!r}) of {self._owner} had no value at the end of "
            f"{self._num_missed} of {self._num_checks} epochs."
        )

    def warn(self) -> None:
        """Logs a warning, unless the metric always had a value."""
        if (text := self.describe()) is not None:
            logger.warning("%s These epochs were ignored.", text)
