"""Checks the arguments of a `DataModule`, and that its splits fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from nnx_alexnet.data.composition import Compose, Transform
from nnx_alexnet.data.examples import ElementSpec, check_names, named_fields, spec_text
from nnx_alexnet.data.loader import Loader
from nnx_alexnet.data.resident_data import check_keep_on_device
from nnx_alexnet.support import check_bools, logger

if TYPE_CHECKING:
    from nnx_alexnet.data.data_module import DataModule

_NEARLY = 1e-3  # resampled images exceed 0..1 slightly


def check_arguments(drop_last: object, keep_on_device: object, class_names: object) -> None:
    """Checks arguments of a `DataModule` whose wrong types would be accepted elsewhere.

    Raises:
        ValueError: `keep_on_device` is neither a bool nor "auto".
        TypeError: `drop_last` is not a bool, or `class_names` is a single name.
    """
    if keep_on_device not in (True, False, "auto"):
        raise ValueError(f'`keep_on_device` (={keep_on_device!r}) must be a bool or "auto".')
    check_bools(drop_last=drop_last)
    if isinstance(class_names, str):
        raise TypeError(
            f"`class_names` (={class_names!r}) must be one name for each class, such as "
            "('cat', 'dog')."
        )


def checked_fields(fields: Sequence[str]) -> tuple[str, ...]:
    """Returns the argument `fields` of a `DataModule` as a tuple.

    Raises:
        TypeError: `fields` is not a sequence of names.
        ValueError: a name occurs twice, or is reserved.
    """
    names = () if isinstance(fields, str) else tuple(fields)
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"`fields` (={fields!r}) must be the keys of the values of a tuple, such as "
            '("image", "label").'
        )
    if len({*names}) < len(names):
        raise ValueError(f"`fields` (={fields!r}) must be different names.")
    check_names(dict.fromkeys(names), "fields")
    return names


def check_distinct(**splits: Any) -> None:
    """Raises a `ValueError` if two splits are the same iterator, which they would share."""
    iterators = {name: split for name, split in splits.items() if isinstance(split, Iterator)}
    for number, (name, split) in enumerate(iterators.items()):
        for other in [*iterators][:number]:
            if iterators[other] is split:
                raise ValueError(
                    f"`{other}` and `{name}` are the same {type(split).__name__}: each split "
                    "would consume batches of the other. Pass a separate one for each split."
                )


def transformed_fields(
    loader: Loader, transform: Transform, *, may_lack_fields: bool = False
) -> ElementSpec:
    """Returns the shapes and dtypes of one example of a split after the transform.

    Args:
        loader: of the split. The first batch of an iterable is read.
        transform: of the batches.
        may_lack_fields: whether fields may be missing that the transform moves with the image.

    Raises:
        ValueError: the transform does not accept such examples, or would move the pixels of the
            images but not the fields that belong to them.
    """
    try:
        return transform.check(loader.element_spec(), may_lack_fields=may_lack_fields)
    except ValueError as error:
        raise ValueError(f"`{loader.argument}`: {error}") from error


def check_splits(data: DataModule) -> None:
    """Checks what is known without reading the first batch of an iterable.

    Raises:
        ValueError: a split does not fit the transform, the other splits or another argument.
    """
    known = [loader for loader in data.splits.values() if loader.indexable]
    for loader in known:
        data.check(loader)
        if loader is not data.train and data.train in known:
            check_alike(data.train, loader, data.transform)
            warn_of_scales(data.train, loader)
    check_unit_range(data.train, data.transform)
    if data.class_names is not None:
        check_class_names(data.splits, data.class_names)
    check_keep_on_device(data.keep_on_device, data.train)


def check_alike(train: Loader, other: Loader, transform: Transform) -> None:
    """Checks that the fields of a split are like those of train, after the transform.

    Images must have the same shape and dtype. Other fields may differ in shape, but must all be
    integers or all be floating-point numbers: integers from 0 to 255 in one split and fractions
    from 0 to 1 in the other would be two scales. Labels may be classes in one split and
    probabilities in the other.

    Raises:
        ValueError: the splits differ.
    """
    wanted = named_fields(transformed_fields(train, transform))
    found = named_fields(transformed_fields(other, transform, may_lack_fields=True))
    for path in found.keys() & wanted.keys() - {"label"}:
        one, two = found[path], wanted[path]
        remedy = "Use the same dtype in both."
        if path == "image":
            if one.shape != two.shape:
                remedy = (
                    "ImageTransform(image_size=...) resizes images, of one size per split. Resize "
                    "images of several sizes in the dataset."
                )
            elif one.dtype == two.dtype:
                continue
            else:
                remedy = "Use the same dtype in both: uint8, or floats from 0 to 1."
        elif _is_inexact(one) == _is_inexact(two):
            continue
        raise ValueError(
            f"`{other.argument}` has {_before(other, path)}, `{train.argument}` has "
            f"{_before(train, path)}; after the transform these are {spec_text(one)} and "
            f"{spec_text(two)}. {remedy}"
        )


def _is_inexact(struct: jax.ShapeDtypeStruct) -> bool:
    return bool(jnp.issubdtype(struct.dtype, jnp.inexact))


def _before(loader: Loader, path: str) -> str:
    """Returns a field before the transform as text; the transform may have made it."""
    struct = named_fields(loader.element_spec()).get(path)
    return f"no `{path}`" if struct is None else f"`{path}` {spec_text(struct)}"


def check_class_names(splits: Mapping[str, Loader], names: tuple[str, ...]) -> None:
    """Raises a `ValueError` for a label that has no name."""
    for split, loader in splits.items():
        labels = loader.labels()
        if labels is not None and labels.max() >= len(names):
            raise ValueError(
                f"`class_names` has {len(names)} names, but the label {labels.max()} occurs in "
                f"`{split}`; give a name for each class from 0."
            )


def is_scaled(images: np.ndarray) -> bool:
    """Returns whether images are from 0 to 1, or are uint8, which are scaled to that later.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.checks import is_scaled
        >>> is_scaled(np.full(2, 0.5)), is_scaled(np.full(2, 255.0)), is_scaled(np.uint8([255]))
        (True, False, True)
    """
    if images.dtype == np.uint8:
        return True
    return bool(images.min() >= -_NEARLY and images.max() <= 1 + _NEARLY)


def check_unit_range(train: Loader, transform: Transform) -> None:
    """Raises a `ValueError` if an augmentation needs images from 0 to 1, and these have others.

    Images that a function of the transform may scale are not checked.
    """
    if not isinstance(transform, Compose) or transform.has_functions:
        return
    name = transform.needs_unit_range
    images = None if name is None else train.some_images()
    if images is not None and not is_scaled(images):
        raise ValueError(
            f"`transform`: {name} changes images from 0 to 1, but `train` has {images.dtype} "
            f"images from {images.min():g} to {images.max():g}. Pass uint8 images, or divide by "
            "the largest value."
        )


def warn_of_scales(train: Loader, other: Loader) -> None:
    """Warns if uint8 images of one split are scaled to 0..1 and floats of the other exceed 0..1."""
    seen = {loader.argument: loader.some_images() for loader in (train, other)}
    known = {name: images for name, images in seen.items() if images is not None}
    if len(known) < 2 or len({images.dtype == np.uint8 for images in known.values()}) < 2:
        return
    ((name, images),) = ((n, some) for n, some in known.items() if some.dtype != np.uint8)
    if not is_scaled(images):
        low, high = float(images.min()), float(images.max())
        (whole,) = seen.keys() - {name}
        logger.warning(
            "`%s` has %s images from %g to %g, which are not scaled, and `%s` has uint8 images, "
            "which are divided by 255, so the model sees two scales. Use the same dtype in both.",
            name, images.dtype, low, high, whole,
        )  # fmt: skip
