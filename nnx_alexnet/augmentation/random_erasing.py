"""Random erasing of a rectangle in each image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from nnx_alexnet.augmentation.arguments import interval
from nnx_alexnet.augmentation.base import Augmentation
from nnx_alexnet.augmentation.regions import draw_region
from nnx_alexnet.support import check_bools


@dataclass(frozen=True)
class RandomErasing(Augmentation):
    """Replaces a random rectangle in each image with a given probability.

    It runs after the images are standardised, so a `value` of 0 is the mean colour. Masks, boxes
    and keypoints stay as they are.

    Args:
        probability: the probability that an image loses a rectangle, in [0, 1] (default 0.5).
        scale: smallest and largest area of the rectangle, as a fraction of the image's (default
            (0.02, 0.33)).
        ratio: smallest and largest aspect ratio, height by width (default (0.3, 3.3)).
        value: the value of the pixels in the rectangle (default 0).
        noise: whether to fill the rectangle with standard normal noise, drawn for each pixel and
            channel, instead of `value` (default False).

    Raises:
        ValueError: an argument is out of its range.
        TypeError: an argument has the wrong type.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nnx_alexnet.augmentation import RandomErasing
        >>> batch = {"image": jnp.ones((2, 8, 8, 1)), "index": jnp.arange(2)}
        >>> image = RandomErasing(1.0, scale=(0.25, 0.25), ratio=(1, 1))(batch, jax.random.key(0))
        >>> image["image"].sum(axis=(1, 2, 3)).tolist()
        [48.0, 48.0]

    Source: Zhong et al., "Random Erasing Data Augmentation", 2017
    (https://arxiv.org/abs/1708.04896). The defaults are torchvision's.
    """

    probability: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: float = 0.0
    noise: bool = False
    ranges: ClassVar = {"probability": (0, 1), "value": (-math.inf, math.inf)}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scale", interval("scale", self.scale, largest=1))
        object.__setattr__(self, "ratio", interval("ratio", self.ratio))
        check_bools(noise=self.noise)

    def example(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Returns one image, with a rectangle erased or unchanged."""
        coins, places, noise = jax.random.split(key, 3)
        height, width = image.shape[:2]
        region = draw_region(
            places, (height, width), self.scale, self.ratio, tall=True, strict=True
        )
        rows, columns = (
            (jnp.arange(side) >= start) & (jnp.arange(side) < start + size)
            for side, start, size in zip((height, width), region.start, region.size, strict=True)
        )
        is_erased = region.found & jax.random.bernoulli(coins, self.probability)
        inside = rows[:, None, None] & columns[:, None] & is_erased
        new = jax.random.normal(noise, image.shape, image.dtype) if self.noise else self.value
        return jnp.where(inside, new, image)
