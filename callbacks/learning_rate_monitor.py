"""`LearningRateMonitor`: publish the learning rate of optimizers that do not tell it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from nnx_alexnet.callbacks.base import Callback
from nnx_alexnet.support import check_positive

if TYPE_CHECKING:
    from nnx_alexnet.data import Batch
    from nnx_alexnet.trainer import Trainer


class LearningRateMonitor(Callback):
    """Publishes `lr`, the rate of the newest finished step, at every epoch's end.

    An optimizer wrapped in `optax.inject_hyperparams` holds its rate in its state; the trainer
    then publishes `lr` by itself. Any other optax optimizer hides the rate, so give the schedule
    that it was built with here.

    Args:
        schedule: an optax schedule (step, from 0, to rate) or the constant rate; None: the
            optimizer tells it.
        every_n_steps: publish also after every n-th optimizer step; None: at epochs' ends only.

    Raises:
        ValueError: when a fit starts, if there is neither a schedule nor an optimizer that tells
            one rate.

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
        check_positive(every_n_steps=every_n_steps)
        self.schedule = schedule
        self.every_n_steps = every_n_steps

    @property
    def batch_period(self) -> int | None:
        """`every_n_steps`, where None is never (not each step, as in other callbacks)."""
        return self.every_n_steps

    def on_fit_start(self, trainer: Trainer) -> None:
        """Refuses an optimizer that hides its rate, if no schedule was given."""
        if self.schedule is not None or trainer.learning_rate() is not None:
            return
        if rates := trainer.learning_rates():
            raise ValueError(
                "`LearningRateMonitor()` publishes one rate, but this optimizer has several. The "
                f"trainer publishes them without this callback: {', '.join(rates)}. Leave the "
                "callback out."
            )
        raise ValueError(
            "`LearningRateMonitor()` cannot see the learning rate of this optimizer. Either make "
            "the optimizer store it, "
            "`optax.inject_hyperparams(optax.adam)(learning_rate=schedule)`, or pass the schedule "
            "here, `LearningRateMonitor(schedule)`."
        )

    def on_train_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Publishes the rate; called every `every_n_steps` steps."""
        self._publish(trainer)

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        """Publishes the rate."""
        self._publish(trainer)

    def _publish(self, trainer: Trainer) -> None:
        if trainer.global_step < 1 or trainer.metric_steps.get("lr") == trainer.global_step:
            return  # no step yet, or published already by the trainer or by this callback
        rate = self._rate(trainer)
        if rate is not None:
            trainer.log({"lr": rate})

    def _rate(self, trainer: Trainer) -> float | None:
        if self.schedule is None:
            return trainer.learning_rate()
        if not callable(self.schedule):
            return float(self.schedule)
        # On the accelerator this small sum would queue behind the steps in flight.
        with jax.default_device(_cpu()), jax.transfer_guard("allow"):
            return float(self.schedule(trainer.global_step - 1))


def _cpu() -> jax.Device | None:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        return None
