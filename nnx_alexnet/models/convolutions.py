"""Faster convolutions for AlexNet, with the results of `jax.lax.conv_general_dilated`.

Parameters, shapes and values are the same, up to rounding. `conv` chooses by
`jax.default_backend()` while a step is traced. Each form is correct on every backend, but slower
on another than its own.

| convolution | accelerator | CPU |
| --- | --- | --- |
| conv1: 11x11, stride 4 | `space_to_depth_conv` | `jax.lax.conv_general_dilated` |
| float32, up to 12x12 pixels, from 16 images | `jax.lax.conv_general_dilated` | `fourier_conv` |
| the others | `jax.lax.conv_general_dilated` | `jax.lax.conv_general_dilated` |

Measurements, also of slower forms, are in tests/benchmarks/README.md; tests/benchmarks/layers.py
repeats them.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# The transforms of `fourier_conv` grow with the fourth power of the height, and the products that
# they save with the second. Larger images were not measured.
_MAX_FOURIER_SIZE = 12
# The kernel is transformed once per batch; for 8 images that does not pay for 3x3 kernels.
_MIN_FOURIER_BATCH = 16


def conv(
    image: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """Convolves in the fastest form for this backend; for `nnx.Conv(conv_general_dilated=conv)`.

    Args:
        image: `[B, H, W, C]`.
        kernel: `[h, w, C, features]`.
        window_strides: as in `jax.lax.conv_general_dilated`.
        padding: as in `jax.lax.conv_general_dilated`.
        options: the other arguments of `jax.lax.conv_general_dilated`, which must be the defaults
            of `nnx.Conv` (no dilation, one group), as in AlexNet.

    Returns:
        What `jax.lax.conv_general_dilated` returns, up to rounding.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> from nnx_alexnet.models.convolutions import conv
        >>> layer = nnx.Conv(3, 8, (5, 5), conv_general_dilated=conv, rngs=nnx.Rngs(0))
        >>> layer(jax.numpy.ones((2, 10, 10, 3))).shape
        (2, 10, 10, 8)
    """
    strides = tuple(window_strides)
    if jax.default_backend() == "cpu":
        small = image.shape[1] == image.shape[2] <= _MAX_FOURIER_SIZE
        many = image.shape[0] >= _MIN_FOURIER_BATCH
        single = image.dtype == kernel.dtype == jnp.float32
        if strides == (1, 1) and padding == "SAME" and small and many and single:
            return fourier_conv(image, kernel)
    elif strides == (4, 4) and padding == "VALID":
        return space_to_depth_conv(image, kernel, 4)
    return lax.conv_general_dilated(image, kernel, strides, padding, **options)


def space_to_depth_conv(image: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves with strides and without padding, as a convolution of blocks with stride 1.

    Each block of `stride` x `stride` pixels becomes one pixel of `stride` x `stride` x `C`
    channels, and the kernel, padded with zeros to whole blocks, is regrouped in the same way:
    AlexNet's 11x11 on 3 channels becomes 3x3 on 48, which fills the matrix units of an
    accelerator where 3 channels cannot. MLPerf's ResNet-50 on TPUs does the same (Ying et al.
    2018, "Image Classification at Supercomputer Scale", https://arxiv.org/abs/1811.06992).

    Args:
        image: `[B, H, W, C]`, at least as high and wide as the kernel.
        kernel: `[window, window, C, features]`.
        stride: the stride of both axes.

    Returns:
        `[B, (H - window) // stride + 1, (W - window) // stride + 1, features]`.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.models.convolutions import space_to_depth_conv
        >>> image, kernel = jnp.ones((2, 227, 227, 3)), jnp.ones((11, 11, 3, 8))
        >>> space_to_depth_conv(image, kernel, 4).shape
        (2, 55, 55, 8)
    """
    batch, height, width, channels = image.shape
    window, _, _, features = kernel.shape
    taps = -(-window // stride)
    rows, columns = ((size - window) // stride + taps for size in (height, width))
    # To whole blocks: no window reaches the rows cut off, and the kernel's zeros meet those added.
    edges = [(0, n * stride - size, 0) for n, size in ((rows, height), (columns, width))]
    image = lax.pad(image, jnp.zeros((), image.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    image = image.reshape(batch, rows, stride, columns, stride, channels)
    image = image.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, -1)
    edge = (0, taps * stride - window)
    kernel = jnp.pad(kernel, (edge, edge, (0, 0), (0, 0)))
    kernel = kernel.reshape(taps, stride, taps, stride, channels, features)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(taps, taps, -1, features)
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(image, kernel, (1, 1), "VALID", dimension_numbers=numbers)


@functools.cache
def _fourier_bases(size: int, window: int) -> tuple[np.ndarray[Any, Any], ...]:
    """Returns the three matrices of `fourier_conv`, computed in float64, stored in float32.

    The frequencies of a real signal are conjugate pairs, of which one is enough, and real ones,
    which are their own conjugates. A product of two complex numbers takes three real products:

        p1 = (xr + xi) wr    p2 = xr (wi - wr)    p3 = xi (wr + wi)
        yr = p1 - p3         yi = p1 + p2

    Returns:
        The matrices of the image (`[M, size * size]`), the kernel (`[M, window * window]`) and the
        output (`[M, size * size]`), with three rows per pair of frequencies and one row per real
        frequency.
    """
    # With this period, only the zeros of the SAME padding wrap around.
    period = size + window // 2
    frequencies = [(i, j) for i in range(period) for j in range(period)]
    mirrors = [(-i % period, -j % period) for i, j in frequencies]
    both = list(zip(frequencies, mirrors, strict=True))
    pairs = [frequency for frequency, mirror in both if frequency < mirror]
    real = [frequency for frequency, mirror in both if frequency == mirror]

    def waves(chosen: list[tuple[int, int]], positions: Any) -> np.ndarray[Any, Any]:
        wave = np.exp(2j * np.pi / period * np.outer(np.arange(period), positions))
        rows, columns = np.array(chosen, int).reshape(-1, 2).T
        product: np.ndarray[Any, Any] = wave[rows, :, None] * wave[columns, None, :]
        return product.reshape(len(chosen), len(positions) ** 2)

    pixels, taps = np.arange(size), np.arange(window) - (window - 1) // 2
    x, w, y = waves(pairs, -pixels), waves(pairs, taps), waves(pairs, pixels) * 2 / period**2
    bases = (
        (x.real + x.imag, x.real, x.imag, waves(real, -pixels).real),
        (w.real, w.imag - w.real, w.real + w.imag, waves(real, taps).real),
        (y.real - y.imag, -y.imag, -y.real, waves(real, pixels).real / period**2),
    )
    return tuple(np.concatenate(rows).astype(np.float32) for rows in bases)


def fourier_conv(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves small square images with stride 1 and SAME padding, as products of frequencies.

    The transforms are dense matrices, because the images are only a few pixels wide. For 10x10
    pixels and a 5x5 kernel, each pair of channels takes 214 multiplications instead of 2500; for
    4x4 pixels and a 3x3 kernel, 37 instead of 144. The gradients have the same form. Source:
    Mathieu, Henaff and LeCun 2013, "Fast Training of Convolutional Networks through FFTs"
    (https://arxiv.org/abs/1312.5851).

    A NaN or an infinity spreads over the whole image, not only over a window.

    Args:
        image: `float32[B, size, size, C]`.
        kernel: `float32[window, window, C, features]`.

    Returns:
        `float32[B, size, size, features]`.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.models.convolutions import fourier_conv
        >>> fourier_conv(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].round(4)
        Array([[4., 6., 4.],
               [6., 9., 6.],
               [4., 6., 4.]], dtype=float32)
    """
    batch, size, _, channels = image.shape
    window, _, _, features = kernel.shape
    of_image, of_kernel, of_output = _fourier_bases(size, window)
    pixels = size * size
    # Pixels first: for an einsum, XLA would transpose the larger operand of each product.
    x = jnp.swapaxes(image.reshape(batch, pixels, channels), 0, 1)
    x = jnp.matmul(of_image, x.reshape(pixels, -1)).reshape(-1, batch, channels)
    w = jnp.matmul(of_kernel, kernel.reshape(window * window, -1))
    w = w.reshape(-1, channels, features)
    y = jnp.matmul(of_output.T, (x @ w).reshape(len(x), -1))
    return jnp.swapaxes(y.reshape(pixels, batch, features), 0, 1).reshape(*image.shape[:3], -1)
