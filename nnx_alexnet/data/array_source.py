"""A source of examples in arrays, in memory or in memory-mapped files."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from nnx_alexnet.data.convert import Report, canonical, canonical_dtype, map_leaves
from nnx_alexnet.data.examples import (
    ElementSpec,
    Fields,
    Rows,
    as_arrays,
    check_names,
    evenly_spaced,
)
from nnx_alexnet.support import logger

_WHOLE_BYTES = 64 * 2**20  # larger arrays are digested in part
_SAMPLED_ROWS = 256  # of larger arrays


class ArraySource:
    """Holds the arrays of a split.

    Args:
        fields: pytrees of array-like values `[N, ...]`, by name. Torch tensors `[N, C, H, W]`
            called `image` are transposed to NHWC. Memory-mapped arrays are read row by row.
        argument: what the user calls the split, for errors.
        report: receives messages about converted dtypes and axes (default: the log).

    Attributes:
        fields: all examples.
        is_in_memory: False if an array is memory-mapped.

    Raises:
        ValueError: the arrays do not fit together, or there are no examples.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.sources import ArraySource
        >>> source = ArraySource({"tokens": np.zeros((5, 8), np.int32), "label": np.arange(5)})
        >>> source.take(np.array([4, 0]), seed=0, epoch=0).fields["label"]
        array([4, 0], dtype=int32)
    """

    def __init__(
        self, fields: Mapping[str, Any], *, argument: str = "data", report: Report = logger.info
    ) -> None:
        self._argument = argument
        check_names(fields, argument)
        self.fields: Fields
        self.fields, self._num = as_arrays(fields, argument, report, keeps_mapped=True)
        if not self._num:
            raise ValueError(f"`{argument}` is empty: it has no examples.")
        leaves = jax.tree.leaves(self.fields)
        self.is_in_memory = not any(isinstance(leaf, np.memmap) for leaf in leaves)
        self._warn_of_unscaled_images()

    def __len__(self) -> int:
        return self._num

    def _warn_of_unscaled_images(self) -> None:
        some = self.some_images()
        if some is None or some.dtype == np.uint8 or some.dtype.kind == "c" or some.ndim != 4:
            return
        if some.min() >= 0 and some.max() > 100:
            logger.warning(
                "`%s` has %s images from %g to %g, which are not scaled; uint8 images would be "
                "divided by 255.",
                self._argument, some.dtype, some.min(), some.max(),
            )  # fmt: skip

    def element_spec(self) -> ElementSpec:
        """Returns the shape and dtype of each array of one example."""

        def spec(path: str, array: np.ndarray) -> jax.ShapeDtypeStruct:
            dtype = canonical_dtype(array.dtype, f"{self._argument}[{path!r}]", array[:1])
            return jax.ShapeDtypeStruct(array.shape[1:], dtype)

        return {name: map_leaves(spec, value, name) for name, value in self.fields.items()}

    def some_images(self) -> np.ndarray | None:
        """Returns evenly spaced examples of the array `image`, if there is one."""
        images = self.fields.get("image")
        if not isinstance(images, np.ndarray):
            return None
        some: np.ndarray = np.asarray(images[evenly_spaced(len(self), _SAMPLED_ROWS)])
        return some

    def labels(self) -> np.ndarray | None:
        """Returns all labels if they are classes, int32[N], or None."""
        labels = self.fields.get("label")
        if isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype.kind in "biu":
            return canonical(np.asarray(labels), "label").astype(np.int32, copy=False)
        return None

    def span(self, first: int, num: int) -> Rows:
        """Returns `num` examples from `first` on; of arrays in memory, read-only views."""
        if not self.is_in_memory:
            return self.take(np.arange(first, first + num), seed=0, epoch=0)
        part = slice(first, first + num)
        return Rows({name: _views(value, part) for name, value in self.fields.items()})

    def take(self, indices: np.ndarray, *, seed: int, epoch: int) -> Rows:
        """Returns the examples at `indices`."""

        def rows(path: str, array: np.ndarray) -> np.ndarray:
            return canonical(np.asarray(array[indices]), f"{self._argument}[{path!r}]")

        if self.is_in_memory:
            return Rows({name: _rows(value, indices) for name, value in self.fields.items()})
        return Rows({name: map_leaves(rows, value, name) for name, value in self.fields.items()})

    def digest(self) -> str | None:
        """Returns a SHA-256 of all bytes; of 256 evenly spaced rows of arrays of over 64 MB."""
        digest = hashlib.sha256()
        for path, array in jax.tree_util.tree_leaves_with_path(self.fields):
            digest.update(f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}".encode())
            part = array
            if array.nbytes > _WHOLE_BYTES:
                part = array[evenly_spaced(len(array), _SAMPLED_ROWS)]
            digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()


def _rows(value: Any, indices: np.ndarray) -> Any:
    """Returns rows of each array of a pytree."""
    if isinstance(value, np.ndarray):  # most fields, for which jax.tree is slow
        return value[indices]
    return jax.tree.map(lambda array: array[indices], value)


def _views(value: Any, part: slice) -> Any:
    """Returns read-only views of rows of each array of a pytree."""
    if not isinstance(value, np.ndarray):
        return jax.tree.map(lambda array: _views(array, part), value)
    view = value[part]
    view.flags.writeable = False
    return view
