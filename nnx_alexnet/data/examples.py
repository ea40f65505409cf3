"""The examples that every source of a split returns, stacked along a first axis."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from nnx_alexnet.data.convert import (
    as_images,
    as_labels,
    check_label_axes,
    is_channels_first,
    is_torch,
    to_numpy,
)

ElementSpec = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]


class Rows(NamedTuple):
    """Examples, stacked along a first axis.

    Attributes:
        image: uint8 or float32 `[N, ...]`.
        label: int32 or float32 `[N, ...]`.
        mask: bool `[N]`, False for rows that do not count; None if all count.
        bad: which examples could not be read, and why; others stand in for them.
    """

    image: np.ndarray
    label: np.ndarray
    mask: np.ndarray | None = None
    bad: Mapping[int, str] = MappingProxyType({})

    def element_spec(self) -> ElementSpec:
        """Returns the shape (without the batch) and dtype of one image and one label."""
        return {
            "image": (self.image.shape[1:], self.image.dtype),
            "label": (self.label.shape[1:], self.label.dtype),
        }


def evenly_spaced(num: int, most: int) -> np.ndarray:
    """Returns at most `most` indices below `num`, including the first and the last.

    Example:
        >>> from nnx_alexnet.data.examples import evenly_spaced
        >>> evenly_spaced(9, 3).tolist(), evenly_spaced(2, 3).tolist()
        ([0, 4, 8], [0, 1])
    """
    return np.unique(np.linspace(0, num - 1, most).round().astype(int))


def as_rows(
    image: Any, label: Any, mask: Any, argument: str, report: Callable[[str], None]
) -> Rows:
    """Converts and checks arrays that have a batch axis.

    Args:
        image: images of any array type, `[N, ...]`.
        label: labels of any array type, `[N, ...]`.
        mask: which rows count, `[N]`, or None.
        argument: what the user calls them, for errors.
        report: receives a message if axes are transposed.

    Raises:
        ValueError: the arrays are not usable, or do not fit together.
    """
    pixels, targets = to_numpy(image, argument), to_numpy(label, argument)
    if pixels.ndim < 2 or targets.ndim < 1:
        swapped = " They look swapped." if pixels.ndim == 1 and targets.ndim > 1 else ""
        raise ValueError(
            f"`{argument}` has images of shape {pixels.shape} and labels of shape {targets.shape}; "
            f"both need a first axis over examples, and images a second one.{swapped} Single "
            "examples are put into batches by torch.utils.data.DataLoader(dataset, batch_size=...)."
        )
    images, labels = as_images(pixels, argument), as_labels(targets, argument)
    if len(images) != len(labels):
        raise ValueError(
            f"`{argument}` has {len(images)} images and {len(labels)} labels; there must be one "
            "label for each image. Each split is one tuple: ((train_images, train_labels), "
            "(val_images, val_labels))."
        )
    check_label_axes(labels, argument)
    if is_torch(image) and is_channels_first(images.shape[1:]):
        report(f"`{argument}`: torch images {list(images.shape)} are NCHW, transposed to NHWC.")
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    if mask is not None:
        mask = to_numpy(mask, argument).astype(bool)
        if mask.shape != (len(images),):
            raise ValueError(
                f"`{argument}` has a mask of shape {mask.shape}; expected {(len(images),)}."
            )
    return Rows(images, labels, mask)
