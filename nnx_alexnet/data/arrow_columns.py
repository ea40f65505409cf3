"""Converts columns of Arrow tables, as Hugging Face datasets have them, to NumPy arrays."""

from typing import Any

import numpy as np


def column_values(column: Any, name: str) -> Any:
    """Converts a column of Arrow to an array with its rows along the first axis.

    Args:
        column: a `pyarrow` array, chunked or not, of numbers, lists of one length, or structs.
        name: what to call it in errors.

    Returns:
        An array, or for structs a dict of arrays.

    Raises:
        ValueError: values are missing, lists differ in length, or the values are no numbers.

    Example:
        >>> import pyarrow
        >>> from nnx_alexnet.data.arrow_columns import column_values
        >>> column_values(pyarrow.array([[1, 2], [3, 4]], pyarrow.list_(pyarrow.int8())), "x")
        array([[1, 2],
               [3, 4]], dtype=int8)
        >>> column_values(pyarrow.array([[1, 2], [3]]), "x")
        Traceback (most recent call last):
        ValueError: x has lists of 1 and of 2 values; pad them with `pad_to`, such as...
    """
    import pyarrow

    if isinstance(column, pyarrow.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pyarrow.ExtensionArray):
        column = column.storage
    if column.null_count:
        raise ValueError(
            f"{name} has {column.null_count} missing values (null). Leave such rows out with "
            "dataset.filter(...), or fill them with dataset.map(...)."
        )
    kind = column.type
    if pyarrow.types.is_struct(kind):
        parts = zip(kind, column.flatten(), strict=True)
        return {field.name: column_values(part, f"{name} {field.name!r}") for field, part in parts}
    if pyarrow.types.is_fixed_size_list(kind):
        return _reshaped(column, kind.list_size, name)
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        lengths = column.value_lengths().to_numpy()
        if (lengths != lengths[:1]).any():
            raise ValueError(
                f"{name} has lists of {lengths.min()} and of {lengths.max()} values; pad "
                'them with `pad_to`, such as pad_to={"tokens": (64, 128)}.'
            )
        return _reshaped(column, int(lengths[0]) if len(lengths) else 0, name)
    values = column.to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} contains {kind}, which are not numbers.")
    return values


def _reshaped(column: Any, length: int, name: str) -> np.ndarray:
    inner = column_values(column.flatten(), name)
    if isinstance(inner, dict):
        raise ValueError(f"{name} has lists of structs; make a column of each of their fields.")
    whole: np.ndarray = inner.reshape(len(column), length, *inner.shape[1:])
    return whole
