"""`EarlyStopping`: ends training when a metric stops improving, is good enough, or is NaN."""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING

from nnx_alexnet.callbacks.metric_monitor import MetricMonitor
from nnx_alexnet.support import Mode, check_bools, check_integer, format_count

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer


class StopReason(enum.Enum):
    """Why `EarlyStopping` stopped a fit."""

    PATIENCE = "patience"
    """The metric did not improve in `patience` checks."""
    THRESHOLD = "threshold"
    """The metric reached `threshold`."""
    DIVERGENCE = "divergence"
    """The metric was worse than `divergence_threshold`."""
    NOT_FINITE = "not finite"
    """The metric was NaN or infinite."""


class EarlyStopping(MetricMonitor):
    """Stops training when a metric has stopped improving.

    The metric is checked at the end of each epoch that produced it, and after each validation
    within an epoch: with a validation every second epoch, `patience=3` spans six epochs. On resume,
    the number of checks without improvement and the best value are those of the checkpoint; the
    arguments are those in the code.

    Args:
        monitor: the metric's name (default: `"val/loss"`). With several validation sets, name that
            of one of them, such as `"val/clean/loss"`.
        mode: `"min"` (the default) if smaller is better, `"max"` if larger is. `"min"` is refused
            for an accuracy, F1 and other scores.
        min_delta: an improvement must exceed this; 0 (the default) or more.
        patience: stop after this many checks in a row without improvement (default 3); 1 or more.
        threshold: stop as soon as the metric is at least this good; None (the default): never.
        check_finite: whether to stop as soon as the metric is NaN or infinite (default True).
            Otherwise, such a value counts as no improvement.
        divergence_threshold: stop as soon as the metric is worse than this; None (the default):
            never.
        restore_best: whether the model ends with the weights of the best value, whatever ended
            `fit`, unless an exception did (default False). The last checkpoint and a resumed run
            keep the last weights. Each improvement copies the model to the memory of the host, and
            each checkpoint grows by the size of the model; no folder is needed.

    Attributes:
        stop_reason: why this callback stopped training; None if it did not.
        stopped_step: the optimizer step at which it stopped training; None if it did not.

    Raises:
        TypeError: if `restore_best` is not a bool.
        ValueError: if an argument is out of range; in `setup` of a fit, if the fit cannot publish
            the metric.

    Example:
        >>> stopping = EarlyStopping("val/accuracy", mode="max", patience=5, threshold=0.99)
        >>> stopping.stop_reason is None
        True
    """

    priority = 50  # after the callbacks that publish metrics

    def __init__(
        self,
        monitor: str = "val/loss",
        *,
        mode: Mode = "min",
        min_delta: float = 0.0,
        patience: int = 3,
        threshold: float | None = None,
        check_finite: bool = True,
        divergence_threshold: float | None = None,
        restore_best: bool = False,
    ):
        super().__init__(monitor, mode=mode, min_delta=min_delta)
        check_integer("patience", patience)
        limits = {"threshold": threshold, "divergence_threshold": divergence_threshold}
        for name, limit in limits.items():
            is_number = isinstance(limit, int | float) and not isinstance(limit, bool)
            if limit is not None and (not is_number or math.isnan(limit)):
                raise ValueError(f"`{name}` (={limit!r}) must be a number or None.")
        check_bools(check_finite=check_finite, restore_best=restore_best)
        self.patience = patience
        self.threshold = threshold
        self.check_finite = check_finite
        self.divergence_threshold = divergence_threshold
        self.restore_best = restore_best
        self.stop_reason: StopReason | None = None
        self.stopped_step: int | None = None

    def on_fit_start(self, trainer: Trainer) -> None:
        """Forgets an earlier fit."""
        super().on_fit_start(trainer)
        self.stop_reason = None
        self.stopped_step = None

    def on_validation_end(self, trainer: Trainer) -> None:
        """Checks the metric, if a validation within an epoch produced it."""
        if trainer.is_validating_within_epoch and trainer.current_value(self.monitor) is not None:
            self.on_train_epoch_end(trainer)

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        """Checks the metric, if this epoch produced it."""
        value = self.current(trainer)
        if value is None:
            return
        if self.check_finite and not math.isfinite(value):
            self._stop(trainer, StopReason.NOT_FINITE, f"is {value}")
            return
        self.check(value, trainer)
        if self._reached_threshold(value):
            self._stop(
                trainer,
                StopReason.THRESHOLD,
                f"is {value:.6g} and has reached the threshold {self.threshold:.6g}",
            )
        elif self._diverged(value):
            self._stop(
                trainer,
                StopReason.DIVERGENCE,
                f"is {value:.6g}, worse than the divergence threshold "
                f"{self.divergence_threshold:.6g}",
            )
        elif self.num_bad_checks >= self.patience:
            best = "never finite"
            if self.best is not None:
                best = f"best {self.best:.6g} at step {self.best_step}"
            self._stop(
                trainer,
                StopReason.PATIENCE,
                f"has not improved in {format_count(self.num_bad_checks, 'check')} ({best})",
            )

    def _reached_threshold(self, value: float) -> bool:
        if self.threshold is None:
            return False
        return value <= self.threshold if self.mode == "min" else value >= self.threshold

    def _diverged(self, value: float) -> bool:
        limit = self.divergence_threshold
        if limit is None:
            return False
        return value > limit if self.mode == "min" else value < limit

    def _stop(self, trainer: Trainer, reason: StopReason, text: str) -> None:
        self.stop_reason = reason
        self.stopped_step = trainer.global_step
        trainer.stop(f"{self.monitor} {text}")
