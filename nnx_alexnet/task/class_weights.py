"""The weight of each class in the loss: given, or balanced over the training labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


def checked_weights(weights: Any) -> Literal["balanced"] | tuple[float, ...] | None:
    """Returns class weights as plain values.

    Args:
        weights: `"balanced"`, one number per class that is not negative, or None.

    Raises:
        ValueError: they are something else.

    Example:
        >>> from nnx_alexnet.task.class_weights import checked_weights
        >>> checked_weights([1, 2.5]), checked_weights("balanced")
        ((1.0, 2.5), 'balanced')
    """
    if weights is None:
        return None
    if isinstance(weights, str):
        if weights == "balanced":
            return "balanced"
        values = []
    else:
        values = np.asarray(weights).tolist()
    is_list = isinstance(values, list) and len(values) > 1
    if not is_list or not all(_is_weight(value) for value in values) or not any(values):
        raise ValueError(
            f'`class_weights` (={weights!r}) must be "balanced", None, or one number per class '
            "that is finite and not negative, such as (1.0, 4.0); at least one must be positive."
        )
    return tuple(map(float, values))


def _is_weight(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf  # a bool is not meant


def balanced_weights(counts: NDArray[np.integer[Any]], num_classes: int) -> NDArray[np.float32]:
    """Returns N / (P n_k) for each class k, where P classes have examples.

    Every class then has the same total weight, and the mean weight of an example is 1. A class
    without examples has weight 1.

    Args:
        counts: n_k, the number of training examples of each class, `int[...]`.
        num_classes: K, the number of logits.

    Returns:
        `float32[K]`.

    Source: `sklearn.utils.class_weight.compute_class_weight`; King and Zeng, "Logistic Regression
    in Rare Events Data", 2001.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.task.class_weights import balanced_weights
        >>> balanced_weights(np.array([4, 1]), 3).tolist()
        [0.625, 2.5, 1.0]
    """
    known = np.zeros(num_classes, np.int64)
    known[: len(counts)] = counts[:num_classes]
    present = known > 0
    weights = np.ones(num_classes)
    weights[present] = known.sum() / (present.sum() * known[present])
    return weights.astype(np.float32)


def weights_of_classes(
    weights: Sequence[float] | None,
    counts: NDArray[np.integer[Any]] | None,
    num_classes: int,
) -> NDArray[np.float32] | None:
    """Returns the weight of each class, `float32[K]`; None if all are 1.

    Args:
        weights: those given, or None.
        counts: the number of training examples of each class if the weights are balanced.
        num_classes: K, the number of logits.

    Raises:
        ValueError: the number of given weights is not K.
    """
    if counts is not None:
        return balanced_weights(counts, num_classes)
    if weights is None:
        return None
    if len(weights) != num_classes:
        raise ValueError(
            f"`class_weights` has {len(weights)} numbers for a model of {num_classes} classes; "
            'give one per class, or "balanced".'
        )
    return np.asarray(weights, np.float32)


def train_counts(data: Any) -> NDArray[np.int64]:
    """Returns the number of examples of each class in the train split.

    Args:
        data: a `DataModule`.

    Raises:
        ValueError: the labels are not classes, or are not known without reading all examples.
    """
    labels = data.train.labels()
    if labels is None or not len(labels) or labels.min() < 0:
        raise ValueError(
            '`class_weights` (="balanced") needs the classes of all training examples in advance: '
            "an integer `label` from 0 in memory, or a dataset with `targets`. Pass one number per "
            "class instead."
        )
    counts: NDArray[np.int64] = np.bincount(labels)
    return counts
