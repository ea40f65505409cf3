"""Batches of the examples that an iterable yields one by one."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from nnx_alexnet.data.convert import is_torch, to_numpy
from nnx_alexnet.data.padding import Padding


class ExampleBatches:
    """An iterable that stacks the examples of another one.

    Calls of `set_epoch`, `state_dict` and `load_state_dict` are passed on to the iterable, and
    those of `get_state`, `set_state` and `close` to its iterator, if these have the methods. The
    state is that after the newest batch, because no example is read ahead. Torch tensors stay
    tensors, so that images among them are known to be NCHW.

    Args:
        examples: pytrees of arrays or numbers of equal structure and shapes.
        argument: what the user calls the split, for errors.
        batch_size: examples per batch.
        drop_last: whether an incomplete last batch is left out.
        padding: the lengths to which sequences in a dict are padded (default: all have one length).

    Attributes:
        inner: the examples.
        batch_size: as given.
        drop_last: as given.

    Example:
        >>> from nnx_alexnet.data.example_batches import ExampleBatches
        >>> examples = [{"x": number} for number in range(5)]
        >>> [batch["x"].tolist() for batch in ExampleBatches(examples, batch_size=2)]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        examples: Iterable[Any],
        argument: str = "data",
        *,
        batch_size: int,
        drop_last: bool = False,
        padding: Padding | None = None,
    ) -> None:
        self.inner = examples
        self._argument = argument
        self._padding = Padding() if padding is None else padding
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[Any]:
        return _Batches(iter(self.inner), self)

    def __getattr__(self, name: str) -> Any:
        if name not in ("set_epoch", "state_dict", "load_state_dict"):
            raise AttributeError(name)
        return getattr(self.inner, name)

    def over(self, examples: Iterable[Any]) -> ExampleBatches:
        """Returns an iterable that stacks other examples in the same way."""
        return ExampleBatches(
            examples,
            self._argument,
            batch_size=self.batch_size,
            drop_last=self.drop_last,
            padding=self._padding,
        )

    def complete(self) -> ExampleBatches:
        """Returns an iterable that leaves out no example."""
        return ExampleBatches(
            self.inner, self._argument, batch_size=self.batch_size, padding=self._padding
        )

    def stacked(self, examples: list[Any]) -> Any:
        """Stacks examples along a new first axis.

        Raises:
            ValueError: they differ in structure or shape, or a sequence is too long.
        """
        padded = {
            name: self._padding.stacked(
                name,
                [to_numpy(example[name], self._argument) for example in examples],
                self._argument,
            )
            for name in self._padding.names
            if isinstance(examples[0], dict) and name in examples[0]
        }
        if padded:
            rest = [{k: v for k, v in example.items() if k not in padded} for example in examples]
            return {**self._alike(rest), **padded}
        return self._alike(examples)

    def _alike(self, examples: list[Any]) -> Any:
        try:
            return jax.tree.map(_stack, *examples)
        except (ValueError, RuntimeError) as error:  # of NumPy, and of torch
            shapes = sorted({str(jax.tree.map(np.shape, example)) for example in examples})
            raise ValueError(
                f"`{self._argument}` yields examples of the shapes {' and '.join(shapes[:2])}; all "
                "must have the same keys and shapes. Resize or crop images, and pad sequences: "
                'DataModule(..., pad_to={"tokens": (64, 128)}).'
            ) from error


def _stack(*values: Any) -> Any:
    return sys.modules["torch"].stack(values) if is_torch(values[0]) else np.stack(values)


class _Batches(Iterator[Any]):
    """Stacks the examples of an iterator."""

    def __init__(self, examples: Iterator[Any], batches: ExampleBatches) -> None:
        self._examples = examples
        self._batches = batches

    def __next__(self) -> Any:
        size = self._batches.batch_size
        found = list(itertools.islice(self._examples, size))
        if len(found) < (size if self._batches.drop_last else 1):
            raise StopIteration
        return self._batches.stacked(found)

    def __getattr__(self, name: str) -> Any:
        if name not in ("get_state", "set_state", "close"):
            raise AttributeError(name)
        return getattr(self._examples, name)
