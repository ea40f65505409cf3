"""`ReduceLROnPlateau`: lowers the learning rate when a metric stops improving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnx_alexnet.callbacks.metric_monitor import MetricMonitor
from nnx_alexnet.support import Mode, check_integer, check_number, format_count, logger

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer


class ReduceLROnPlateau(MetricMonitor):
    """Lowers the learning rate when a metric has stopped improving.

    The metric is checked at the end of each epoch that produced it. The optimizer must store its
    rate, as those of `create_optimizer` and of `optax.inject_hyperparams` do. The new rate is part
    of the optimizer's state, and so of every checkpoint. A schedule continues, multiplied by the
    factors so far, if it is one of `create_optimizer` or in a `ScalableSchedule`. If several parts
    of the optimizer have a rate, all are lowered.

    Args:
        monitor: the metric's name (default: `"val/loss"`). With several validation sets, name that
            of one of them, such as `"val/clean/loss"`.
        mode: `"min"` (the default) if smaller is better, `"max"` if larger is. `"min"` is refused
            for an accuracy, F1 and other scores.
        min_delta: an improvement must exceed this; 0 (the default) or more.
        factor: the new rate is the old one times this (default 0.1); between 0 and 1.
        patience: lower the rate after this many checks in a row without improvement, as Keras
            counts them (default 2); 1 or more. torch's `patience` is one less.
        min_lr: the rate is not lowered below this; 0 (the default) or more.
        cooldown: after a reduction, do not count this many checks without improvement; 0 (the
            default) or more.

    Attributes:
        cooldown_left: the number of checks that the cooldown still lasts.

    Raises:
        ValueError: if an argument is out of range; in `setup` of a fit, if the fit cannot publish
            the metric; in `on_fit_start`, if the rate cannot be changed.

    Example:
        >>> from nnx_alexnet.callbacks import ReduceLROnPlateau
        >>> ReduceLROnPlateau("val/accuracy", mode="max", factor=0.5, patience=3).factor
        0.5
    """

    def __init__(
        self,
        monitor: str = "val/loss",
        *,
        mode: Mode = "min",
        min_delta: float = 0.0,
        factor: float = 0.1,
        patience: int = 2,
        min_lr: float = 0.0,
        cooldown: int = 0,
    ):
        super().__init__(monitor, mode=mode, min_delta=min_delta)
        check_integer("patience", patience)
        check_integer("cooldown", cooldown, minimum=0)
        check_number("factor", factor, "(0, 1)")
        check_number("min_lr", min_lr, "[0, inf)")
        self.factor = factor
        self.patience = patience
        self.min_lr = min_lr
        self.cooldown = cooldown
        self.cooldown_left = 0

    def state_dict(self) -> dict[str, Any]:
        """Returns the best value, its step, and the two counts; the optimizer holds the rate."""
        return {**super().state_dict(), "cooldown_left": self.cooldown_left}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        super().load_state_dict(state)
        self.cooldown_left = state["cooldown_left"]

    def on_fit_start(self, trainer: Trainer) -> None:
        """Forgets an earlier fit, and refuses an optimizer whose rate cannot be changed."""
        super().on_fit_start(trainer)
        self.cooldown_left = 0
        if not trainer.learning_rates():
            raise ValueError(
                "`ReduceLROnPlateau` cannot change the learning rate of this optimizer, which does "
                "not store it. Use create_optimizer, or "
                "optax.inject_hyperparams(optax.adam)(1e-3)."
            )
        trainer.scale_learning_rates(dict.fromkeys(trainer.learning_rates(), 1.0))

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        """Checks the metric, if this epoch produced it, and lowers the rate if that is due."""
        value = self.current(trainer)
        if value is None:
            return
        self.check(value, trainer)
        if self.cooldown_left > 0:
            self.cooldown_left -= 1
            self.num_bad_checks = 0
        if self.num_bad_checks >= self.patience:
            self._reduce(trainer)
            self.cooldown_left, self.num_bad_checks = self.cooldown, 0

    def _reduce(self, trainer: Trainer) -> None:
        rates = trainer.learning_rates()
        factors = {
            name: max(self.factor, self.min_lr / rate)
            for name, rate in rates.items()
            if rate > self.min_lr
        }
        if not factors:
            return
        trainer.scale_learning_rates(factors)
        changes = [
            f"{name} from {rates[name]:.3g} to {rates[name] * factor:.3g}"
            for name, factor in factors.items()
        ]
        checks = format_count(self.num_bad_checks, "check")
        logger.info(
            "%s has not improved in %s: lowering %s after step %d.",
            self.monitor, checks, ", ".join(changes), trainer.global_step,
        )  # fmt: skip
