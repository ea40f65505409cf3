"""Changes colours of one image from 0 to 1 by a known amount.

Brightness, contrast and saturation are blends of the image with another one, as in PIL and
torchvision. The functions of dm-pix of these names are TensorFlow's, with other results: they add
to the brightness, use one mean per channel, and saturate in HSV.
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
    import dm_pix

    luma: jax.Array = dm_pix.rgb_to_grayscale(image)
    return luma


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
    import dm_pix

    shifted: jax.Array = dm_pix.adjust_hue(image, shift)
    return shifted
