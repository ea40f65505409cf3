"""Describes splits and data for `repr`, for notebooks and for checkpoints."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import jax

from nnx_alexnet.data.examples import spec_text
from nnx_alexnet.support import format_count

if TYPE_CHECKING:
    from nnx_alexnet.data.data_module import DataModule
    from nnx_alexnet.data.loader import Loader

_MAX_NAMES = 20  # of classes


def loader_text(loader: Loader) -> str:
    """Returns the size of a split on one line.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data import DataModule
        >>> from nnx_alexnet.data.descriptions import loader_text
        >>> loader_text(DataModule({"x": np.zeros(10)}, batch_size=4).train)
        '10 examples, 2 batches of 4 (2 unused)'
    """
    if not loader.indexable:
        number = loader.num_batches
        return "an iterable" + ("" if number is None else f" of {_batches(number)}")
    assert loader.num_examples is not None
    assert loader.num_batches is not None
    text = f"{format_count(loader.num_examples, 'example')}, {_batches(loader.num_batches)}"
    text += f" of {loader.batch_size}"
    return text + (f" ({loader.num_left_out:,} unused)" if loader.num_left_out else "")


def loader_facts(loader: Loader) -> list[tuple[str, str]]:
    """Returns the size of a split, and the shape and dtype of each field."""
    facts = [(loader.argument, loader_text(loader))]
    if loader.indexable:
        spec = loader.element_spec()
        facts += [(name, f"{spec_text(field)} per example") for name, field in spec.items()]
    if loader.num_workers:
        facts.append(("workers", str(loader.num_workers)))
    return facts


def data_text(data: DataModule) -> str:
    """Returns the sizes of all splits on one line."""
    splits = [f"{name}: {loader_text(loader)}" for name, loader in data.splits.items()]
    return f"DataModule {data.name!r}: {'; '.join(splits)}"


def data_facts(data: DataModule) -> list[tuple[str, str]]:
    """Returns the sizes of all splits, the fields of an example, and the classes."""
    facts = [("data", data.name), *loader_facts(data.train)]
    facts[2:2] = [
        (name, loader_text(loader)) for name, loader in data.splits.items() if name != "train"
    ]
    if not data.train.indexable:
        return facts
    if (shape := data.image_shape) is not None:
        facts.append(("model input", "x".join(map(str, shape))))
    if (number := data.num_classes) is not None:
        names = (data.class_names or ())[:_MAX_NAMES]
        more = ", ..." if number > len(names) > 0 else ""
        facts.append(("classes", f"{number}: {', '.join(names)}{more}" if names else str(number)))
    return facts


def data_record(data: DataModule) -> dict[str, Any]:
    """Returns the description of the data in a checkpoint, as plain JSON values.

    Returns:
        `name`, `batch_size`, `drop_last`, `fields` (the shapes and dtypes of an example),
        `examples` (their number in each split), `labels` (a digest of those of train, in their
        order), `padding` and `train_batches` (if limited) show whether a resumed run has the
        same data. `image` (the shape of one image before the transform; None without images),
        `transform` (the arguments of the `ImageTransform`, or the name of the function),
        `num_classes` and `class_names` are what a trained model needs to be used without the
        data.
    """
    spec = data.train.element_spec()
    image = spec.get("image")
    return {
        "name": data.name,
        "batch_size": data.batch_size,
        "drop_last": data.train.drop_last,
        "examples": {name: loader.num_examples for name, loader in data.splits.items()},
        "labels": label_digest(data.train),
        "fields": {name: spec_text(field) for name, field in spec.items()},
        "image": list(image.shape) if isinstance(image, jax.ShapeDtypeStruct) else None,
        "padding": data.padding.describe(),
        "transform": data.transform.describe(),
        "num_classes": data.num_classes,
        "class_names": None if data.class_names is None else list(data.class_names),
        **({"train_batches": data.train.num_batches} if data.train.is_limited else {}),
    }


def label_digest(loader: Loader) -> str | None:
    """Returns a SHA-256 of the labels of a split, in their order; None if they are not known."""
    labels = loader.labels()
    return None if labels is None else hashlib.sha256(labels.tobytes()).hexdigest()


def _batches(number: int) -> str:
    return f"{number:,} batch{'' if number == 1 else 'es'}"
