"""The factor of positive labels in a binary or multi-label loss."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


def checked_pos_weight(weight: Any) -> Literal["balanced"] | float | tuple[float, ...] | None:
    """Returns a `pos_weight` as plain values.

    Raises:
        ValueError: it is not `"balanced"`, None, a positive number, or one per label.

    Example:
        >>> from nnx_alexnet.task.pos_weights import checked_pos_weight
        >>> checked_pos_weight(3), checked_pos_weight([1, 2])
        (3.0, (1.0, 2.0))
    """
    if weight is None:
        return None
    values: Any
    if isinstance(weight, str):
        if weight == "balanced":
            return "balanced"
        values = []
    else:
        values = np.asarray(weight).tolist()
    numbers: list[Any] = values if isinstance(values, list) else [values]
    is_number = all(type(each) in (int, float) for each in numbers)  # a bool is not meant
    if not numbers or not is_number or not all(0 < each < math.inf for each in numbers):
        raise ValueError(
            f'`pos_weight` (={weight!r}) must be "balanced", None, a positive number, or one '
            "positive number per label."
        )
    return tuple(map(float, numbers)) if isinstance(values, list) else float(numbers[0])


def balanced_pos_weight(labels: NDArray[Any] | None) -> tuple[float, ...]:
    """Returns the number of labels that are 0 divided by the number that are 1, for each label.

    Args:
        labels: those of the train split, `[N]` or `[N, K]`; None if they are not in memory.

    Raises:
        ValueError: they are not in memory, are not 0 and 1, or a label is never 1 or never 0.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.task.pos_weights import balanced_pos_weight
        >>> balanced_pos_weight(np.array([0, 0, 0, 1]))
        (3.0,)
    """
    what = '`pos_weight` (="balanced")'
    if labels is None:
        raise ValueError(
            f"{what} needs all training labels in memory. Pass a number per label instead."
        )
    values = labels.reshape(len(labels), -1)
    if not np.isin(values, (0, 1)).all():
        raise ValueError(f"{what} needs training labels of 0 and 1. Pass a number instead.")
    positive = np.count_nonzero(values, axis=0)
    negative = len(values) - positive
    if not (positive.all() and negative.all()):
        k = int(np.argmin(np.minimum(positive, negative)))
        raise ValueError(
            f"{what} needs both values of each label in the train split; label {k} is 1 in "
            f"{positive[k]} of {len(values)} examples. Pass a number per label instead."
        )
    return tuple((negative / positive).tolist())
