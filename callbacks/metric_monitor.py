"""`MetricMonitor`: the base class of callbacks that monitor one metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnx_alexnet.callbacks.base import Callback, Stage
from nnx_alexnet.support import Mode, check_mode, check_number, is_better, logger, unknown

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer

# Metrics that only some optimizers and devices have, and why they may be missing.
_SOMETIMES = {
    "lr": (
        "the optimizer does not store its learning rate; "
        "optax.inject_hyperparams(optax.adam)(1e-3) does."
    ),
    "perf/mfu": "the peak of the device is unknown, or the model does not compute in 16 bits.",
    "perf/peak_memory_bytes": "the device does not report how much memory is in use.",
}

# The metrics of the tasks of this package whose larger values are better.
_SCORES = frozenset({"accuracy", "top_5_accuracy", "precision", "recall", "f1", "auroc"})


class MetricMonitor(Callback):
    """Base class of callbacks that monitor one metric and remember its best value.

    Args:
        monitor: the metric's name, such as `"val/loss"`.
        mode: `"min"` if smaller is better, `"max"` if larger is.
        min_delta: an improvement must exceed this; 0 or more.

    Attributes:
        best: the best value of this fit, None before the first finite one.
        best_step: the optimizer step of the best value.
        num_bad_checks: the number of checks in a row without improvement.

    Raises:
        ValueError: if `mode` is unknown or `min_delta` negative; in `setup` of a fit, if the fit
            cannot publish the metric, or if `mode` is `"min"` for an accuracy or another score.

    Example:
        >>> monitor = MetricMonitor("val/accuracy", mode="max", min_delta=0.01)
        >>> monitor.is_better(0.92, 0.9), monitor.is_better(0.905, 0.9)
        (True, False)
    """

    def __init__(self, monitor: str, *, mode: Mode = "min", min_delta: float = 0.0):
        check_mode(mode)
        check_number("min_delta", min_delta, "[0, inf)")
        self.monitor = monitor
        self.mode = mode
        self.min_delta = min_delta
        self.best: float | None = None
        self.best_step: int | None = None
        self.num_bad_checks = 0
        self._missed = MissedValues(monitor, type(self).__name__)
        self._seen_step: int | None = None  # of the newest call of `current`

    @property
    def state_key(self) -> str:
        """The class and the metric, so that one run can monitor several metrics."""
        return f"{type(self).__qualname__}({self.monitor})"

    def state_dict(self) -> dict[str, Any]:
        """Returns the best value, its step, and the number of checks without improvement."""
        names = ("best", "best_step", "num_bad_checks")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.best = state["best"]
        self.best_step = state["best_step"]
        self.num_bad_checks = state["num_bad_checks"]

    def setup(self, trainer: Trainer, stage: Stage) -> None:
        """Refuses a metric that this fit cannot publish, and a score whose lowest value is best."""
        if stage == "fit":
            check_monitor(self.monitor, trainer)
            check_direction(self.monitor, self.mode)

    def on_fit_start(self, trainer: Trainer) -> None:
        """Forgets an earlier fit."""
        self.best = None
        self.best_step = None
        self.num_bad_checks = 0
        self._seen_step = None
        self._missed = MissedValues(self.monitor, type(self).__name__)

    def on_train_end(self, trainer: Trainer) -> None:
        """Warns if some epochs ended without the metric."""
        self._missed.warn()

    def current(self, trainer: Trainer) -> float | None:
        """Returns the value of the metric if the current step produced it, else None.

        Call it once at the end of each epoch, and of a validation within an epoch: it also counts
        those without a value, which `on_train_end` reports. A value is returned only once.
        """
        if self._seen_step == trainer.global_step:
            return None
        self._seen_step = trainer.global_step
        self._missed.note(trainer)
        return trainer.current_value(self.monitor)

    def check(self, value: float, trainer: Trainer) -> None:
        """Keeps a value if it is the best so far, and counts it if it is not."""
        if self.is_better(value, self.best):
            self.best, self.best_step = value, trainer.global_step
            self.num_bad_checks = 0
        else:
            self.num_bad_checks += 1

    def is_better(self, value: float, best: float | None) -> bool:
        """Returns whether `value` improves on `best`; only a finite value does."""
        return is_better(value, best, mode=self.mode, min_delta=self.min_delta)


def check_monitor(monitor: str, trainer: Trainer) -> None:
    """Raises `ValueError` if the ends of epochs never publish a metric; lists those that work."""
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
    hint = "A callback that logs a metric of its own lists the name in `metric_names`."
    raise ValueError(f"{unknown('monitor', monitor, known)} {hint}")


def check_direction(monitor: str, mode: Mode) -> None:
    """Raises `ValueError` if the lowest value of an accuracy, F1, ... would be the best one.

    Example:
        >>> from nnx_alexnet.callbacks.metric_monitor import check_direction
        >>> check_direction("val/f1/cat", "min")
        Traceback (most recent call last):
        ValueError: `mode` (='min') would keep the lowest 'val/f1/cat'. Pass mode="max".
    """
    parts = monitor.split("/")
    if mode == "min" and parts[-1] != "loss" and not _SCORES.isdisjoint(parts):
        raise ValueError(f'`mode` (={mode!r}) would keep the lowest {monitor!r}. Pass mode="max".')


class MissedValues:
    """Counts the epochs that end without a value of the monitored metric.

    Args:
        monitor: the metric's name.
        owner: the callback that monitors it.

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
        """Counts the end of an epoch; for a `val/` metric, only of one with a validation."""
        produced = {n for n, step in trainer.metric_steps.items() if step == trainer.global_step}
        is_of_validation = self.monitor.startswith("val/")
        if is_of_validation and not any(name.startswith("val/") for name in produced):
            return
        self._num_checks += 1
        self._num_missed += self.monitor not in produced

    def describe(self) -> str | None:
        """Returns in how many epochs the metric had no value, None if in none."""
        if not self._num_missed:
            return None
        return (
            f"`monitor` (={self.monitor!r}) of {self._owner} had no value at the end of "
            f"{self._num_missed} of {self._num_checks} epochs."
        )

    def warn(self) -> None:
        """Logs a warning if the metric had no value in some epochs."""
        if (text := self.describe()) is not None:
            logger.warning("%s These epochs were ignored.", text)
