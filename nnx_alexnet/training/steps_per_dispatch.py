"""Chooses how many train steps one dispatch has, and stacks their batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import jax
import numpy as np

T = TypeVar("T")

StepsPerExecution = int | Literal["auto"]

# Enough to hide the host's cost of a dispatch: 64 steps of a tiny network take 1.5 ms.
_MAX_STEPS = 64
# If the host sends the batches, those of 64 steps of ImageNet would be gigabytes, and the device
# would have to wait until the last of them was read.
_MAX_BYTES = 64 * 2**20
# Signals, clocks and the progress bar wait until a dispatch ends: this limits the wait to a
# fraction of a second.
_MAX_FLOPS = {"cpu": 20e9, "accelerator": 50e12}


def choose_steps(argument: StepsPerExecution, *, batch_bytes: int, step_flops: float = 0.0) -> int:
    """Returns the maximum number of train steps in one dispatch.

    Args:
        argument: `steps_per_execution` of the `Trainer`; a number is returned unchanged.
        batch_bytes: the number of bytes that the host sends per step.
        step_flops: the FLOPs of a step on one device (default 0).

    Example:
        >>> from nnx_alexnet.training.steps_per_dispatch import choose_steps
        >>> choose_steps("auto", batch_bytes=2**23)
        8
        >>> choose_steps(16, batch_bytes=2**23)
        16
    """
    if argument != "auto":
        return argument
    most_flops = _MAX_FLOPS["cpu" if jax.default_backend() == "cpu" else "accelerator"]
    steps = min(_MAX_STEPS, _MAX_BYTES / max(1, batch_bytes), most_flops / max(1.0, step_flops))
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
    """An iterator that accepts items back and returns them again.

    Args:
        items: the items.

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
        """Puts items back, to be returned next in their order."""
        self._back.extendleft(reversed(items))


def is_ready(array: Any) -> bool:
    """Returns, without waiting, whether the device has computed an array."""
    return bool(array.is_ready())  # the stub of jax.Array lacks the method


def stacked(batches: Sequence[Mapping[str, Any]], length: int) -> dict[str, Any]:
    """Stacks batches to `[length, B, ...]`; the rows after the last batch are zeros.

    There are at least two rows: for a single one, XLA removes the loop's slices, and the resulting
    program may round differently.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.training.steps_per_dispatch import stacked
        >>> stacked([{"index": np.array([4, 2])}], 2)["index"].tolist()
        [[4, 2], [0, 0]]
    """

    def stack(first: Any, *others: Any) -> np.ndarray[Any, Any]:
        rows = np.zeros((max(2, length), *first.shape), first.dtype)
        for row, array in zip(rows, (first, *others), strict=False):
            row[...] = array
        return rows

    group: dict[str, Any] = jax.tree.map(stack, *batches)
    return group
