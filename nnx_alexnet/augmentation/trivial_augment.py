"""TrivialAugment: one random operation of random strength per image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from nnx_alexnet.augmentation.affine import affine
from nnx_alexnet.augmentation.base import Augmentation, check_colors
from nnx_alexnet.augmentation.colors import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    adjust_sharpness,
    autocontrast,
    equalize,
    posterize,
)
from nnx_alexnet.support import check_integer

MOVES = ("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate")
OPERATIONS = (
    *MOVES, "brightness", "color", "contrast", "sharpness", "posterize", "solarize",
    "autocontrast", "equalize",
)  # fmt: skip


@dataclass(frozen=True)
class TrivialAugment(Augmentation):
    """Applies one random operation of random strength to each image.

    The 14 operations and their ranges are those of torchvision's `TrivialAugmentWide`:

    - no change, autocontrast, equalize;
    - shear along x or y by up to 0.99, translation along x or y by up to 32 pixels, and rotation by
      up to 135 degrees;
    - brightness, colour (saturation), contrast and sharpness, by a factor from 0.01 to 1.99;
    - posterize to 8 to 2 bits, and solarize with a threshold from 1 to 0.

    All operations are equally likely, and so are all strengths and both directions. Moved images
    are resampled bilinearly, and black outside. Masks, boxes and keypoints are refused.

    Args:
        num_magnitude_bins: the number of strengths, at least 2 (default 31).

    Raises:
        ValueError: `num_magnitude_bins` is not an integer of at least 2.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nnx_alexnet.augmentation import TrivialAugment
        >>> batch = {"image": jnp.full((50, 4, 4, 1), 0.5), "index": jnp.arange(50)}
        >>> image = jax.jit(TrivialAugment())(batch, jax.random.key(0))["image"]
        >>> is_changed = (image != 0.5).any(axis=(1, 2, 3))
        >>> bool(is_changed.any()), bool(is_changed.all())
        (True, False)

    Source: Müller and Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data
    Augmentation", 2021 (https://arxiv.org/abs/2103.10158).
    """

    num_magnitude_bins: int = 31
    on_unit_range: ClassVar[bool] = True
    moves_pixels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_integer("num_magnitude_bins", self.num_magnitude_bins, minimum=2)

    def check_channels(self, channels: int) -> None:
        """Raises a `ValueError` unless images are grey or RGB."""
        check_colors(self, channels)

    def example(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Returns one image, changed by a random operation."""
        return changed(image, *draw_operation(key, self.num_magnitude_bins))


def draw_operation(key: jax.Array, num_magnitude_bins: int) -> tuple[jax.Array, jax.Array]:
    """Draws an operation and its strength.

    Args:
        key: a key of `jax.random`.
        num_magnitude_bins: the number of strengths from 0 to 1.

    Returns:
        The index in `OPERATIONS`, int32 `[]`, and the strength from -1 to 1, float32 `[]`.
    """
    operations, magnitudes, signs = jax.random.split(key, 3)
    operation = jax.random.randint(operations, (), 0, len(OPERATIONS))
    magnitude = jax.random.randint(magnitudes, (), 0, num_magnitude_bins)
    sign = jnp.where(jax.random.bernoulli(signs), 1.0, -1.0)
    return operation, sign * magnitude / (num_magnitude_bins - 1)


def changed(image: jax.Array, operation: jax.Array, strength: jax.Array) -> jax.Array:
    """Returns an image, changed by an operation.

    Args:
        image: float `[H, W, C]` from 0 to 1; grey or RGB.
        operation: the index in `OPERATIONS`, int32 `[]`.
        strength: from -1 to 1, float `[]`; operations without a direction use its absolute value.
    """
    factor, size = 1 + 0.99 * strength, jnp.abs(strength)
    # All results are computed. `lax.switch` would compute them too, because of `vmap`.
    results = (
        moved(image, operation, strength),
        adjust_brightness(image, factor),
        adjust_saturation(image, factor),
        adjust_contrast(image, factor),
        adjust_sharpness(image, factor),
        posterize(image, 8 - jnp.round(6 * size).astype(jnp.int32)),
        jnp.where(image >= 1 - size, 1 - image, image),  # solarize
        autocontrast(image),
        equalize(image),
    )
    # All moves have the first result.
    return jax.lax.select_n(jnp.maximum(operation - len(MOVES) + 1, 0), *results)


def moved(image: jax.Array, move: jax.Array, strength: jax.Array) -> jax.Array:
    """Returns an image, moved by one of `MOVES`.

    Args:
        image: float `[H, W, C]`.
        move: the index in `MOVES`, int32 `[]`.
        strength: from -1 to 1, float `[]`.
    """
    shear, shift = 0.99 * strength, jnp.trunc(32 * strength)
    angle = jnp.radians(135 * strength)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    matrices = jnp.eye(2) * jnp.ones((len(MOVES), 1, 1))
    matrices = matrices.at[MOVES.index("shear_x"), 1, 0].set(shear)
    matrices = matrices.at[MOVES.index("shear_y"), 0, 1].set(shear)
    matrices = matrices.at[MOVES.index("rotate")].set(jnp.array([[cos, sin], [-sin, cos]]))
    offsets = jnp.zeros((len(MOVES), 2))
    offsets = offsets.at[MOVES.index("translate_x"), 1].set(-shift)
    offsets = offsets.at[MOVES.index("translate_y"), 0].set(-shift)
    # Shears keep the top left corner, and rotations the centre.
    centre = jnp.array(image.shape[:2]) / 2
    pivot = jnp.where(move == MOVES.index("rotate"), centre, 0)
    return affine(image, matrices[move], pivot, offsets[move])
