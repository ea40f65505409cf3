"""Reads image files and PIL images in the form of the images that a model was trained on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnx_alexnet.data.convert import is_pil
from nnx_alexnet.data.image_decoding import decode, squared


@dataclass(frozen=True)
class ImageReader:
    """Reads images as squares of one size.

    Args:
        resize: the shorter side after resizing, in pixels.
        size: side of the square that is cut out of the middle, in pixels.
        channels: 3 for RGB, 1 for grey.
        dtype: uint8 (the default), or a floating-point dtype for values from 0 to 1.

    Example:
        >>> from PIL import Image
        >>> from nnx_alexnet.data.image_reader import ImageReader
        >>> read = ImageReader(resize=4, size=4, channels=3)
        >>> read(Image.new("L", (30, 20), 7))[0, 0].tolist()
        [7, 7, 7]
    """

    resize: int
    size: int
    channels: int
    dtype: Any = np.uint8

    def __call__(self, image: Any) -> np.ndarray:
        """Returns the pixels of a file or of a PIL image, `[size, size, channels]`.

        Raises:
            ValueError: see `decode`.
            OSError: see `decode`.
        """
        to_pixels = squared if is_pil(image) else decode
        form = {"resize": self.resize, "size": self.size, "channels": self.channels}
        pixels: np.ndarray = to_pixels(image, **form)
        if self.dtype == np.uint8:
            return pixels
        return (pixels / np.float32(255)).astype(self.dtype)


def square_reader(shape: Sequence[int], *, resize: int | None = None) -> ImageReader | None:
    """Returns the reader of images of a shape; None if image files cannot have it.

    Args:
        shape: should be a square with 1 or 3 channels, `(S, S, C)`.
        resize: the shorter side after resizing (default S).

    Example:
        >>> from nnx_alexnet.data.image_reader import square_reader
        >>> square_reader((8, 8, 3)).channels, square_reader((8, 9, 3))
        (3, None)
    """
    if len(shape) != 3 or shape[0] != shape[1] or shape[2] not in (1, 3):
        return None
    return ImageReader(shape[0] if resize is None else resize, shape[0], shape[2])


class Images:
    """A map-style dataset of image files and PIL images without labels.

    Args:
        images: paths and PIL images.
        read: returns the pixels of one of them.
    """

    def __init__(self, images: Sequence[Any], read: ImageReader) -> None:
        self._images = images
        self._read = read

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._read(self._images[index])


def is_image(value: object) -> bool:
    """Returns whether a value is a path or a PIL image.

    Example:
        >>> from nnx_alexnet.data.image_reader import is_image
        >>> is_image("cat.jpg"), is_image(3)
        (True, False)
    """
    return isinstance(value, str | os.PathLike) or is_pil(value)
