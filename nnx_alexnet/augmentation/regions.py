"""Draws rectangles of random area and aspect ratio inside an image."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

_NUM_TRIES = 10  # as in torchvision


class Region(NamedTuple):
    """A rectangle of whole pixels.

    Attributes:
        start: row and column of its top left corner, int32 `[2]`.
        size: height and width, int32 `[2]`.
        found: whether one of the tries fitted into the image, bool `[]`; if not, `start` and
            `size` have no meaning.
    """

    start: jax.Array
    size: jax.Array
    found: jax.Array


def draw_region(
    key: jax.Array,
    sides: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    *,
    tall: bool = False,
    strict: bool = False,
) -> Region:
    """Draws a rectangle with uniform area and log-uniform aspect ratio.

    Ten pairs of area and ratio are drawn, and the first one that fits into the image is used.

    Args:
        key: a key of `jax.random`.
        sides: height and width of the image.
        scale: smallest and largest area, as a fraction of that of the image.
        ratio: smallest and largest aspect ratio.
        tall: whether the ratio is height by width (default False: width by height).
        strict: whether the rectangle must be smaller than the image in both directions (default
            False).
    """
    areas, ratios, places = jax.random.split(key, 3)
    area = jax.random.uniform(areas, (_NUM_TRIES,), minval=scale[0], maxval=scale[1])
    area = area * (sides[0] * sides[1])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    root = jnp.exp(jax.random.uniform(ratios, (_NUM_TRIES,), minval=low, maxval=high) / 2)
    longer, shorter = jnp.sqrt(area) * root, jnp.sqrt(area) / root
    pair = (longer, shorter) if tall else (shorter, longer)
    size = jnp.round(jnp.stack(pair, axis=-1)).astype(jnp.int32)
    limits = jnp.array(sides, jnp.int32) - int(strict)
    fits = ((size > 0) & (size <= limits)).all(axis=-1)
    size = size[jnp.argmax(fits)]
    room = jnp.array(sides, jnp.int32) - size
    where = jnp.floor(jax.random.uniform(places, (2,)) * (room + 1)).astype(jnp.int32)
    return Region(jnp.clip(where, 0, room), size, fits.any())


def central_region(sides: tuple[int, int], ratio: tuple[float, float]) -> Region:
    """Returns the largest central rectangle whose ratio of width to height is in a range.

    Example:
        >>> from nnx_alexnet.augmentation.regions import central_region
        >>> region = central_region((8, 24), (3 / 4, 4 / 3))
        >>> region.start.tolist(), region.size.tolist()
        ([0, 6], [8, 11])
    """
    height, width = sides
    if width / height < ratio[0]:
        height = min(height, round(width / ratio[0]))
    elif width / height > ratio[1]:
        width = min(width, round(height * ratio[1]))
    start = (sides[0] - height) // 2, (sides[1] - width) // 2
    return Region(jnp.array(start), jnp.array((height, width)), jnp.array(True))
