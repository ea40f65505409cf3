"""Joins the predictions of batches without holding a row twice in memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

_GROWTH = 1.25  # of the space for rows whose number is unknown


def joined(batches: Iterable[Any], num_rows: int | None = None) -> Any:
    """Returns the rows of all batches as one pytree of arrays.

    The result is allocated once if `num_rows` is known, and grows in place otherwise.
    `np.concatenate` would need the memory for all rows twice.

    Args:
        batches: at least one. Each is a pytree of arrays `[B, ...]`, where B may differ.
        num_rows: the number of rows of all batches, if it is known.

    Raises:
        ValueError: rows of two batches have different shapes.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.training.joined_rows import joined
        >>> joined([{"x": np.array([1, 2])}, {"x": np.array([3])}])
        {'x': array([1, 2, 3])}
    """
    arrays: list[np.ndarray[Any, Any]] = []
    structure: Any = None
    count = 0
    for batch in batches:
        parts, structure = jax.tree.flatten(batch)
        end = count + len(parts[0])
        if not arrays:
            size = max(end, num_rows or 0)
            arrays = [np.empty((size, *part.shape[1:]), part.dtype) for part in parts]
        for array, part in zip(arrays, parts, strict=True):
            if part.shape[1:] != array.shape[1:]:
                raise ValueError(
                    f"`predict` returns rows of shape {part.shape[1:]} for one batch and of shape "
                    f"{array.shape[1:]} for another one, which do not fit into one array. "
                    "`predict_batches` yields them batch by batch."
                )
            if end > len(array):
                _resize(array, max(end, int(_GROWTH * len(array))))
            array[count:end] = part
        count = end
    for array in arrays:
        _resize(array, count)
    return jax.tree.unflatten(structure, arrays)


def _resize(array: np.ndarray[Any, Any], num_rows: int) -> None:
    """Changes the number of rows in place; there must be no views of the array."""
    array.resize((num_rows, *array.shape[1:]), refcheck=False)
