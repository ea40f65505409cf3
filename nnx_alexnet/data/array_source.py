"""A source of examples in memory."""

import hashlib
from typing import Any

import numpy as np

from nnx_alexnet.data.examples import ElementSpec, Rows, as_rows, evenly_spaced
from nnx_alexnet.support import logger

_WHOLE_BYTES = 64 * 2**20  # larger arrays are digested in part
_SAMPLED_ROWS = 256  # of larger arrays


class ArraySource:
    """Holds images and labels in memory.

    Args:
        images: `[N, ...]` of rank 2 or more; uint8, float32, or float64, which is converted.
            A torch tensor `[N, C, H, W]` is transposed to NHWC.
        labels: `[N]` integers, or floats of any trailing shape.
        argument: what the user calls the split, for errors.

    Attributes:
        rows: all examples.

    Raises:
        ValueError: images and labels do not fit together, or there are none.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.sources import ArraySource
        >>> source = ArraySource(np.zeros((5, 8, 8, 1), np.uint8), np.arange(5))
        >>> source.take(np.array([4, 0]), seed=0, epoch=0).label
        array([4, 0], dtype=int32)
    """

    def __init__(self, images: Any, labels: Any, *, argument: str = "data") -> None:
        self.rows = as_rows(images, labels, None, argument, logger.info)
        if not len(self):
            raise ValueError(f"`{argument}` is empty: it has no examples.")
        some = self.some_images()
        if some.dtype == np.float32 and some.ndim == 4 and some.min() >= 0 and some.max() > 100:
            logger.warning(
                "`%s` has floating-point images from %g to %g, which are not scaled; uint8 images "
                "would be divided by 255.",
                argument, some.min(), some.max(),
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.rows.image)

    def element_spec(self) -> ElementSpec:
        """Returns the shape and dtype of one image and one label."""
        return self.rows.element_spec()

    def some_images(self) -> np.ndarray:
        """Returns evenly spaced images."""
        some: np.ndarray = self.rows.image[evenly_spaced(len(self), _SAMPLED_ROWS)]
        return some

    def labels(self) -> np.ndarray | None:
        """Returns all labels if they are classes, or None."""
        labels = self.rows.label
        return labels if labels.dtype == np.int32 and labels.ndim == 1 else None

    def take(self, indices: np.ndarray, *, seed: int, epoch: int) -> Rows:
        """Returns the examples at `indices`."""
        return Rows(self.rows.image[indices], self.rows.label[indices])

    def digest(self) -> str | None:
        """Returns a SHA-256 of all bytes, or of evenly spaced rows of large arrays."""
        digest = hashlib.sha256()
        for array in (self.rows.image, self.rows.label):
            digest.update(f"{array.dtype}{array.shape}".encode())
            part = array
            if array.nbytes > _WHOLE_BYTES:
                part = array[evenly_spaced(len(array), _SAMPLED_ROWS)]
            digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()
