"""The learning rate range test: trains a copy of the model while the rate rises."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

from nnx_alexnet.callbacks import Callback
from nnx_alexnet.data import as_data_module
from nnx_alexnet.support import check_integer, check_number, shown
from nnx_alexnet.task import Task
from nnx_alexnet.trainer import Trainer

_DECAY = 0.98  # of the moving average of the losses, as in fastai
_DIVERGED = 4.0  # times the lowest average loss
_FIRST, _LAST = 10, 5  # steps at both ends whose slope is not trusted


class LearningRateSearch(NamedTuple):
    """The result of a learning rate range test.

    Attributes:
        rates: the learning rate of each step.
        losses: the training loss of each step.
        smoothed: the moving averages of the losses, without bias.
        suggestion: the rate at which the average falls fastest; None if it never falls.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None

    def __repr__(self) -> str:
        return f"LearningRateSearch(suggestion={self.suggestion}, {len(self.rates)} steps)"

    def plot(self) -> Any:
        """Draws the average loss over the learning rate, and marks the suggestion.

        Returns:
            The `matplotlib.axes.Axes`; call `plt.show()` or `plt.savefig("rates.png")` afterwards.
        """
        import matplotlib.pyplot as plt

        _, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        axes.plot(self.rates, self.losses, color="C0", alpha=0.25, label="loss")
        axes.plot(self.rates, self.smoothed, color="C0", label="average")
        if self.suggestion is not None:
            rate = self.suggestion
            axes.axvline(rate, color="C1", linestyle="--", label=f"steepest at {rate:.2g}")
        axes.set_xscale("log")
        # The losses of the last steps may be many times larger than all others.
        low, high = min(self.smoothed), max(self.smoothed[: max(1, len(self.smoothed) // 2)])
        axes.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low) or 1.0)
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(frameon=False)
        return axes


def find_learning_rate(
    model: nnx.Module,
    data: Any,
    *,
    task: Task | None = None,
    optimizer: Callable[..., optax.GradientTransformation] = optax.adam,
    lowest: float = 1e-7,
    highest: float = 1.0,
    num_steps: int = 100,
    seed: int = 0,
) -> LearningRateSearch:
    """Trains a copy of a model for some steps while the learning rate rises exponentially.

    The test ends early when the loss is not finite, or four times its lowest average. The model
    itself does not change, and nothing is written. A good first rate is the suggestion, or one
    tenth of the rate at which the loss starts to rise.

    Args:
        model: the model; its parameters are the start of the test.
        data: as for `Trainer`; only the train split is used.
        task: as for `Trainer` (default `Classification()`).
        optimizer: builds the optimizer from a learning rate, its first argument (default
            `optax.adam`). The rate is a JAX array, which `create_optimizer` does not accept.
        lowest: the rate of the first step (default 1e-7).
        highest: the rate of the last step (default 1).
        num_steps: the number of steps, at least 20 (default 100).
        seed: the seed of the data order (default 0).

    Returns:
        The rates and losses, and a suggestion.

    Raises:
        TypeError: `optimizer` is not a function of a learning rate.
        ValueError: a number is out of its range, or model, data and task do not fit together.

    Example:
        >>> import numpy as np
        >>> from flax import nnx
        >>> from nnx_alexnet import DataModule
        >>> from nnx_alexnet.tuning import find_learning_rate
        >>> images = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
        >>> data = DataModule((images, (images[:, 0] > 0).astype(np.int32)), batch_size=16)
        >>> found = find_learning_rate(nnx.Linear(4, 2, rngs=nnx.Rngs(0)), data, num_steps=40)
        >>> len(found.rates), f"{found.rates[0]:.0e}", 1e-6 < found.suggestion < 1
        (40, '1e-07', True)

    Source: Smith 2017, "Cyclical Learning Rates for Training Neural Networks",
    https://arxiv.org/abs/1506.01186, section 3.3; with the moving average and the limit of fastai.
    """
    check_number("lowest", lowest, "(0, inf)")
    check_number("highest", highest, "(0, inf)")
    if not lowest < highest:
        raise ValueError(f"`lowest` (={lowest}) must be less than `highest` (={highest}).")
    check_integer("num_steps", num_steps, minimum=20)
    _check_builder(optimizer)
    growth = math.log(highest / lowest) / (num_steps - 1)

    def rate(step: Any) -> Any:
        return lowest * np.float32(math.e) ** (np.float32(growth) * step)

    def build(learning_rate: Any) -> optax.GradientTransformation:
        return optimizer(learning_rate)

    recorder = _Recorder()
    train_only = copy.copy(as_data_module(data))
    train_only.val_sets = {}
    trainer = Trainer(
        nnx.clone(model),
        train_only,
        task=task,
        optimizer=optax.inject_hyperparams(build)(learning_rate=rate),
        callbacks=recorder,
        max_steps=num_steps,
        seed=seed,
        log_dir=None,
        log_every_n_steps=1,
        check_finite=False,
        progress_bar=False,
    )
    trainer.fit()
    losses = recorder.losses
    rates = [lowest * math.exp(growth * step) for step in range(len(losses))]
    smoothed = averages(losses)
    return LearningRateSearch(rates, losses, smoothed, steepest(rates, smoothed))


def _check_builder(optimizer: Any) -> None:
    """Refuses an optimizer, and a function that cannot build one from an array."""
    wanted = (
        "a function that builds an optimizer from a learning rate, such as optax.adam or "
        "functools.partial(optax.sgd, momentum=0.9)"
    )
    if not callable(optimizer):
        raise TypeError(f"`optimizer` (={shown(optimizer)}) must be {wanted}.")

    def build(rate: Any) -> Any:
        optimizer(rate)
        return rate

    try:
        jax.eval_shape(build, jax.ShapeDtypeStruct((), np.float32))
    except Exception as error:  # whatever a function of the user raises
        raise TypeError(
            f"`optimizer` must be {wanted}. The rate is a JAX array, which create_optimizer does "
            f"not accept. It raised {type(error).__name__}: {error}"
        ) from error


class _Recorder(Callback):
    """Collects the loss of each step, and stops a run that diverges."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, trainer: Trainer, metrics: Mapping[str, float], step: int) -> None:
        """Adds the loss of a step, unless the run has diverged."""
        if "train/loss_step" not in metrics or trainer.stop_reason is not None:
            return
        found = averages([*self.losses, metrics["train/loss_step"]])
        if not math.isfinite(found[-1]) or found[-1] > _DIVERGED * min(found):
            trainer.stop("the loss of the range test has diverged")
        if math.isfinite(found[-1]):
            self.losses.append(metrics["train/loss_step"])


def averages(losses: list[float]) -> list[float]:
    """Returns exponential moving averages, each divided by the sum of its weights.

    Example:
        >>> from nnx_alexnet.tuning.learning_rate import averages
        >>> [round(value, 3) for value in averages([1.0, 2.0])]
        [1.0, 1.505]
    """
    found, average = [], 0.0
    for number, loss in enumerate(losses, start=1):
        average = _DECAY * average + (1 - _DECAY) * loss
        found.append(average / (1 - _DECAY**number))
    return found


def steepest(rates: list[float], losses: list[float]) -> float | None:
    """Returns the rate at which losses fall fastest over the logarithm of the rate.

    The first ten steps and the last five are left out.

    Example:
        >>> from nnx_alexnet.tuning.learning_rate import steepest
        >>> rates = [10.0**n for n in range(-20, 0)]
        >>> losses = [1.0] * 12 + [0.9, 0.5, 0.4, 0.4, 0.4, 0.4, 2.0, 9.0]
        >>> f"{steepest(rates, losses):.0e}"
        '1e-08'
    """
    if len(losses) < _FIRST + _LAST + 2:
        return None
    slopes = np.gradient(np.array(losses), np.log(rates))[_FIRST:-_LAST]
    lowest = int(np.argmin(slopes))
    return float(rates[_FIRST + lowest]) if slopes[lowest] < 0 else None
