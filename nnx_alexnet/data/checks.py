"""Checks that the splits of a run fit together."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from nnx_alexnet.data.examples import spec_text
from nnx_alexnet.data.function_transform import Transform
from nnx_alexnet.data.loader import Loader
from nnx_alexnet.support import logger

_NEARLY = 1e-3  # resampling overshoots


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


def transformed_image(
    loader: Loader, transform: Transform, *, may_lack_fields: bool = False
) -> jax.ShapeDtypeStruct | None:
    """Returns the shape and dtype of one image of a split after the transform, if there is one.

    Args:
        loader: of the split. An iterable is asked for its first batch.
        transform: of the batches.
        may_lack_fields: whether fields may be missing that the transform moves with the image.

    Raises:
        ValueError: the transform does not accept such examples, or would move the pixels of the
            images but not the fields that belong to them.
    """
    spec = loader.element_spec()
    try:
        image: Any = transform.check(spec, may_lack_fields=may_lack_fields).get("image")
    except ValueError as error:
        raise ValueError(f"`{loader.argument}`: {error}") from error
    return image if isinstance(image, jax.ShapeDtypeStruct) else None


def check_images(splits: Mapping[str, Loader], transform: Transform) -> None:
    """Checks that images of all splits have one shape and one dtype after the transform.

    Iterables are left out, since their first batch would have to be read.

    Raises:
        ValueError: two splits differ.
    """
    images: dict[str, jax.ShapeDtypeStruct] = {}
    for name, loader in splits.items():
        if not loader.indexable:
            continue
        image = transformed_image(loader, transform, may_lack_fields=name != "train")
        if image is None:
            continue
        images[name] = image
        first, first_image = next(iter(images.items()))
        if (image.shape, image.dtype) != (first_image.shape, first_image.dtype):
            before = [spec_text(splits[each].element_spec()["image"]) for each in (name, first)]
            remedy = (
                "ImageTransform(image_size=...) resizes images, of one size per split. Resize "
                "images of several sizes in the dataset."
            )
            if image.shape == first_image.shape:
                remedy = "Use the same dtype in both: uint8, or floats from 0 to 1."
            raise ValueError(
                f"`{name}` has images {before[0]}, `{first}` has {before[1]}; after the transform "
                f"these are {spec_text(image)} and {spec_text(first_image)}, which must be equal. "
                f"{remedy}"
            )


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
    """Returns whether images are from 0 to 1, or uint8, which are scaled to that later.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.checks import is_scaled
        >>> is_scaled(np.full(2, 0.5)), is_scaled(np.full(2, 255.0)), is_scaled(np.uint8([255]))
        (True, False, True)
    """
    if images.dtype == np.uint8:
        return True
    return bool(images.min() >= -_NEARLY and images.max() <= 1 + _NEARLY)


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
