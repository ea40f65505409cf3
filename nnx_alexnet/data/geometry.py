"""Moves images, and the masks, boxes and keypoints that belong to them."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnx_alexnet.augmentation import central_region, draw_region

_NEARLY = 1e-4  # of a pixel: 227 / 256 * 256 need not be 227 in floating point

Sides = tuple[int, int]


def unit_scaled(image: jax.Array) -> jax.Array:
    """Converts images to float32; uint8 is scaled to 0..1."""
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255.0
    return image.astype(jnp.float32)


class Geometry(NamedTuple):
    """Describes how the images of a batch move: mirrored, then a region is cut out and resized.

    Coordinates are in pixels from the top left corner of the image, so the pixel in row `r` and
    column `c` covers `r` to `r + 1` and `c` to `c + 1`.

    Attributes:
        sides: height and width of the images.
        region: height and width of the region; float32 `[B, 2]` if it differs between images.
        size: height and width of the result.
        margin: whole pixels by which an exact region may leave the image, vertically and
            horizontally.
        is_exact: whether the region consists of whole pixels, so that nothing is resampled.
        start: the top left corner of the region in the mirrored image, (y, x), float32 `[B, 2]`.
        mirrored: which images are mirrored left and right, bool `[B]`; None if none is.
    """

    sides: Sides
    region: tuple[float, float] | jax.Array
    size: Sides
    margin: Sides
    is_exact: bool
    start: jax.Array
    mirrored: jax.Array | None

    def images(self, image: jax.Array) -> jax.Array:
        """Moves images `[B, H, W, C]`, black outside of them, and scales them by `unit_scaled`."""
        image = self._mirror(image)
        if self.is_exact:  # the pixels move before they become four times as large
            return unit_scaled(self._cut(image, 0))
        image = unit_scaled(image)
        if isinstance(self.region, jax.Array):
            resized = partial(_resize_region, size=self.size)
            return jax.vmap(resized)(image, self.start, self.region)
        scale = jnp.array(self._scale(), jnp.float32)
        return jax.vmap(_resample, (0, 0, None, None))(image, self.start, scale, self.size)

    def masks(self, mask: jax.Array, fill: float) -> jax.Array:
        """Moves masks `[B, H, W]` or `[B, H, W, C]` by nearest neighbour, with `fill` outside.

        A pixel of the result has the value of the pixel that contains its centre.
        """
        planes = self._mirror(mask if mask.ndim == 4 else mask[..., None])
        planes = self._cut(planes, fill) if self.is_exact else self._nearest(planes, fill)
        return planes if mask.ndim == 4 else planes[..., 0]

    def boxes(self, boxes: jax.Array) -> jax.Array:
        """Moves boxes (x_min, y_min, x_max, y_max), `[B, N, 4]`, and clips them to the result."""
        x_min, y_min, x_max, y_max = jnp.moveaxis(boxes.astype(jnp.float32), -1, 0)
        if self.mirrored is not None:
            flipped, width = self.mirrored[:, None], float(self.sides[1])
            x_min, x_max = (
                jnp.where(flipped, width - x_max, x_min),
                jnp.where(flipped, width - x_min, x_max),
            )
        corners = jnp.stack([x_min, y_min, x_max, y_max], axis=-1)
        largest = jnp.array([self.size[1], self.size[0]] * 2, jnp.float32)
        moved = jnp.clip(self._move(corners.reshape(*corners.shape[:2], 2, 2)), 0, largest[:2])
        return moved.reshape(corners.shape).astype(boxes.dtype)

    def keypoints(self, points: jax.Array) -> jax.Array:
        """Moves points (x, y), `[B, N, 2]`, which may leave the image."""
        moved = points.astype(jnp.float32)
        if self.mirrored is not None:
            flipped = moved.at[..., 0].set(self.sides[1] - moved[..., 0])
            moved = jnp.where(self.mirrored[:, None, None], flipped, moved)
        return self._move(moved[:, :, None])[:, :, 0].astype(points.dtype)

    def _scale(self) -> tuple[float, float]:
        assert not isinstance(self.region, jax.Array)
        height, width = (s / r for s, r in zip(self.size, self.region, strict=True))
        return height, width

    def _mirror(self, image: jax.Array) -> jax.Array:
        if self.mirrored is None:
            return image
        return jnp.where(self.mirrored[:, None, None, None], image[:, :, ::-1], image)

    def _cut(self, image: jax.Array, fill: float) -> jax.Array:
        """Cuts whole pixels out of images."""
        if self.size == self.sides and self.margin == (0, 0):
            return image
        start = self.start.astype(jnp.int32) + jnp.array(self.margin, jnp.int32)
        pads = [(0, 0), *((m, m) for m in self.margin), (0, 0)]
        padded = jnp.pad(image, pads, constant_values=jnp.array(fill, image.dtype))
        return jax.vmap(_patch, (0, 0, None))(padded, start, self.size)

    def _nearest(self, planes: jax.Array, fill: float) -> jax.Array:
        """Resizes the region by nearest neighbour."""
        where, inside = [], []
        for axis, side in enumerate(self.sides):
            # The centres of the pixels of the result; float64, so that ties are exact.
            centres = np.arange(self.size[axis]) + 0.5
            offsets: jax.Array
            if isinstance(self.region, jax.Array):
                offsets = jnp.asarray(centres) * self.region[:, axis, None] / self.size[axis]
            else:
                offsets = jnp.array(centres * self.region[axis] / self.size[axis], jnp.float32)
            place = jnp.floor(self.start[:, axis, None] + offsets)
            inside.append((place >= 0) & (place < side))
            where.append(jnp.clip(place, 0, side - 1).astype(jnp.int32))
        taken = jax.vmap(lambda plane, rows, columns: plane[rows][:, columns])(planes, *where)
        is_inside = inside[0][:, :, None, None] & inside[1][:, None, :, None]
        return jnp.where(is_inside, taken, jnp.array(fill, planes.dtype))

    def _move(self, points: jax.Array) -> jax.Array:
        """Moves points (x, y) of the mirrored image, float32 `[B, N, P, 2]`."""
        if isinstance(self.region, jax.Array):
            scale = (jnp.array(self.size, jnp.float32) / self.region)[:, None, None, ::-1]
        else:
            scale = jnp.array(self._scale()[::-1], jnp.float32)
        return (points - self.start[:, None, None, ::-1]) * scale


def draw_geometry(
    shape: tuple[int, ...],
    *,
    image_size: int | None,
    translate: float,
    crop: float,
    flip: bool,
    key: jax.Array | None,
    index: jax.Array,
) -> Geometry:
    """Chooses the region of each image: the central one, or a random one if there is a key.

    Args:
        shape: of the batch of images, `(B, H, W, C)`.
        image_size: as of `ImageTransform`.
        translate: as of `ImageTransform`.
        crop: as of `ImageTransform`.
        flip: as of `ImageTransform`.
        key: the key of an epoch, or None.
        index: int32 `[B]`; gives each example its own random numbers. Not used without a key.
    """
    num, *sides = shape[:3]
    height, width = sides
    region = _snapped(crop * height), _snapped(crop * width)
    own = round(region[0]), round(region[1])
    size = own if image_size is None else (image_size, image_size)
    is_exact = all(float(s) == r for s, r in zip(size, region, strict=True))
    room = jnp.array([s - r for s, r in zip(sides, region, strict=True)], jnp.float32)
    start = jnp.broadcast_to(room / 2, (num, 2))
    vertical, horizontal = (translate * r if key is not None else 0.0 for r in region)
    margin, mirrored = (int(vertical), int(horizontal)), None
    if key is not None and (translate > 0 or crop < 1 or flip):
        where, coins = _draw(key, index)
        mirrored = coins if flip else None
        reach = jnp.array(margin if is_exact else (vertical, horizontal), jnp.float32)
        if is_exact:  # all whole offsets are equally likely: 0, 1, ..., room
            start = jnp.minimum(jnp.floor(where[:, 0] * (room + 1)), room)
            start += jnp.minimum(jnp.floor(where[:, 1] * (2 * reach + 1)), 2 * reach) - reach
        else:
            start = where[:, 0] * room + (2 * where[:, 1] - 1) * reach
    start = jnp.floor(start) if is_exact else start
    return Geometry((height, width), region, size, margin, is_exact, start, mirrored)


def draw_resized_crop(
    shape: tuple[int, ...],
    *,
    image_size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip: bool,
    key: jax.Array,
    index: jax.Array,
) -> Geometry:
    """Chooses a region of random area and aspect ratio of each image, as torchvision does.

    Args:
        shape: of the batch of images, `(B, H, W, C)`.
        image_size: side of the result.
        scale: smallest and largest area, as a fraction of the image's.
        ratio: smallest and largest aspect ratio, width by height.
        flip: whether half of the images are mirrored.
        key: the key of an epoch.
        index: int32 `[B]`; gives each example its own random numbers.
    """
    sides = shape[1], shape[2]
    usual = central_region(sides, ratio)

    def draw(index: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        places, coin = jax.random.split(jax.random.fold_in(key, index))
        drawn = draw_region(places, sides, scale, ratio)
        start = jnp.where(drawn.found, drawn.start, usual.start)
        size = jnp.where(drawn.found, drawn.size, usual.size)
        return start.astype(jnp.float32), size.astype(jnp.float32), jax.random.bernoulli(coin)

    start, region, coins = jax.vmap(draw)(index)
    size = (image_size, image_size)
    return Geometry(sides, region, size, (0, 0), False, start, coins if flip else None)


def ten_crops(shape: tuple[int, ...], *, image_size: int | None, crop: float) -> list[Geometry]:
    """Returns the corners and the centre, then the same of the mirrored images.

    Args:
        shape: of the batch of images, `(B, H, W, C)`.
        image_size: as of `ImageTransform`.
        crop: as of `ImageTransform`.
    """
    central = draw_geometry(
        shape,
        image_size=image_size,
        translate=0,
        crop=crop,
        flip=False,
        key=None,
        index=jnp.zeros((), jnp.int32),
    )
    assert not isinstance(central.region, jax.Array)
    down, right = (side - part for side, part in zip(shape[1:3], central.region, strict=True))
    corners = [(0.0, 0.0), (0.0, right), (down, 0.0), (down, right)]
    starts = [jnp.broadcast_to(jnp.array(each, jnp.float32), (shape[0], 2)) for each in corners]
    return [
        central._replace(start=start, mirrored=mirrored)
        for mirrored in (None, jnp.ones(shape[0], bool))
        for start in (*starts, central.start)
    ]


def _draw(key: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws four numbers in [0, 1), `[B, 2, 2]`, and a coin, `[B]`, for each example."""

    def draw(index: jax.Array) -> tuple[jax.Array, jax.Array]:
        numbers, coin = jax.random.split(jax.random.fold_in(key, index))
        return jax.random.uniform(numbers, (2, 2)), jax.random.bernoulli(coin)

    return jax.vmap(draw)(index)


