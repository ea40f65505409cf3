"""Cuts the examples of an epoch into batches, and pads batches."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nnx_alexnet.data.examples import Rows

Batch = dict[str, np.ndarray]
"""One batch: `image` (uint8 or float32 `[B, ...]`), `label` (int32 `[B]`, or float32 of any
trailing shape), `mask` (bool `[B]`, False where a row is padding) and `index` (int32 `[B]`, the
example's index in its split; for an iterable, its position in the epoch)."""


class Planned(NamedTuple):
    """The examples to read for a batch, the number that count, and its rows with padding."""

    rows: np.ndarray
    num: int
    size: int


def planned(
    indices: np.ndarray,
    step: int,
    *,
    start: int = 0,
    multiple: int | None = None,
    part: Callable[[int], slice | None] | None = None,
) -> list[Planned]:
    """Returns which examples the rows of each batch hold.

    Args:
        indices: the examples of an epoch, in order.
        step: examples per batch; the last batch has what is left.
        start: how many batches to leave out at the beginning.
        multiple: see `Loader.batches`.
        part: see `Loader.batches`.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.batching import planned
        >>> [batch.rows.tolist() for batch in planned(np.arange(5), 2)]
        [[0, 1], [2, 3], [4]]
        >>> [batch.size for batch in planned(np.arange(5), 2, multiple=4)]
        [4, 4, 4]
    """
    plan = []
    for first in range(start * step, len(indices), step):
        batch = indices[first : first + step]
        size = len(batch) if multiple is None else rounded_up(step, multiple)
        own = None if part is None else part(size)
        rows = batch if own is None else batch[own]
        num_rows = size if own is None else len(range(size)[own])
        # This process may have no rows of a ragged batch: then all of its rows are padding.
        plan.append(Planned(rows if len(rows) else batch[:1], len(rows), num_rows))
    return plan


def rounded_up(size: int, multiple: int) -> int:
    """Returns the least multiple that is not less than `size`."""
    return math.ceil(size / multiple) * multiple


def fields_of(rows: Rows) -> Batch:
    """Returns what was read as a batch, whose `mask` leaves nothing out where there is none."""
    mask = np.ones(len(rows.image), bool) if rows.mask is None else rows.mask
    return {"image": rows.image, "label": rows.label, "mask": mask}


def padded(fields: Batch, plan: Planned) -> Batch:
    """Returns a batch of the rows that were read, repeated in order as often as needed."""
    batch = {**fields, "index": plan.rows.astype(np.int32)}
    if plan.num < plan.size:
        repeated = np.arange(plan.size) % len(plan.rows)
        batch = {key: value[repeated] for key, value in batch.items()}
        batch["mask"][plan.num :] = False
    return batch
