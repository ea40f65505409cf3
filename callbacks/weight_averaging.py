"""`EMA` and `SWA`: averages of the weights over the steps, used wherever the model is evaluated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from nnx_alexnet.callbacks.base import Callback, last_step
from nnx_alexnet.support import check_bools, check_integer, check_number, logger

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer


class WeightAveraging(Callback):
    """Base class of callbacks that declare an average of the weights.

    The trainer keeps the average as a part of the training state, and updates it inside the
    compiled step, after the optimizer: `average += weight * (value - average)`. It covers all
    parameters and the BatchNorm statistics, as in timm. Other variables of the model, such as
    dropout keys, are not averaged. Arrays in 16 bits are averaged in 32 bits. The average takes as
    much memory as the model, and a checkpoint grows by that size.

    The average is used for the validation during `fit`, and therefore for the metrics that rank
    checkpoints and stop the run. Afterwards, the model holds it, and `load_checkpoint` loads it. A
    resumed run continues from the weights that are trained. During `fit`, `trainer.model`,
    `trainer.parameters()` and `trainer.gradients(batch)` also refer to these.

    A subclass overrides `weight`.

    Example:
        >>> from nnx_alexnet.callbacks import WeightAveraging
        >>> class Mean(WeightAveraging):
        ...     def weight(self, step, steps_per_epoch):
        ...         return 1 / step
        >>> callbacks = [Mean()]
    """

    def check(self, steps_per_epoch: int | None) -> None:
        """Raises a `ValueError` if the average cannot be computed in a run.

        Args:
            steps_per_epoch: the number of optimizer steps per epoch; None if it is unknown.
        """

    def weight(self, step: jax.Array, steps_per_epoch: int | None) -> jax.Array:
        """Returns the weight of the newest values in the average; traced once and compiled.

        Args:
            step: the number of optimizer steps, counted after the step, `int32[]`. Steps that
                `check_finite` skips do not count.
            steps_per_epoch: as for `check`.

        Returns:
            A number from 0 (the average stays as it is) to 1 (the average becomes the newest
            values).
        """
        raise TypeError(f"{type(self).__name__} must override `weight(step, steps_per_epoch)`.")


class EMA(WeightAveraging):
    """Evaluates with an exponential moving average of the weights.

    After every n-th step, `average = d * average + (1 - d) * value` (Polyak & Juditsky 1992,
    https://doi.org/10.1137/0330046; in the form of `tf.train.ExponentialMovingAverage`).

    See `WeightAveraging` for what is averaged, and where the average is used.

    Args:
        decay: the factor `d` (default 0.999, an average over about 1,000 updates); at least 0 and
            less than 1.
        warmup: whether `d` is at most `(1 + t) / (10 + t)` after `t` earlier updates, so that the
            initial weights have no influence on a short run (default True).
        every_n_steps: the period of the updates in optimizer steps (default 1).

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> from nnx_alexnet.callbacks import EMA
        >>> EMA(0.99)
        EMA(decay=0.99)
        >>> [f"{EMA(0.5).weight(step, None):.3f}" for step in (1, 2, 20)]
        ['0.900', '0.818', '0.500']
    """

    def __init__(self, decay: float = 0.999, *, warmup: bool = True, every_n_steps: int = 1):
        check_number("decay", decay, "[0, 1)")
        check_bools(warmup=warmup)
        check_integer("every_n_steps", every_n_steps)
        self.decay = decay
        self.warmup = warmup
        self.every_n_steps: int = every_n_steps

    def weight(self, step: jax.Array, steps_per_epoch: int | None) -> jax.Array:
        """Returns `1 - d` after every n-th step, else 0."""
        newest = jnp.float32(1 - self.decay)
        if self.warmup:
            newest = jnp.maximum(newest, 9 / (9 + step // self.every_n_steps))
        return jnp.where(step % self.every_n_steps == 0, newest, 0)


class SWA(WeightAveraging):
    """Evaluates with the mean of the weights at the ends of the last epochs.

    Stochastic weight averaging (Izmailov et al. 2018, https://arxiv.org/abs/1803.05407): the mean
    of the weights after `start_epoch` epochs, and after each further epoch. Until then, the run is
    evaluated with the weights that are trained. The callback does not change the learning rate; the
    paper keeps it constant and high, or lets it rise and fall between two updates.

    See `WeightAveraging` for where the mean is used. The BatchNorm statistics are averaged like the
    parameters. The paper instead computes them anew for the averaged parameters, in one more pass
    over the training data.

    Args:
        start_epoch: the number of epochs after which the weights are first part of the mean; 1 or
            more. Pass either this or `start_step`.
        start_step: the number of optimizer steps after which they are; 1 or more.
        every_n_epochs: the period of the updates (default 1, unless `every_n_steps` is given).
        every_n_steps: instead, the period in optimizer steps.

    Raises:
        ValueError: an argument is out of range or missing, or two exclude each other. In `fit`:
            periods in epochs need training data with a known number of batches.

    Example:
        >>> from nnx_alexnet.callbacks import SWA
        >>> SWA(start_epoch=15)
        SWA(start_epoch=15)
        >>> swa = SWA(start_epoch=2)
        >>> [f"{swa.weight(step, 10):.2f}" for step in (19, 20, 21, 30, 40)]
        ['1.00', '1.00', '0.00', '0.50', '0.33']
    """

    def __init__(
        self,
        start_epoch: int | None = None,
        *,
        start_step: int | None = None,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
    ):
        if (start_epoch is None) == (start_step is None):
            raise ValueError(
                f"Pass either `start_epoch` (={start_epoch!r}) or `start_step` (={start_step!r}), "
                "such as SWA(start_epoch=15)."
            )
        if every_n_epochs is not None and every_n_steps is not None:
            raise ValueError(
                f"`every_n_epochs` (={every_n_epochs!r}) and `every_n_steps` (={every_n_steps!r}) "
                "exclude each other."
            )
        check_integer("start_epoch", start_epoch, also=(None,))
        check_integer("start_step", start_step, also=(None,))
        check_integer("every_n_epochs", every_n_epochs, also=(None,))
        check_integer("every_n_steps", every_n_steps, also=(None,))
        self.start_epoch = start_epoch
        self.start_step = start_step
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps

    def check(self, steps_per_epoch: int | None) -> None:
        """Refuses periods in epochs if the number of steps per epoch is unknown."""
        counts_epochs = self.start_step is None or self.every_n_steps is None
        if counts_epochs and steps_per_epoch is None:
            raise ValueError(
                "`callbacks` holds an SWA that counts epochs, but the number of steps per epoch of "
                "these training data is unknown. Pass `start_step` and `every_n_steps`."
            )

    def on_train_start(self, trainer: Trainer) -> None:
        """Warns if the run ends before the first weights would be part of the mean."""
        end = last_step(trainer)
        if end is not None and self._start(trainer.steps_per_epoch) > end:
            logger.warning(
                "`%r` averages nothing, because the run ends after %d steps. The start must be "
                "earlier.", self, end,
            )  # fmt: skip

    def _start(self, steps_per_epoch: int | None) -> int:
        """Returns the step whose weights are the first of the mean."""
        per_epoch = 1 if steps_per_epoch is None else steps_per_epoch  # `check` has accepted it
        return (self.start_epoch or 0) * per_epoch if self.start_step is None else self.start_step

    def weight(self, step: jax.Array, steps_per_epoch: int | None) -> jax.Array:
        """Returns 1 until the start, then `1 / k` for the k-th weights of the mean, else 0."""
        per_epoch = 1 if steps_per_epoch is None else steps_per_epoch
        start = self._start(steps_per_epoch)
        period = self.every_n_steps or (self.every_n_epochs or 1) * per_epoch
        number = 1 + (step - start) // period
        is_due = (step - start) % period == 0
        return jnp.where(step <= start, 1, jnp.where(is_due, 1 / jnp.maximum(number, 1), 0))
