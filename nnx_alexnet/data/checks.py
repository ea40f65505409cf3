"""Checks that the splits of a run fit together, and that `predict` gets images."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnx_alexnet.data.convert import is_array
from nnx_alexnet.data.loader import Loader
from nnx_alexnet.support import logger

_NEARLY = 1e-3  # resampling overshoots


def check_distinct(**splits: Any) -> None:
    """Raises a `ValueError` for one iterator that is given as two splits, which would share it."""
    iterators = {name: split for name, split in splits.items() if isinstance(split, Iterator)}
    for number, (name, split) in enumerate(iterators.items()):
        for other in [*iterators][:number]:
            if iterators[other] is split:
                raise ValueError(
                    f"`{other}` and `{name}` are the same {type(split).__name__}: each split "
                    "would consume batches of the other. Pass a separate one for each split."
                )


def check_images(images: Any, shape: tuple[int, ...]) -> None:
    """Raises unless `images` is one array of several images."""
    how = f"one array of images, uint8 or float32 [N, {', '.join(map(str, shape))}]"
    if not is_array(images):
        remedy = ""
        if isinstance(images, tuple):
            remedy = " Pass only the images of (images, labels)."
        elif isinstance(images, list):
            remedy = " np.stack(images) makes an array of a list of images of one shape."
        elif hasattr(images, "__iter__") or hasattr(images, "__getitem__"):
            remedy = (
                " Pass a dataset or loader as the test split, DataModule(train, test=...), and "
                "call predict() without an argument."
            )
        raise TypeError(f"`images` is a {type(images).__name__}; expected {how}.{remedy}")
    got = tuple(np.shape(images))
    if len(got) > len(shape):
        return
    remedy = ""
    if len(got) == len(shape) and sorted(got) == sorted(shape):  # torch has the channels first
        remedy = " This is the shape of a single image: pass images[None]."
    elif len(got) == len(shape) and (*got[1:], 1) == shape:
        remedy = " images[..., None] adds the channel axis."
    raise ValueError(f"`images` has the shape {got}; expected {how}.{remedy}")


def warn_of_scales(train: Loader, other: Loader) -> None:
    """Warns where uint8 is scaled to 0..1 in one split, and floats of another are not in it."""
    seen = {loader.argument: loader.some_images() for loader in (train, other)}
    floats = {name: images for name, images in seen.items() if images.dtype == np.float32}
    if len(floats) != 1:
        return
    ((name, images),) = floats.items()
    low, high = float(images.min()), float(images.max())
    if low < -_NEARLY or high > 1 + _NEARLY:
        (whole,) = seen.keys() - {name}
        logger.warning(
            "`%s` has float32 images from %g to %g, which are taken as they are, and `%s` has "
            "uint8 images, which are divided by 255, so the model sees two scales. Use the same "
            "dtype in both.",
            name, low, high, whole,
        )  # fmt: skip
