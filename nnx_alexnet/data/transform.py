"""Turns uint8 images into the model's input, with augmentation, inside the compiled step."""

import dataclasses
import operator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_NEARLY = 1e-4  # of a pixel: 227 / 256 * 256 need not be 227 in floating point


_fold_in = jax.jit(jax.random.fold_in)  # without jit it takes 3 ms


def augmentation_key(*, seed: int, epoch: int) -> jax.Array:
    """Returns the key of an epoch's augmentation; each example folds its index into it.

    Args:
        seed: the seed of the run, not negative.
        epoch: the epoch, from 0.
    """
    key: jax.Array = _fold_in(jax.random.key(seed), epoch)
    return key


@dataclass(frozen=True)
class ImageTransform:
    """Scales, crops, resizes, augments and standardises a batch of images.

    uint8 images are divided by 255, and float images are not scaled. Then, for images
    `[B, H, W, C]`, the central region of side `crop` is resized to `image_size`. In training the
    region has a random position within the image and a random translation, and the image is
    mirrored with probability 1/2. Finally, each channel is standardised: `(x - mean) / std`.

    If the region has the size of the output, nothing is resampled and the region is aligned with
    whole pixels: with `crop=227/256` on images of 256x256 these are the random patches and
    mirror images of the AlexNet paper.

    Args:
        image_size: side of the output in pixels; None (the default) keeps the size of the region.
        mean: subtracted; a number, or one per channel, on the scale of 0 to 1 (default 0).
        std: divided by; a number, or one per channel (default 1).
        translate: largest translation in training, as a fraction of the region's side (default
            0); the area outside of the image is black.
        crop: side of the region, as a fraction of the image's side, in (0, 1] (default 1).
        flip: whether to mirror left and right in training (default False).

    Raises:
        ValueError: an argument is out of its range.
        TypeError: an argument has another type.

    Example:
        >>> import jax, numpy as np
        >>> from nnx_alexnet.data.transform import ImageTransform
        >>> transform = ImageTransform(16, mean=(0.5,), std=(0.25,), translate=0.1)
        >>> images = np.full((2, 8, 8, 1), 255, np.uint8)
        >>> float(jax.jit(transform)(images)[0, 8, 8, 0])
        2.0
        >>> jax.jit(transform)(images, key=jax.random.key(0), index=np.arange(2)).shape
        (2, 16, 16, 1)

    Source: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional
    Neural Networks", NIPS 2012, section 4.1.
    """

    image_size: int | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    translate: float = 0.0
    crop: float = 1.0
    flip: bool = False

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, _per_channel(name, getattr(self, name)))
        translate, crop = _number("translate", self.translate), _number("crop", self.crop)
        if not 0 <= translate < 1:
            raise ValueError(f"`translate` (={self.translate}) must be in [0, 1).")
        if not 0 < crop <= 1:
            raise ValueError(f"`crop` (={self.crop}) must be in (0, 1].")
        object.__setattr__(self, "translate", translate)
        object.__setattr__(self, "crop", crop)
        if not all(x > 0 for x in self.std):
            raise ValueError(f"`std` (={self.std}) must be greater than 0 in each channel.")
        if self.image_size is not None:
            object.__setattr__(self, "image_size", _whole_number("image_size", self.image_size))
            if self.image_size < 1:
                raise ValueError(f"`image_size` (={self.image_size}) must be at least 1, or None.")
        if not isinstance(self.flip, (bool, np.bool_)):
            raise TypeError(f"`flip` (={self.flip!r}) must be True or False.")
        object.__setattr__(self, "flip", bool(self.flip))

    def describe(self) -> dict[str, Any]:
        """Returns the arguments, as plain values."""
        return dataclasses.asdict(self)

    def check(self, shape: tuple[int, ...], dtype: Any) -> tuple[int, ...]:
        """Returns the shape of one image after the transform.

        Args:
            shape: of one image before it.
            dtype: uint8 or float32.

        Raises:
            ValueError: the number of channels does not fit `mean` or `std`.
        """
        batch = jax.ShapeDtypeStruct((1, *shape), dtype)
        return tuple(jax.eval_shape(self, batch).shape[1:])

    def moving(self, shape: tuple[int, ...], dtype: Any) -> str | None:
        """Returns which arguments move pixels of an image to other places; None if none does.

        Args:
            shape: of one image, before the transform.
            dtype: uint8 or float32.

        Example:
            >>> from nnx_alexnet.data.transform import ImageTransform
            >>> transform = ImageTransform(8, std=0.5, flip=True)
            >>> transform.moving((8, 8, 1), "uint8"), transform.moving((9, 8, 1), "uint8")
            ('flip=True', 'image_size=8, flip=True')
        """
        if len(shape) != 3:
            return None  # other ranks are only scaled and standardised
        is_resized = self.image_size is not None and shape[:2] != (self.image_size,) * 2
        found = {
            "image_size": is_resized,
            "translate": self.translate > 0,
            "crop": self.crop < 1,
            "flip": self.flip,
        }
        texts = [f"{name}={getattr(self, name)}" for name, moves in found.items() if moves]
        return ", ".join(texts) or None

    def __call__(self, image: Any, *, key: jax.Array | None = None, index: Any = None) -> jax.Array:
        """Transforms a batch; the result of an example does not depend on the others.

        Args:
            image: uint8 or float32 `[B, H, W, C]`. Other ranks are only scaled and standardised.
            key: a key for training, the same for all batches of an epoch; None for evaluation.
            index: int32 `[B]`, required with `key`: gives each example its own augmentation.

        Returns:
            float32 `[B, S, S, C]`, where S is `image_size`.

        Raises:
            ValueError: `key` without `index`, or another number of channels than `mean` or `std`.
        """
        image = jnp.asarray(image)
        if image.ndim == 4:
            image = self._place(image, key, index)
        return self._standardise(_unit(image))

    def _standardise(self, image: jax.Array) -> jax.Array:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, image.shape[-1]):
                raise ValueError(
                    f"`{name}` (={values}) has {len(values)} values, but the images {image.shape} "
                    f"have {image.shape[-1]} channels; give one value, or one per channel."
                )
        if self.mean == (0.0,) and self.std == (1.0,):
            return image
        shape = (1,) * (image.ndim - 1) + (-1,)
        mean = jnp.array(self.mean, jnp.float32).reshape(shape)
        std = jnp.array(self.std, jnp.float32).reshape(shape)
        return (image - mean) / std

    def _place(self, image: jax.Array, key: jax.Array | None, index: Any) -> jax.Array:
        """Crops and resizes, at random places if there is a key."""
        num, *sides = image.shape[:3]
        region = tuple(_snapped(self.crop * side) for side in sides)
        own = round(region[0]), round(region[1])
        size = own if self.image_size is None else (self.image_size, self.image_size)
        is_exact = all(float(s) == r for s, r in zip(size, region, strict=True))
        room = jnp.array([s - r for s, r in zip(sides, region, strict=True)], jnp.float32)
        start = jnp.broadcast_to(room / 2, (num, 2))
        furthest = tuple(self.translate * r if key is not None else 0.0 for r in region)
        margin = tuple(int(distance) for distance in furthest)
        if key is not None and (self.translate > 0 or self.crop < 1 or self.flip):
            if index is None:
                raise ValueError("`key` needs `index`, the indices of the examples (int32[B]).")
            where, mirrored = self._draw(key, jnp.asarray(index))
            reach = jnp.array(margin if is_exact else furthest, jnp.float32)
            if is_exact:  # all whole offsets are equally likely: 0, 1, ..., room
                start = jnp.minimum(jnp.floor(where[:, 0] * (room + 1)), room)
                start += jnp.minimum(jnp.floor(where[:, 1] * (2 * reach + 1)), 2 * reach) - reach
            else:
                start = where[:, 0] * room + (2 * where[:, 1] - 1) * reach
            if self.flip:
                image = jnp.where(mirrored[:, None, None, None], image[:, :, ::-1], image)
        if not is_exact:
            scale = jnp.array([s / r for s, r in zip(size, region, strict=True)], jnp.float32)
            return jax.vmap(_resample, (0, 0, None, None))(_unit(image), start, scale, size)
        if size == tuple(sides) and margin == (0, 0):
            return image
        start = jnp.floor(start).astype(jnp.int32) + jnp.array(margin, jnp.int32)
        pads = [(0, 0), *((m, m) for m in margin), (0, 0)]
        return jax.vmap(_patch, (0, 0, None))(jnp.pad(image, pads), start, size)

    def _draw(self, key: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draws four numbers in [0, 1), `[B, 2, 2]`, and a coin, `[B]`, for each example."""

        def draw(index: jax.Array) -> tuple[jax.Array, jax.Array]:
            numbers, coin = jax.random.split(jax.random.fold_in(key, index))
            return jax.random.uniform(numbers, (2, 2)), jax.random.bernoulli(coin)

        return jax.vmap(draw)(index)


def _per_channel(name: str, value: Any) -> tuple[float, ...]:
    """Returns a number, or one per channel, as a tuple."""
    try:
        is_text = isinstance(value, str | bytes)
        values = np.asarray("" if is_text else value, np.float64)
        is_usable = values.ndim <= 1 and values.size > 0 and bool(np.isfinite(values).all())
    except (TypeError, ValueError):
        is_usable = False
    if not is_usable:
        raise TypeError(
            f"`{name}` (={value!r}) must be a finite number, or a tuple of one per channel, such "
            "as (0.485, 0.456, 0.406)."
        )
    return tuple(values.reshape(-1).tolist())


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` (={value!r}) must be a number.") from None


def _whole_number(name: str, value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"`{name}` (={value!r}) must be a whole number, the side of a square in pixels."
        ) from None


def _unit(image: jax.Array) -> jax.Array:
    """Converts to float32; uint8 is scaled to 0..1."""
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255.0
    return image.astype(jnp.float32)


def _snapped(side: float) -> float:
    return float(round(side)) if abs(side - round(side)) < _NEARLY else side


def _patch(image: jax.Array, start: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Cuts whole pixels out of one image `[H, W, C]`."""
    begin = (start[0], start[1], jnp.zeros((), start.dtype))
    return jax.lax.dynamic_slice(image, begin, (*size, image.shape[-1]))


def _resample(
    image: jax.Array, start: jax.Array, scale: jax.Array, size: tuple[int, int]
) -> jax.Array:
    """Resizes the region of one image `[H, W, C]` that begins at `start`, on black."""
    shape = (*size, image.shape[-1])
    resampled: jax.Array = jax.image.scale_and_translate(
        image, shape, (0, 1), scale, -start * scale, "linear", antialias=True
    )
    return resampled
