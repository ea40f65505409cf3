"""Cuts an epoch into batches, and pads the batches that a `Loader` returns.

A batch is padded only where the caller of `Loader.batches` passes `multiple`, the number of equal
parts that a batch is split in. The trainer passes the number of devices along the data axis
(`Placement.num_parts`) in evaluation, and nothing in training, so that padding never enters a loss
that is minimised or a batch statistic.

- Size (`padded_size`): `batch_size`, rounded up to a multiple of `multiple`. All batches of a split
  get this one size, so that one compilation serves them all. A batch of an iterable that is larger
  than the first one gets its own size, rounded up.
- Content (`padded`): the rows of the batch itself, repeated in order, which are valid examples.
- `mask` is False in the added rows. In training nothing is added, and rows that the mask of an
  iterable's batch excludes are removed.

Where several processes read a batch together, each one pads its part of the rows.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from nnx_alexnet.data.examples import RESERVED, ElementSpec, Rows

Batch = dict[str, Any]
"""A batch on the host: pytrees of NumPy arrays `[B, ...]` by name.

The names are those of the user, and two more: `mask` (bool `[B]`) is False where a row is padding,
and `index` (int32 `[B]`) is the example's index in its split; for an iterable, its position in the
epoch.
"""


def example_batch(spec: ElementSpec, size: int) -> Batch:
    """Returns the shapes and dtypes of a batch.

    Args:
        spec: of one example.
        size: rows of the batch.

    Example:
        >>> import jax
        >>> from nnx_alexnet.data.batching import example_batch
        >>> example_batch({"label": jax.ShapeDtypeStruct((), "int32")}, 8)["label"]
        ShapeDtypeStruct(shape=(8,), dtype=int32)
    """
    added = {
        "mask": jax.ShapeDtypeStruct((), np.bool_),
        "index": jax.ShapeDtypeStruct((), np.int32),
    }
    batch: Batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), {**spec, **added}
    )
    return batch


class BatchPlan(NamedTuple):
    """The examples of a batch, and its size.

    Attributes:
        rows: the indices of the examples to read.
        num: how many of them count; the others are padding.
        size: rows of the batch with padding.
    """

    rows: np.ndarray
    num: int
    size: int


def plan_batches(
    indices: np.ndarray,
    batch_size: int,
    *,
    start: int = 0,
    multiple: int | None = None,
    part: Callable[[int], slice | None] | None = None,
) -> Iterator[BatchPlan]:
    """Yields which examples each batch of an epoch contains.

    Args:
        indices: the examples of the epoch, in order.
        batch_size: examples per batch; the last batch has the remaining ones.
        start: how many batches to leave out at the beginning.
        multiple: see `Loader.batches`.
        part: see `Loader.batches`.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.batching import plan_batches
        >>> [batch.rows.tolist() for batch in plan_batches(np.arange(5), 2)]
        [[0, 1], [2, 3], [4]]
        >>> [batch.size for batch in plan_batches(np.arange(5), 2, multiple=4)]
        [4, 4, 4]
    """
    for first in range(start * batch_size, len(indices), batch_size):
        batch = indices[first : first + batch_size]
        size = len(batch) if multiple is None else padded_size(batch_size, multiple)
        own = None if part is None else part(size)
        rows = batch if own is None else batch[own]
        num_rows = size if own is None else len(range(size)[own])
        # This process may have no rows of a ragged batch. Then all of its rows are padding.
        yield BatchPlan(rows if len(rows) else batch[:1], len(rows), num_rows)


def padded_size(batch_size: int, multiple: int) -> int:
    """Returns the least multiple of `multiple` that is not less than `batch_size`.

    Example:
        >>> from nnx_alexnet.data.batching import padded_size
        >>> padded_size(10, 4), padded_size(8, 4)
        (12, 8)
    """
    return math.ceil(batch_size / multiple) * multiple


def padded(fields: Batch, plan: BatchPlan) -> Batch:
    """Adds `index` to the fields of a batch, and repeats its rows until it has its planned size.

    Args:
        fields: pytrees of arrays of `len(plan.rows)` rows, `mask` among them.
        plan: of this batch.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.batching import BatchPlan, padded
        >>> fields = {"label": np.array([5, 7]), "mask": np.ones(2, bool)}
        >>> batch = padded(fields, BatchPlan(np.array([0, 1]), num=2, size=4))
        >>> for name in ("label", "mask", "index"):
        ...     print(name, batch[name])
        label [5 7 5 7]
        mask [ True  True False False]
        index [0 1 0 1]
    """
    batch = {**fields, "index": plan.rows.astype(np.int32)}
    if plan.num < plan.size:
        repeated = np.arange(plan.size) % len(plan.rows)
        batch = jax.tree.map(lambda array: array[repeated], batch)
        batch["mask"][plan.num :] = False
    return batch


def is_complete(batch: Batch) -> bool:
    """Returns whether a batch has the user's fields, not only its `mask` and `index`.

    Example:
        >>> from nnx_alexnet.data.batching import is_complete
        >>> is_complete({"mask": [], "index": []}), is_complete({"mask": [], "tokens": []})
        (False, True)
    """
    return not batch.keys() <= {*RESERVED}


def fields_of(rows: Rows) -> Batch:
    """Returns the fields of the examples that were read; without a mask, all of them count."""
    mask = np.ones(rows.num, bool) if rows.mask is None else rows.mask
    return {**rows.fields, "mask": mask}


def own_batch(rows: Rows, *, position: int, batch_size: int, multiple: int | None) -> Batch | None:
    """Returns a batch that an iterable made, padded or without the rows that its mask excludes.

    Args:
        rows: of the batch.
        position: how many examples of the epoch came before it.
        batch_size: rows of the first batch of the iterable.
        multiple: see `Loader.batches`.

    Returns:
        None if the mask excludes every row.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.batching import own_batch
        >>> from nnx_alexnet.data.examples import Rows
        >>> rows = Rows({"label": np.array([4, 5, 6])}, mask=np.array([True, False, True]))
        >>> batch = own_batch(rows, position=10, batch_size=3, multiple=None)
        >>> batch["label"].tolist(), batch["index"].tolist()
        ([4, 6], [10, 11])
    """
    fields, num = fields_of(rows), rows.num
    mask = fields["mask"]
    count = int(np.count_nonzero(mask))
    if not count:
        return None
    index = position + np.cumsum(mask) - mask
    if multiple is not None:
        size = padded_size(max(batch_size, num), multiple)
        return padded(fields, BatchPlan(index, num, size))
    fields = jax.tree.map(lambda array: array[mask], fields) if count < num else fields
    return padded(fields, BatchPlan(index[mask], count, count))
