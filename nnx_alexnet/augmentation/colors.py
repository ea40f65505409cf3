"""Changes colours of one image from 0 to 1 by a known amount.

Brightness, contrast, saturation and sharpness are blends of the image with another one, as in PIL
and torchvision. The functions of dm-pix of these names are TensorFlow's, with other results: they
add to the brightness, use one mean per channel, and saturate in HSV.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def blend(image: jax.Array, other: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns `factor * image + (1 - factor) * other`, clipped to 0..1."""
    return jnp.clip(factor * image + (1 - factor) * other, 0, 1)


def grey(image: jax.Array) -> jax.Array:
    """Returns the luma (ITU-R BT.601) of an image `[H, W, C]` as `[H, W, 1]`."""
    if image.shape[-1] == 1:
        return image
    weights = jnp.array([0.299, 0.587, 0.114], image.dtype)
    return (weights * image).sum(axis=-1, keepdims=True)


def adjust_brightness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Multiplies an image by a factor.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.augmentation.colors import adjust_brightness
        >>> adjust_brightness(jnp.full((1, 1, 1), 0.5), 1.5).item()
        0.75
    """
    return blend(image, jnp.zeros_like(image), factor)


def adjust_contrast(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Multiplies the difference from the mean of the grey image by a factor."""
    return blend(image, grey(image).mean(), factor)


def adjust_saturation(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Multiplies the difference from the grey image by a factor."""
    return blend(image, grey(image), factor)


def adjust_hue(image: jax.Array, shift: jax.Array | float) -> jax.Array:
    """Rotates the hue; a shift of 1 is a full turn. Grey images are unchanged."""
    if image.shape[-1] == 1:
        return image
    red, green, blue = jnp.moveaxis(image, -1, 0)
    low, high = image.min(axis=-1), image.max(axis=-1)
    spread = high - low
    divisor = jnp.where(spread > 0, spread, 1)
    # dm_pix.adjust_hue asks which channel equals the largest value. None does if a compiled program
    # computes the image twice and rounds differently; the pixel then gets an unrelated colour.
    sixths = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / divisor,
        jnp.where(green >= blue, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    turned = ((sixths + 6 * shift)[..., None] + jnp.array([0, 4, 2])) % 6
    return low[..., None] + spread[..., None] * jnp.clip(jnp.abs(turned - 3) - 1, 0, 1)


def adjust_sharpness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Multiplies the difference from a smoothed image by a factor; the border stays as it is.

    A smoothed pixel is the mean of its 3x3 neighbourhood in which it counts five times.
    """
    if min(image.shape[:2]) < 3:
        return image
    inner = image[1:-1, 1:-1]
    sums = jax.lax.reduce_window(image, 0.0, jax.lax.add, (3, 3, 1), (1, 1, 1), "VALID")
    return image.at[1:-1, 1:-1].set(blend(inner, (sums + 4 * inner) / 13, factor))


def posterize(image: jax.Array, bits: jax.Array | int) -> jax.Array:
    """Keeps the highest bits, 1 to 8, of the levels 0 to 255.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.augmentation.colors import posterize
        >>> (posterize(jnp.array([100, 200]) / 255, 1) * 255).tolist()
        [0.0, 128.0]
    """
    dropped = 8 - jnp.asarray(bits)
    return (levels(image) >> dropped << dropped) / 255


def autocontrast(image: jax.Array) -> jax.Array:
    """Stretches each channel to 0..1; a channel of one value stays as it is."""
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    is_flat = low == high
    return jnp.where(is_flat, image, (image - low) / jnp.where(is_flat, 1, high - low))


def equalize(image: jax.Array) -> jax.Array:
    """Makes the levels 0 to 255 of each channel about equally frequent, as PIL does."""

    def equalized(plane: jax.Array) -> jax.Array:
        level = levels(plane)
        counts = jnp.bincount(level.ravel(), length=256)
        darker = jnp.cumsum(counts) - counts
        step = (plane.size - counts[level.max()]) // 255
        new = (darker + step // 2) // jnp.maximum(step, 1)
        return jnp.where(step == 0, plane, jnp.minimum(new, 255)[level] / 255)

    return jax.vmap(equalized, -1, -1)(image)


def levels(image: jax.Array) -> jax.Array:
    """Converts an image from 0 to 1 to the levels 0 to 255, int32, as torchvision does."""
    return jnp.floor(jnp.clip(image, 0, 1) * 255.999).astype(jnp.int32)