def _snapped(side: float) -> float:
    return float(round(side)) if abs(side - round(side)) < _NEARLY else side


def _patch(image: jax.Array, start: jax.Array, size: Sides) -> jax.Array:
    """Cuts whole pixels out of one image `[H, W, C]`."""
    begin = (start[0], start[1], jnp.zeros((), start.dtype))
    return jax.lax.dynamic_slice(image, begin, (*size, image.shape[-1]))


def _resize_region(image: jax.Array, start: jax.Array, region: jax.Array, size: Sides) -> jax.Array:
    """Resizes the region of one image `[H, W, C]`, without the pixels around it."""
    rows, columns = (
        _triangles(image.shape[axis], start[axis], region[axis], size[axis]) for axis in (0, 1)
    )
    precision = jax.lax.Precision.HIGHEST
    resized: jax.Array = jnp.einsum("yh,hwc,xw->yxc", rows, image, columns, precision=precision)
    return resized


def _triangles(side: int, start: jax.Array, region: jax.Array, size: int) -> jax.Array:
    """Returns the weights of a bilinear resize with antialiasing along one axis, `[size, side]`."""
    step = region / size
    centres = start + (jnp.arange(size) + 0.5) * step
    places = jnp.arange(side) + 0.5
    distances = jnp.abs(centres[:, None] - places) / jnp.maximum(step, 1)
    inside = (places > start) & (places < start + region)
    weights = jnp.where(inside, jnp.maximum(0, 1 - distances), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _resample(image: jax.Array, start: jax.Array, scale: jax.Array, size: Sides) -> jax.Array:
    """Resizes the region of one image `[H, W, C]` that begins at `start`; black is outside."""
    shape = (*size, image.shape[-1])
    resampled: jax.Array = jax.image.scale_and_translate(
        image, shape, (0, 1), scale, -start * scale, "linear", antialias=True
    )
    return resampled
