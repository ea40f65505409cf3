"""`LearningRateMonitor`: publishes the learning rate of optimizers that do not store it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from nnx_alexnet.callbacks.base import Callback
from nnx_alexnet.devices import usual_promotion
from nnx_alexnet.support import check_integer, check_number

if TYPE_CHECKING:
    from nnx_alexnet.data import Batch
    from nnx_alexnet.trainer import Trainer


class LearningRateMonitor(Callback):
    """Publishes `lr`, the learning rate of the newest step, at the end of every epoch.

    An optimizer wrapped in `optax.inject_hyperparams` stores its rate, and the trainer publishes
    `lr` without this callback. Other optax optimizers do not store it: pass the schedule that the
    optimizer was built with.

    Args:
        schedule: an optax schedule (from the step, from 0, to the rate) or the constant rate; None
            (the default): the rate that the optimizer stores.
        every_n_steps: publish also after every n-th optimizer step; None (the default): only at
            the ends of epochs.

    Raises:
        ValueError: if `schedule` is none of these, or `every_n_steps` neither a positive integer
            nor None; in `on_fit_start`, if there is no schedule and the optimizer does not store
            exactly one rate.

    Example:
        >>> import optax
        >>> schedule = optax.cosine_decay_schedule(1e-3, decay_steps=1000)
        >>> optimizer = optax.adam(schedule)
        >>> LearningRateMonitor(schedule, every_n_steps=100).metric_names
        ('lr',)
    """

    metric_names = ("lr",)

    def __init__(
        self,
        schedule: Callable[[int], Any] | float | None = None,
        *,
        every_n_steps: int | None = None,
    ):
        check_integer("every_n_steps", every_n_steps, also=(None,))
        if not (schedule is None or callable(schedule)):
            reason = "an optax schedule and None also work"
            check_number("schedule", schedule, "[0, inf)", reason=reason)
        self.schedule = schedule
        self.every_n_steps = every_n_steps

    @property
    def batch_period(self) -> int | None:
        """`every_n_steps`; None means never, not every step as in other callbacks."""
        return self.every_n_steps

    def on_fit_start(self, trainer: Trainer) -> None:
        """Refuses an optimizer that does not store its rate, if there is no schedule."""
        if self.schedule is not None or trainer.learning_rate() is not None:
            return
        if rates := trainer.learning_rates():
            raise ValueError(
                "`LearningRateMonitor()` publishes one rate, but this optimizer has several. The "
                f"trainer publishes them without this callback: {', '.join(rates)}. Remove the "
                "callback."
            )
        raise ValueError(
            "`LearningRateMonitor()` cannot read the learning rate of this optimizer. Either make "
            "the optimizer store it, "
            "`optax.inject_hyperparams(optax.adam)(learning_rate=schedule)`, or pass the schedule, "
            "`LearningRateMonitor(schedule)`."
        )

    def on_train_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Publishes the rate, every `every_n_steps` steps."""
        self._publish(trainer)

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        """Publishes the rate."""
        self._publish(trainer)

    def _publish(self, trainer: Trainer) -> None:
        if trainer.global_step < 1 or trainer.current_value("lr") is not None:
            return  # no step yet, or the trainer or this callback has published it
        rate = self._rate(trainer)
        if rate is not None:
            trainer.log({"lr": rate})

    def _rate(self, trainer: Trainer) -> float | None:
        if self.schedule is None:
            return trainer.learning_rate()
        if not callable(self.schedule):
            return float(self.schedule)
        # On the accelerator, this small computation would queue behind the dispatched steps.
        with usual_promotion(), jax.default_device(_cpu()), jax.transfer_guard("allow"):
            return float(self.schedule(trainer.global_step - 1))


def _cpu() -> jax.Device | None:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS excludes the CPU
        return None
