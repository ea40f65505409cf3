"""The sources of examples: arrays, a map-style dataset, or an iterable of batches."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnx_alexnet.data.array_source import ArraySource
from nnx_alexnet.data.convert import CHANNELS, is_array, to_numpy, unpack
from nnx_alexnet.data.iterable_source import IterableSource
from nnx_alexnet.data.map_source import MapSource, OnBadSample
from nnx_alexnet.data.torch_loader import is_torch_iterable

__all__ = ["ArraySource", "IterableSource", "MapSource", "OnBadSample", "Source", "as_source"]

Source = ArraySource | MapSource | IterableSource


def as_source(value: Any, *, argument: str, on_bad_sample: OnBadSample = "raise") -> Source:
    """Returns the source of a split of any accepted form.

    Args:
        value: `(images, labels)`, a map-style dataset, a torch `DataLoader` or another iterable
            of batches, or a source.
        argument: what the user calls the split: "train", "val" or "test".
        on_bad_sample: see `MapSource`.

    Raises:
        ValueError: it has another form.
    """
    if isinstance(value, Source):
        return value
    if isinstance(value, tuple):
        is_pair = len(value) == 2 and is_array(value[0])
        if is_pair and (is_array(value[1]) or isinstance(value[1], list)):
            return ArraySource(*value, argument=argument)
        raise _not_a_pair(value, argument)
    if is_array(value):
        raise ValueError(
            f"`{argument}` is one array of shape {tuple(value.shape)} ({_kind(value)}); a split of "
            "arrays is the tuple (images, labels), as in DataModule((images, labels), "
            "(val_images, val_labels))."
        )
    is_map = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    is_other = isinstance(value, Mapping | str | bytes | Path | type)
    if is_map and not is_other and not is_torch_iterable(value):
        if isinstance(value, list) and value and _is_batch(value, argument):
            return IterableSource(value, argument=argument)
        return MapSource(value, argument=argument, on_bad_sample=on_bad_sample)
    if hasattr(value, "__iter__") and not is_other:
        return IterableSource(value, argument=argument)
    raise ValueError(
        f"`{argument}` is a {_kind(value)}; expected (images, labels) arrays, a dataset "
        "with __len__ and __getitem__, a torch DataLoader or another iterable of batches."
        f"{_form_remedy(value)}"
    )


def _kind(value: object) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__


def _not_a_pair(value: tuple[Any, ...], argument: str) -> ValueError:
    kinds = ", ".join(map(_kind, value))
    is_of_lists = len(value) == 2 and all(is_array(x) or isinstance(x, list) for x in value)
    remedy = " np.asarray converts a list to an array." if is_of_lists else ""
    return ValueError(
        f"`{argument}` is a tuple of ({kinds}); a tuple is (images, labels), two arrays.{remedy} "
        "Pass batches as a list, and further splits as separate arguments: "
        "DataModule(train, val, test)."
    )


def _form_remedy(value: object) -> str:
    if isinstance(value, Mapping):
        keys = sorted(map(str, value))
        shown = ", ".join(map(repr, keys[:8])) + (", ..." if len(keys) > 8 else "")
        return (
            f" Pass the two arrays of the mapping (its keys are {shown}) as a tuple: (images, "
            "labels)."
        )
    if isinstance(value, str | bytes | Path):
        return ' load_data("folder", root=...) reads a folder of image files.'
    if isinstance(value, type):
        return " Pass an instance of the class."
    return ""


def _is_batch(value: list[Any], argument: str) -> bool:
    """Returns whether the elements of a list are batches instead of examples."""
    if len(value) == 2 and all(is_array(item) and np.ndim(item) for item in value):
        images, labels = value
        if len(images) == len(labels):
            raise ValueError(
                f"`{argument}` is a list of two arrays; pass images and labels as a tuple: "
                "(images, labels)."
            )
    image, label, _ = unpack(value[0], argument)
    if np.ndim(label) == 0 or not is_array(image) or len(image) != len(label):
        return False
    if _may_be_example(np.shape(image), np.shape(label), is_class=_is_integer(label)):
        raise ValueError(
            f"`{argument}` is a list of images {list(image.shape)} with labels "
            f"{list(np.shape(label))}, which may be examples or batches. Pass examples as two "
            "arrays, (np.stack(images), np.stack(labels)), and batches as an iterable that is not "
            "a list, such as a torch DataLoader."
        )
    return True


def _is_integer(label: Any) -> bool:
    return to_numpy(label, "label").dtype.kind in "biu"


def _may_be_example(image: tuple[int, ...], label: tuple[int, ...], *, is_class: bool) -> bool:
    """Returns whether an item with the shapes of a batch may be one image and its targets."""
    if len(image) != 3:
        return False
    if len(label) == 1:  # a batch has one class per example
        return not is_class and image[0] in CHANNELS
    return label[:2] == image[:2] and (image[0] in CHANNELS or image[-1] in CHANNELS)
