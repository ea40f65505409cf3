"""The labels that a map-style dataset holds as an attribute, without a look at its examples."""

from typing import Any

import numpy as np

from nnx_alexnet.data.convert import as_labels, to_numpy


def known_labels(dataset: Any) -> np.ndarray | None:
    """Returns the classes that a dataset claims in `targets` or `labels`, as torchvision does.

    What a dataset returns for an example may differ: whoever wraps a dataset may pass on its
    attributes and change its labels. So this is a claim, to be checked on a sample.

    Args:
        dataset: with `__len__`; of a `torch.utils.data.Subset` the part of the whole is taken.

    Returns:
        int32[N], or None where there are no such attributes, or they hold no classes.

    Example:
        >>> from types import SimpleNamespace
        >>> from nnx_alexnet.data.known_labels import known_labels
        >>> class Dataset(list):
        ...     targets = [3, 1]
        >>> known_labels(Dataset(["a", "b"]))
        array([3, 1], dtype=int32)
    """
    try:
        labels = _claimed(dataset)
        is_whole = labels is not None and len(labels) == len(dataset)
    except Exception:  # attributes of any kind: what cannot be read claims nothing
        return None
    return labels if is_whole else None


def _claimed(dataset: Any) -> np.ndarray | None:
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):  # torch.utils.data.Subset
        labels = known_labels(dataset.dataset)
        return None if labels is None else labels[np.asarray(dataset.indices)]
    if getattr(dataset, "target_transform", None) is not None:
        return None
    for name in ("targets", "labels"):
        targets = getattr(dataset, name, None)
        if targets is None or callable(targets):
            continue
        labels = to_numpy(targets, name)
        if labels.ndim == 1 and labels.dtype.kind in "iu":
            return as_labels(labels, name)
    return None
