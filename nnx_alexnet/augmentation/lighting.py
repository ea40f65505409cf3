"""The PCA lighting of the AlexNet paper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from nnx_alexnet.augmentation.arguments import finite
from nnx_alexnet.augmentation.base import Augmentation

# Of ImageNet's RGB values from 0 to 1, as in fb.resnet.torch (datasets/imagenet.lua).
IMAGENET_EIGENVALUES = (0.2175, 0.0188, 0.0045)
IMAGENET_EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


@dataclass(frozen=True)
class Lighting(Augmentation):
    """Adds random multiples of the principal components of the colours to each image.

    All pixels of an image change by the same amount, `vectors @ (a * values)`. There is one `a` per
    component, drawn from a normal distribution. The result is not clipped.

    Args:
        sigma: the standard deviation of `a`, at least 0 (default 0.1, as in the paper).
        eigenvalues: one per channel, for images from 0 to 1 (default: those of ImageNet).
        eigenvectors: one row per channel and one column per eigenvalue (default: those of
            ImageNet).

    Raises:
        ValueError: an argument is out of its range, or the sizes differ.
        TypeError: an argument is not a number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nnx_alexnet.augmentation import Lighting
        >>> batch = {"image": jnp.zeros((2, 4, 4, 3)), "index": jnp.arange(2)}
        >>> image = Lighting()(batch, jax.random.key(0))["image"]
        >>> bool((image == image[:, :1, :1]).all())  # the same change in all pixels of an image
        True

    Source: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional
    Neural Networks", NIPS 2012, section 4.1.
    """

    sigma: float = 0.1
    eigenvalues: tuple[float, ...] = IMAGENET_EIGENVALUES
    eigenvectors: tuple[tuple[float, ...], ...] = IMAGENET_EIGENVECTORS
    on_unit_range: ClassVar[bool] = True
    ranges: ClassVar = {"sigma": (0, math.inf)}

    def __post_init__(self) -> None:
        super().__post_init__()
        values = tuple(finite("eigenvalues", each) for each in self.eigenvalues)
        vectors = tuple(
            tuple(finite("eigenvectors", each) for each in row) for row in self.eigenvectors
        )
        if {len(vectors), *map(len, vectors)} != {len(values)}:
            raise ValueError(
                f"`eigenvectors` has rows of {[*map(len, vectors)]} numbers and `eigenvalues` has "
                f"{len(values)}; {len(values)} eigenvalues need {len(values)} rows of as many."
            )
        object.__setattr__(self, "eigenvalues", values)
        object.__setattr__(self, "eigenvectors", vectors)

    def check_channels(self, channels: int) -> None:
        """Raises a `ValueError` unless there is an eigenvector for each channel."""
        if channels != len(self.eigenvalues):
            raise ValueError(
                f"`transform`: Lighting has {len(self.eigenvalues)} `eigenvalues`, but the images "
                f"have {channels} channels. pca_lighting(images) computes those of your images."
            )

    def example(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Returns one image under changed lighting."""
        values = jnp.array(self.eigenvalues, image.dtype)
        amounts = self.sigma * jax.random.normal(key, values.shape, image.dtype) * values
        return image + (jnp.array(self.eigenvectors, image.dtype) * amounts).sum(axis=1)


def pca_lighting(images: np.ndarray[Any, Any], sigma: float = 0.1) -> Lighting:
    """Returns the `Lighting` for a set of images, computed from the covariance of their channels.

    Args:
        images: `[N, H, W, C]`; uint8, which is divided by 255, or floats from 0 to 1.
        sigma: see `Lighting` (default 0.1).

    Raises:
        ValueError: the array does not have four axes.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.augmentation import pca_lighting
        >>> images = np.random.default_rng(0).random((8, 4, 4, 1))
        >>> light = pca_lighting(images)
        >>> bool(np.isclose(light.eigenvalues[0], images.var(ddof=1))), light.eigenvectors
        (True, ((1.0,),))
    """
    if images.ndim != 4:
        raise ValueError(f"`images` has shape {images.shape}; it must be [N, H, W, C].")
    pixels = images.reshape(-1, images.shape[-1]).astype(np.float64)
    if images.dtype == np.uint8:
        pixels /= 255
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(pixels, rowvar=False)))
    largest_first = np.argsort(values)[::-1]
    rows = vectors[:, largest_first].tolist()
    return Lighting(sigma, tuple(values[largest_first].tolist()), tuple(map(tuple, rows)))
