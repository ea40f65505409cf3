"""Chooses the source of a split: arrays, a map-style dataset, or an iterable of batches."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nnx_alexnet.data.adapters import adapted
from nnx_alexnet.data.array_source import ArraySource
from nnx_alexnet.data.convert import CHANNELS, Report, is_array, is_leaf, is_pil, to_numpy
from nnx_alexnet.data.examples import PAIR, unpack
from nnx_alexnet.data.iterable_source import IterableSource
from nnx_alexnet.data.map_source import MapSource, OnBadSample
from nnx_alexnet.data.padding import Padding
from nnx_alexnet.data.torch_loader import is_torch_iterable
from nnx_alexnet.support import logger

__all__ = ["ArraySource", "IterableSource", "MapSource", "OnBadSample", "Source", "as_source"]

Source = ArraySource | MapSource | IterableSource


def as_source(
    value: Any,
    *,
    argument: str,
    names: Sequence[str] = PAIR,
    padding: Padding | None = None,
    on_bad_sample: OnBadSample = "raise",
    batch_size: int = 64,
    drop_last: bool = False,
    report: Report = logger.info,
) -> Source:
    """Returns the source of a split of any accepted form.

    Args:
        value: a dict of arrays or a tuple of them, a map-style dataset, a torch `DataLoader` or
            another iterable of batches, what `adapted` accepts, or a source.
        argument: what the user calls the split: "train", "val" or "test".
        names: of the values of a tuple (default `("image", "label")`).
        padding: the lengths to which sequences are padded.
        on_bad_sample: see `MapSource`.
        batch_size: rows of a batch, for streams of single examples; see `adapted`.
        drop_last: whether an incomplete last batch is left out, in the same case.
        report: receives messages about converted dtypes and axes (default: the log).

    Raises:
        ValueError: the value has another form.
    """
    if isinstance(value, Source):
        return value
    padding = Padding() if padding is None else padding
    value = adapted(
        value, argument=argument, batch_size=batch_size, drop_last=drop_last, padding=padding
    )
    if isinstance(value, Mapping | tuple) or is_array(value):
        _check_split(value, names, argument)
        if padding:
            raise ValueError(
                f"`pad_to` is for sequences of different lengths, but `{argument}` consists of "
                "arrays. Pass a list of examples: [{'tokens': [5, 2]}, {'tokens': [7]}, ...]."
            )
        return ArraySource(unpack(value, names, argument), argument=argument, report=report)
    if is_torch_iterable(value):
        raise ValueError(
            f"`{argument}` is a {_kind(value)}, an IterableDataset of torch. If it yields single "
            "examples, pass torch.utils.data.DataLoader(dataset, batch_size=64). If it yields "
            "batches, pass DataLoader(dataset, batch_size=None)."
        )
    is_other = isinstance(value, str | bytes | Path | type)
    if not is_other and _consists_of_examples(value, names, argument, padding):
        return MapSource(
            value,
            names=names,
            padding=padding,
            argument=argument,
            on_bad_sample=on_bad_sample,
            report=report,
        )
    if hasattr(value, "__iter__") and not is_other:
        return IterableSource(value, names=names, padding=padding, argument=argument, report=report)
    raise ValueError(
        f"`{argument}` is a {_kind(value)}; expected a dict or tuple of arrays, a dataset with "
        "__len__ and __getitem__, a torch DataLoader or another iterable of batches."
        f"{_form_remedy(value)}"
    )


def _kind(value: object) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__


def _check_split(value: Any, names: Sequence[str], argument: str) -> None:
    """Raises a `ValueError` if a tuple or an array does not hold the arrays of a split."""
    if isinstance(value, Mapping) or hasattr(value, "_asdict"):
        return
    if isinstance(value, tuple):
        is_split = len(value) == len(names) and is_array(value[0])
        if not (is_split and all(map(_is_array_like, value[1:]))):
            raise _not_a_split(value, names, argument)
    elif len(names) > 1:
        raise ValueError(
            f"`{argument}` is one array of shape {tuple(value.shape)} ({_kind(value)}); a split of "
            "arrays is a dict, such as {'tokens': tokens}, or the tuple (images, labels), as in "
            "DataModule((images, labels), (val_images, val_labels))."
        )


def _is_array_like(value: object) -> bool:
    return is_array(value) or isinstance(value, list | Mapping | tuple)


def _not_a_split(value: tuple[Any, ...], names: Sequence[str], argument: str) -> ValueError:
    kinds = ", ".join(map(_kind, value))
    is_of_lists = all(is_array(x) or isinstance(x, list) for x in value)
    remedy = ""
    if is_of_lists and len(value) != len(names):
        remedy = ' Name its arrays: a dict, or DataModule(..., fields=("image", "depth", "label")).'
    elif is_of_lists:
        remedy = " np.asarray converts a list to an array."
    return ValueError(
        f"`{argument}` is a tuple of ({kinds}); a tuple is ({', '.join(names)}), {len(names)} "
        f"arrays.{remedy} Pass batches as a list, and further splits as separate arguments: "
        "DataModule(train, val, test)."
    )


def _form_remedy(value: object) -> str:
    if isinstance(value, str | bytes | Path):
        return ' load_data("folder", root=...) reads a folder of image files.'
    if isinstance(value, type):
        return " Pass an instance of the class."
    return ""


def _consists_of_examples(
    value: Any, names: Sequence[str], argument: str, padding: Padding
) -> bool:
    """Returns whether the elements of a value are examples that can be read by index."""
    if not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        return False
    # With `pad_to`, a list consists of examples.
    may_be_batches = isinstance(value, list) and value and not padding
    return not may_be_batches or not _is_batch(value, names, argument)


def _is_batch(value: list[Any], names: Sequence[str], argument: str) -> bool:
    """Returns whether the elements of a list are batches instead of examples."""
    if len(value) == 2 and all(is_array(item) and np.ndim(item) for item in value):
        images, labels = value
        if len(images) == len(labels):
            raise ValueError(
                f"`{argument}` is a list of two arrays; pass images and labels as a tuple: "
                "(images, labels)."
            )
    fields = unpack(value[0], names, f"{argument}[0]")
    leaves = jax.tree.leaves(fields, is_leaf=is_leaf)
    if (
        any(is_pil(leaf) or not np.ndim(leaf) for leaf in leaves)
        or len({len(leaf) for leaf in leaves}) > 1
    ):
        return False
    image, label = fields.get("image"), fields.get("label")
    if is_array(image) and label is not None and is_leaf(label):
        shapes = np.shape(image), np.shape(label)
        if not _may_be_example(*shapes, is_class=to_numpy(label, "label").dtype.kind in "biu"):
            return True
    raise ValueError(
        f"`{argument}` is a list of items with {_shapes(fields)}, which may be examples or "
        "batches. Pass examples as a dict of arrays, with np.stack, and batches as an iterable "
        "that is not a list, such as a torch DataLoader."
    )


def _shapes(fields: Mapping[str, Any]) -> str:
    shapes = {
        name: ", ".join(str([*np.shape(x)]) for x in jax.tree.leaves(value, is_leaf=is_leaf))
        for name, value in fields.items()
    }
    return ", ".join(f"`{name}` {text}" for name, text in shapes.items())


def _may_be_example(image: tuple[int, ...], label: tuple[int, ...], *, is_class: bool) -> bool:
    """Returns whether an item with the shapes of a batch may be one image and its targets."""
    if len(image) != 3:
        return False
    if len(label) == 1:  # a batch has one class per example
        return not is_class and image[0] in CHANNELS
    return label[:2] == image[:2] and (image[0] in CHANNELS or image[-1] in CHANNELS)
