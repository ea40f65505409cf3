"""Faster ways to compute AlexNet's convolutions and pools, with the same results to rounding.

Nothing here changes what is learned: parameters, shapes and values are those of
`jax.lax.conv_general_dilated`, `flax.nnx.max_pool` and `flax.nnx.BatchNorm`. `conv` chooses by
`jax.default_backend()` while a step is traced; each way is right on every backend, only slower on
another.

| operation | accelerator | CPU |
| --- | --- | --- |
| conv1: 11x11, stride 4 | `space_to_depth_conv` | `jax.lax.conv_general_dilated` |
| float32, up to 12x12 pixels, from 16 images | `jax.lax.conv_general_dilated` | `fourier_conv` |
| the other convolutions | `jax.lax.conv_general_dilated` | the same |
| max-pool: 3x3, stride 2 | `max_pool` | `max_pool` |
| in training with BatchNorm and ReLU before it | `norm_relu_max_pool` | the same |

What was measured, losers included, is in tests/benchmarks/README.md; tests/benchmarks/layers.py
measures it again.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

# The transforms of `fourier_conv` grow with the fourth power of the height, the products that
# they save with the second. Larger images were not measured.
_LARGEST_FOURIER_SIZE = 12
# The kernel is transformed once for a batch: with 8 images the 3x3 kernels still lose by it.
_SMALLEST_FOURIER_BATCH = 16


def conv(
    image: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """Convolves in the way that is fastest here; for `nnx.Conv(conv_general_dilated=conv)`.

    Args:
        image: `[B, H, W, C]`.
        kernel: `[h, w, C, features]`.
        window_strides: as those of `jax.lax.conv_general_dilated`.
        padding: as that of `jax.lax.conv_general_dilated`.
        options: the other arguments of `jax.lax.conv_general_dilated`. AlexNet leaves those of
            `nnx.Conv` at their defaults (no dilation, one group), and only so are they right.

    Returns:
        What `jax.lax.conv_general_dilated` returns, to rounding.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> from nnx_alexnet.models.layers import conv
        >>> layer = nnx.Conv(3, 8, (5, 5), conv_general_dilated=conv, rngs=nnx.Rngs(0))
        >>> layer(jax.numpy.ones((2, 10, 10, 3))).shape
        (2, 10, 10, 8)
    """
    strides = tuple(window_strides)
    if jax.default_backend() == "cpu":
        small = image.shape[1] == image.shape[2] <= _LARGEST_FOURIER_SIZE
        many = image.shape[0] >= _SMALLEST_FOURIER_BATCH
        single = image.dtype == kernel.dtype == jnp.float32
        if strides == (1, 1) and padding == "SAME" and small and many and single:
            return fourier_conv(image, kernel)
    elif strides == (4, 4) and padding == "VALID":
        return space_to_depth_conv(image, kernel, 4)
    return lax.conv_general_dilated(image, kernel, strides, padding, **options)


def space_to_depth_conv(image: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves without padding, in strides, as a convolution of blocks with stride 1.

    Each block of `stride` x `stride` pixels becomes one pixel of `stride` x `stride` x `C`
    channels, and the kernel, padded with zeros to whole blocks, is regrouped in the same way:
    AlexNet's 11x11 on 3 channels becomes 3x3 on 48, which fills the matrix units of an
    accelerator where 3 channels cannot. The trick is that of MLPerf's ResNet-50 on TPUs (Ying et
    al. 2018, "Image Classification at Supercomputer Scale", https://arxiv.org/abs/1811.06992).

    Args:
        image: `[B, H, W, C]`, of any height and width that the kernel fits in.
        kernel: `[window, window, C, features]`.
        stride: of both axes.

    Returns:
        `[B, (H - window) // stride + 1, (W - window) // stride + 1, features]`.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.models.layers import space_to_depth_conv
        >>> image, kernel = jnp.ones((2, 227, 227, 3)), jnp.ones((11, 11, 3, 8))
        >>> space_to_depth_conv(image, kernel, 4).shape
        (2, 55, 55, 8)
    """
    batch, height, width, channels = image.shape
    window, _, _, features = kernel.shape
    taps = -(-window // stride)
    rows, columns = ((size - window) // stride + taps for size in (height, width))
    # To whole blocks: what is cut off no window reaches, what is added meets the kernel's zeros.
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

    A real signal has conjugate pairs of frequencies, of which one is enough, and some that are
    their own conjugates, and real. A product of two complex numbers takes three real ones:

        p1 = (xr + xi) wr    p2 = xr (wi - wr)    p3 = xi (wr + wi)
        yr = p1 - p3         yi = p1 + p2

    Returns:
        For the image and for the output `[M, size * size]`, for the kernel `[M, window * window]`:
        M rows, three for each pair of frequencies and one for each real frequency.
    """
    # Of this period, what wraps around meets the zeros of SAME's padding.
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

    The transforms are dense matrices, because the images are a few pixels wide. On 10x10 pixels
    a 5x5 kernel takes 214 multiplications for each pair of channels instead of 2500, on 4x4
    pixels a 3x3 kernel 37 instead of 144; the gradients are of the same form. After Mathieu,
    Henaff and LeCun 2013, "Fast Training of Convolutional Networks through FFTs"
    (https://arxiv.org/abs/1312.5851).

    A NaN or an infinity spreads over its whole image, not only over a window.

    Args:
        image: `float32[B, size, size, C]`.
        kernel: `float32[window, window, C, features]`.

    Returns:
        `float32[B, size, size, features]`.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.models.layers import fourier_conv
        >>> fourier_conv(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].round(4)
        Array([[4., 6., 4.],
               [6., 9., 6.],
               [4., 6., 4.]], dtype=float32)
    """
    batch, size, _, channels = image.shape
    window, _, _, features = kernel.shape
    of_image, of_kernel, of_output = _fourier_bases(size, window)
    pixels = size * size
    # The pixels lead: left to an einsum, XLA transposes the larger side of each product instead.
    x = jnp.swapaxes(image.reshape(batch, pixels, channels), 0, 1)
    x = jnp.matmul(of_image, x.reshape(pixels, -1)).reshape(-1, batch, channels)
    w = jnp.matmul(of_kernel, kernel.reshape(window * window, -1))
    w = w.reshape(-1, channels, features)
    y = jnp.matmul(of_output.T, (x @ w).reshape(len(x), -1))
    return jnp.swapaxes(y.reshape(pixels, batch, features), 0, 1).reshape(*image.shape[:3], -1)


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Takes the maximum of each 3x3 window, in strides of 2, without padding.

    What differs from `nnx.max_pool` is the gradient. XLA's own (select-and-scatter) walks the
    windows again. Here the forward pass keeps which of the nine won, in one byte, and each pixel
    of the gradient is the sum of at most four windows that it may have won in. Of equal pixels
    the first wins, as there. Without a gradient nothing is kept. There is no forward-mode
    derivative (`jax.jvp`), which `nnx.max_pool` has.

    Args:
        x: `[B, H, W, C]`, floating point, height and width at least 3.

    Returns:
        `[B, (H - 3) // 2 + 1, (W - 3) // 2 + 1, C]`; NaN where the window has one.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.models.layers import max_pool
        >>> x = jnp.zeros((1, 3, 5, 1)).at[0, 1, 2, 0].set(7.0)  # in both windows
        >>> max_pool(x).ravel()
        Array([7., 7.], dtype=float32)
        >>> jax.grad(lambda x: max_pool(x).sum())(x)[0, 1, :, 0]
        Array([0., 0., 2., 0., 0.], dtype=float32)
    """
    pooled: jax.Array = nnx.max_pool(x, (3, 3), strides=(2, 2))
    return pooled


_NONE_WON = 9  # no pixel of a window has this number


def _taps(x: jax.Array) -> Iterator[jax.Array]:
    """Yields the nine pixels of each window, one after the other."""
    rows, columns = ((size - 3) // 2 * 2 + 1 for size in x.shape[1:3])
    for i in range(3):
        for j in range(3):
            yield x[:, i : i + rows : 2, j : j + columns : 2]


def _winners(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the maximum of each window, and which of the nine it was (int8, 0 to 8)."""
    best, *others = _taps(x)
    won = jnp.zeros(best.shape, jnp.int8)
    for tap, value in enumerate(others, start=1):
        better = ~(value <= best) & ~jnp.isnan(best)  # a NaN is better than any number
        best = jnp.where(better, value, best)
        won = jnp.where(better, jnp.int8(tap), won)
    return best, won


def _values_of(won: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the pixel of `x` in each window that has won, 0 where none has."""
    values = jnp.zeros(won.shape, x.dtype)
    for tap, value in enumerate(_taps(x)):
        values = jnp.where(won == tap, value, values)
    return values


def _to_winners(gradient: jax.Array, won: jax.Array, height: int, width: int) -> jax.Array:
    """Returns what each pixel gets of the gradient of the maxima, `[B, height, width, C]`.

    Args:
        gradient: of the maxima.
        won: as `_winners` returned it, or `_NONE_WON`.
        height: of the images.
        width: of the images.
    """
    batch, rows, columns, channels = won.shape
    zero = jnp.zeros((), gradient.dtype)

    def from_tap(i: int, j: int) -> jax.Array:
        """What row i, column j of each window gets: `[batch, rows + 1, columns + 1, channels]`.

        Pixel (2 r, 2 c) is the first of window (r, c) and the last of window (r - 1, c - 1).
        """
        selected = jnp.where(won == 3 * i + j, gradient, zero)
        edges = [(1, 0, 0) if k == 2 else (0, 1, 0) for k in (i, j)]
        return lax.pad(selected, zero, [(0, 0, 0), *edges, (0, 0, 0)])

    # by the parity of the pixel's row, and then of its column
    even_even = from_tap(0, 0) + from_tap(0, 2) + from_tap(2, 0) + from_tap(2, 2)
    even_odd = from_tap(0, 1) + from_tap(2, 1)
    odd_even = from_tap(1, 0) + from_tap(1, 2)
    odd_odd = from_tap(1, 1)
    even, odd = jnp.stack([even_even, even_odd], 3), jnp.stack([odd_even, odd_odd], 3)
    pixels = jnp.stack([even, odd], 2).reshape(batch, 2 * rows + 2, 2 * columns + 2, channels)
    return pixels[:, :height, :width]


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Returns the maxima; and, kept for the gradient, the winners and an empty `x`."""
    best, won = _winners(x)
    return best, (won, x[:0])


def _max_pool_backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array]:
    """Returns the gradient of `x`, from that of the maxima."""
    won, empty = kept
    return (_to_winners(gradient, won, *empty.shape[1:3]),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def norm_relu_max_pool(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    """Takes `max_pool(relu(batch_norm(x)))`, with the statistics of the batch.

    The gradient of a batch norm needs two sums over all pixels: of the gradient, and of its
    product with what was normalised. But behind a max-pool only the winners have one. So the sums
    are taken over the windows, a quarter as many, and the gradient of the pixels is never written:
    it is made while that of `x` is. There is no forward-mode derivative, and none within
    `jax.shard_map` unless its `check_vma` is off.

    Args:
        x: `[B, H, W, C]`, floating point, height and width at least 3.
        scale: `float32[C]`, which the normalised pixels are multiplied with.
        bias: `float32[C]`, which is added.
        epsilon: added to the variance.

    Returns:
        What `max_pool` returns, in the dtype of `x`.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.models.layers import norm_relu_max_pool
        >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1)  # a mean of 4, a standard deviation of 2.582
        >>> norm_relu_max_pool(x, jnp.ones(1), jnp.zeros(1), 1e-5).ravel().round(3)
        Array([1.549], dtype=float32)

    Source: Ioffe and Szegedy 2015, "Batch Normalization" (https://arxiv.org/abs/1502.03167),
    section 3, for the gradient.
    """
    return jax.nn.relu(max_pool(_normalised(x, scale, bias, epsilon).y))


class _Normalised(NamedTuple):
    """A batch as `nnx.BatchNorm` normalises it, and what each channel was normalised with."""

    y: jax.Array
    mean: jax.Array
    inverse: jax.Array  # 1 / the standard deviation
    varies: jax.Array  # whether rounding has left anything of the variance


def _normalised(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> _Normalised:
    # Operation by operation as flax, which has computed them as well: XLA makes them one.
    single = x.astype(jnp.float32)
    mean, of_squares = single.mean((0, 1, 2)), lax.square(single).mean((0, 1, 2))
    var = jnp.maximum(0.0, of_squares - lax.square(mean))
    inverse = lax.rsqrt(var + epsilon)
    y = ((single - mean) * (inverse * scale) + bias).astype(x.dtype)
    return _Normalised(y, mean, inverse, var > 0)


def _norm_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    y, mean, inverse, varies = _normalised(x, scale, bias, epsilon)
    best, won = _winners(y)
    won = jnp.where(best > 0, won, jnp.int8(_NONE_WON))  # where the ReLU cut, none gets anything
    # Else XLA keeps more than these, and reads all pixels again to find the winners once more.
    pooled, won, winner = lax.optimization_barrier((jax.nn.relu(best), won, _values_of(won, x)))
    return pooled, (x, winner, won, mean, inverse, varies, scale)


def _norm_backward(
    _: float, kept: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, winner, won, mean, inverse, varies, scale = kept
    gradient = gradient.astype(jnp.float32)
    of_winners = jnp.where(won != _NONE_WON, gradient, jnp.zeros_like(gradient))
    to_bias = of_winners.sum((0, 1, 2))
    to_scale = (of_winners * (winner.astype(jnp.float32) - mean)).sum((0, 1, 2)) * inverse
    num = x.size // x.shape[-1]
    pixels = _to_winners(gradient, won, *x.shape[1:3])
    # A variance that was cut at 0 has no gradient.
    by_variance = jnp.where(varies, inverse * to_scale / num, jnp.zeros_like(to_scale))
    centred = (x.astype(jnp.float32) - mean) * by_variance
    to_x = (pixels - to_bias / num - centred) * (inverse * scale)
    return to_x.astype(x.dtype), to_scale, to_bias


norm_relu_max_pool.defvjp(_norm_forward, _norm_backward)
