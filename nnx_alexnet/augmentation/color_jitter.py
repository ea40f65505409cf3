"""Random brightness, contrast, saturation and hue."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax

from nnx_alexnet.augmentation.base import Augmentation, check_colors
from nnx_alexnet.augmentation.colors import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
)

Change = Callable[[jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class ColorJitter(Augmentation):
    """Changes brightness, contrast, saturation and hue of each image at random.

    The factors are drawn uniformly from `[max(0, 1 - x), 1 + x]`. The operations are those of
    torchvision's `ColorJitter`, but always in this order; torchvision shuffles them. The result is
    clipped to 0..1. Grey images have neither saturation nor hue.

    Args:
        brightness: largest change of the factor, at least 0 (default 0.4).
        contrast: the same for the contrast (default 0.4).
        saturation: the same for the saturation (default 0.4).
        hue: largest shift of the hue, in [0, 0.5]; 0.5 is half a turn (default 0).

    Raises:
        ValueError: an argument is out of its range.
        TypeError: an argument is not a number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nnx_alexnet.augmentation import ColorJitter
        >>> batch = {"image": jnp.full((2, 4, 4, 3), 0.5), "index": jnp.arange(2)}
        >>> image = ColorJitter(brightness=0.2)(batch, jax.random.key(0))["image"]
        >>> bool((image >= 0.4).all() and (image <= 0.6).all())
        True

    Source: Howard, "Some Improvements on Deep Convolutional Neural Network Based Image
    Classification", 2013 (https://arxiv.org/abs/1312.5402).
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.0
    on_unit_range: ClassVar[bool] = True
    ranges: ClassVar = {
        **dict.fromkeys(("brightness", "contrast", "saturation"), (0, math.inf)),
        "hue": (0, 0.5),
    }

    def check_channels(self, channels: int) -> None:
        """Raises a `ValueError` unless images are grey or RGB."""
        check_colors(self, channels)

    def example(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Returns one image with changed colours."""
        keys = jax.random.split(key, 4)
        changes: list[tuple[float, Change]] = [
            (self.brightness, adjust_brightness),
            (self.contrast, adjust_contrast),
            (self.saturation, adjust_saturation),
        ]
        for number, (largest, change) in enumerate(changes):
            if largest > 0:
                low, high = max(0.0, 1 - largest), 1 + largest
                factor = jax.random.uniform(keys[number], minval=low, maxval=high)
                image = change(image, factor)
        if self.hue > 0:
            shift = jax.random.uniform(keys[3], minval=-self.hue, maxval=self.hue)
            image = adjust_hue(image, shift)
        return image
