"""Describes the batches in a list without a pass over all of them."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from nnx_alexnet.data.convert import is_leaf, to_numpy
from nnx_alexnet.data.examples import Rows, evenly_spaced, unpack

_NUM_DIGESTED = 16  # batches of a list, and rows of each batch


def list_digest(batches: Sequence[Any], convert: Callable[[Any], Rows]) -> str:
    """Returns a SHA-256 of 16 batches of a list, and of 16 rows of each.

    Args:
        batches: the list.
        convert: converts a batch to rows.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.batch_lists import list_digest
        >>> from nnx_alexnet.data.examples import Rows
        >>> zeros, ones = ({"x": np.full(3, value)} for value in (0, 1))
        >>> list_digest([zeros], Rows) == list_digest([ones], Rows)
        False
    """
    digest = hashlib.sha256(str(len(batches)).encode())
    for number in evenly_spaced(len(batches), _NUM_DIGESTED):
        rows = convert(batches[number])
        for path, array in jax.tree_util.tree_leaves_with_path((rows.fields, rows.mask)):
            part = array[evenly_spaced(len(array), _NUM_DIGESTED)]
            what = f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}"
            digest.update(what.encode() + part.tobytes())
    return digest.hexdigest()


def has_examples(item: Any, names: Sequence[str]) -> bool:
    """Returns whether a batch has rows that its mask does not exclude.

    Args:
        item: the batch. For an unusable one the result is True: the pass then raises the error.
        names: the names of the values of a tuple.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.batch_lists import has_examples
        >>> has_examples({"x": np.zeros((0, 2))}, ()), has_examples({"x": np.zeros((3, 2))}, ())
        (False, True)
    """
    try:
        fields = unpack(item, names, "data")
        mask = fields.get("mask")
        leaves = jax.tree.leaves(fields, is_leaf=is_leaf)
        return len(leaves[0]) > 0 and (mask is None or bool(to_numpy(mask, "mask").any()))
    except (TypeError, ValueError):
        return True
