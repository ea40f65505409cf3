"""The labels that a map-style dataset has as an attribute, found without reading its examples."""

from typing import Any

import numpy as np

from nnx_alexnet.data.convert import canonical, to_numpy


def known_labels(dataset: Any) -> np.ndarray | None:
    """Returns the classes that a dataset has in `targets` or `labels`, like those of torchvision.

    The examples of a dataset may have other labels: a wrapper may pass on the attributes of a
    dataset and change its labels. The result is therefore a claim, to be checked on a sample.

    Args:
        dataset: has `__len__`; a `torch.utils.data.Subset` gets its part of the whole.

    Returns:
        int32[N], or None if there are no such attributes, or they contain no classes.

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
    except Exception:  # attributes may raise anything; one that cannot be read claims nothing
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
            return canonical(labels, name).astype(np.int32, copy=False)
    return None
