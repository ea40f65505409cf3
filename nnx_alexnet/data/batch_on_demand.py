"""`BatchOnDemand`: a batch that reads its examples when a hook accesses them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import jax

from nnx_alexnet.data.batching import Batch
from nnx_alexnet.data.examples import Fields
from nnx_alexnet.data.sources import ArraySource, MapSource


class BatchOnDemand(dict[str, Any]):
    """The batch that hooks receive when the examples are on the device.

    A field is copied out of the split when it is first accessed, so a hook that ignores its batch
    reads nothing. Other uses, such as `batch.items()`, `dict(batch)` or `jax.tree.map`, read all
    fields. A batch on demand cannot be changed, since the step would not see the change. To JAX it
    is another kind of node than a dict: pass `dict(batch)` to `jax.tree.map` over several batches.

    Args:
        own: the arrays that need not be read, `index` and `mask`.
        names: the keys of the other fields, in their order.
        read: returns the pytree of arrays of a field.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.batch_on_demand import BatchOnDemand
        >>> labels = np.array([5, 6, 7])
        >>> def read(name):
        ...     print("reading", name)
        ...     return labels[[2, 0]]
        >>> batch = BatchOnDemand({"index": np.array([2, 0])}, ["label"], read)
        >>> batch["index"].tolist(), len(batch), "label" in batch
        ([2, 0], 2, True)
        >>> batch["label"].tolist(), batch["label"].tolist()
        reading label
        ([7, 5], [7, 5])
    """

    def __init__(self, own: Batch, names: Iterable[str], read: Callable[[str], Any]) -> None:
        super().__init__(own)
        self._names = (*names, *own)
        self._read = read

    def __missing__(self, name: str) -> Any:
        """Reads a field; `dict` calls this for a key that it does not hold."""
        if name not in self._names:
            raise KeyError(name)
        value = self._read(name)
        super().__setitem__(name, value)
        return value

    # The methods of `dict` do not call `__missing__`: they see only the keys that it holds.

    def copy(self) -> Batch:
        """Returns an ordinary dict of all fields."""
        return {name: self[name] for name in self._names}

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __eq__(self, other: object) -> bool:
        return self.copy() == other

    def __ne__(self, other: object) -> bool:
        return self.copy() != other

    __hash__ = None  # as in `dict`

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    def __repr__(self) -> str:
        return repr(self.copy())

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (self.copy(),)

    def get(self, name: str, default: Any = None) -> Any:
        """Returns a field, or `default` if there is no such field."""
        return self[name] if name in self._names else default

    def keys(self) -> Any:
        """Returns the names of all fields, without reading them."""
        return dict.fromkeys(self._names).keys()

    def values(self) -> Any:
        """Returns the values of all fields."""
        return self.copy().values()

    def items(self) -> Any:
        """Returns the names and values of all fields."""
        return self.copy().items()

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            "`batch` cannot be changed in a hook: its examples are on the device, and the step "
            "reads them there. Change batches in `DataModule(transform=...)`, or change a copy, "
            "`dict(batch)`."
        )

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


def from_indices(
    batch: Batch, arrays: Fields | None, source: ArraySource | MapSource
) -> BatchOnDemand:
    """Returns a batch with all fields, given its `index` and `mask`.

    Args:
        batch: only its `index` and `mask`.
        arrays: all examples of the split; None if they are not in memory.
        source: reads the examples if there are no arrays.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.batch_on_demand import from_indices
        >>> from nnx_alexnet.data.sources import ArraySource
        >>> arrays = {"label": np.array([5, 6, 7])}
        >>> batch = {"index": np.array([2, 0]), "mask": np.ones(2, bool)}
        >>> from_indices(batch, arrays, ArraySource(arrays))["label"].tolist()
        [7, 5]
    """
    rows = batch["index"]
    if arrays is None:  # the device holds what the cache contained
        taken = functools.cache(lambda: source.take(rows, seed=0, epoch=0).fields)
        return BatchOnDemand(batch, source.element_spec(), lambda name: taken()[name])
    return BatchOnDemand(
        batch, arrays, lambda name: jax.tree.map(lambda values: values[rows], arrays[name])
    )


def _flatten(batch: BatchOnDemand) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    names = tuple(sorted(batch))
    return tuple(batch[name] for name in names), names


def _flatten_with_keys(
    batch: BatchOnDemand,
) -> tuple[tuple[tuple[jax.tree_util.DictKey, Any], ...], tuple[str, ...]]:
    values, names = _flatten(batch)
    return tuple(zip(map(jax.tree_util.DictKey, names), values, strict=True)), names


def _unflatten(names: tuple[str, ...], values: Iterable[Any]) -> Any:
    return dict(zip(names, values, strict=True))


jax.tree_util.register_pytree_with_keys(BatchOnDemand, _flatten_with_keys, _unflatten, _flatten)
