"""Several train steps in one dispatch: how many, and their batches side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import jax
import numpy as np

T = TypeVar("T")

StepsPerExecution = int | Literal["auto"]

# Enough to hide what a dispatch costs the host: 64 steps of a tiny network take it 1.5 ms.
_MOST_STEPS = 64
# Of batches that the host sends, 64 steps of ImageNet would be gigabytes, and the device would
# wait for the first of them until the last was read.
_MOST_BYTES = 64 * 2**20
# A signal, a clock and the progress bar wait for a dispatch to end: a fraction of a second.
_MOST_FLOPS = {"cpu": 20e9, "accelerator": 50e12}


def choose_steps(argument: StepsPerExecution, *, batch_bytes: int, step_flops: float = 0.0) -> int:
    """Returns the most train steps that one dispatch takes.

    Args:
        argument: `steps_per_execution` of the `Trainer`; a number is taken as it is.
        batch_bytes: what the host sends for a step.
        step_flops: what a step computes.

    Example:
        >>> from nnx_alexnet.training.steps_per_dispatch import choose_steps
        >>> choose_steps("auto", batch_bytes=2**23)
        8
        >>> choose_steps(16, batch_bytes=2**23)
        16
    """
    if argument != "auto":
        return argument
    most_flops = _MOST_FLOPS["cpu" if jax.default_backend() == "cpu" else "accelerator"]
    steps = min(_MOST_STEPS, _MOST_BYTES / max(1, batch_bytes), most_flops / max(1.0, step_flops))
    return max(1, int(steps))


def next_multiple(step: int, period: int) -> int:
    """Returns the first multiple of `period` after `step`.

    Example:
        >>> from nnx_alexnet.training.steps_per_dispatch import next_multiple
        >>> next_multiple(50, 50), next_multiple(51, 50)
        (100, 100)
    """
    return (step // period + 1) * period


class Pushback(Generic[T]):
    """An iterator that takes items back, to give them again.

    Args:
        items: what it gives first.

    Example:
        >>> from nnx_alexnet.training.steps_per_dispatch import Pushback
        >>> items = Pushback([1, 2, 3])
        >>> first = next(items), next(items)
        >>> items.push(first)
        >>> list(items)
        [1, 2, 3]
    """

    def __init__(self, items: Iterator[T] | Sequence[T]) -> None:
        self._items = iter(items)
        self._back: deque[T] = deque()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return self._back.popleft() if self._back else next(self._items)

    def push(self, items: Sequence[T]) -> None:
        """Takes items back, which come next, in their order."""
        self._back.extendleft(reversed(items))


def is_ready(array: Any) -> bool:
    """Whether the device has computed an array; it is not waited for."""
    return bool(array.is_ready())  # jax.Array has it, its stub does not


def stacked(batches: Sequence[Mapping[str, Any]], length: int) -> dict[str, np.ndarray[Any, Any]]:
    """Returns batches side by side, `[length, B, ...]`; the rows after the last are zeros.

    There are two rows at least: for one alone XLA takes the loop's slices away, and the
    program that is left may round differently.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.training.steps_per_dispatch import stacked
        >>> stacked([{"index": np.array([4, 2])}], 2)["index"].tolist()
        [[4, 2], [0, 0]]
    """
    group = {}
    for name, first in batches[0].items():
        group[name] = np.zeros((max(2, length), *first.shape), first.dtype)
        for row, batch in zip(group[name], batches, strict=False):
            row[...] = batch[name]
    return group
