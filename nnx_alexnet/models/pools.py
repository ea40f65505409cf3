"""Faster max-pools for AlexNet, with the results of `flax.nnx.max_pool` and `flax.nnx.BatchNorm`.

Parameters, shapes and values are the same, up to rounding. `max_pool` is for any pool of 3x3
windows with stride 2, and `norm_relu_max_pool` for training with BatchNorm and ReLU before it.

Measurements, also of slower forms, are in tests/benchmarks/README.md; tests/benchmarks/layers.py
repeats them.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Takes the maximum of each 3x3 window, with stride 2 and without padding.

    Only the gradient differs from `nnx.max_pool`, whose backward pass searches the windows again
    (select-and-scatter). Here the forward pass keeps the index of the largest pixel of each
    window, the winner, in one byte, and the gradient of a pixel is the sum over at most four
    windows. Of equal pixels the first wins, as in XLA. Without a gradient nothing is kept. Unlike
    `nnx.max_pool`, there is no forward-mode derivative (`jax.jvp`).

    Args:
        x: `[B, H, W, C]`, floating point, height and width at least 3.

    Returns:
        `[B, (H - 3) // 2 + 1, (W - 3) // 2 + 1, C]`; NaN where the window has a NaN.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.models.pools import max_pool
        >>> x = jnp.zeros((1, 3, 5, 1)).at[0, 1, 2, 0].set(7.0)  # in both windows
        >>> max_pool(x).ravel()
        Array([7., 7.], dtype=float32)
        >>> jax.grad(lambda x: max_pool(x).sum())(x)[0, 1, :, 0]
        Array([0., 0., 2., 0., 0.], dtype=float32)
    """
    pooled: jax.Array = nnx.max_pool(x, (3, 3), strides=(2, 2))
    return pooled


_NONE_WON = 9  # no pixel of a window has this index


def _taps(x: jax.Array) -> Iterator[jax.Array]:
    """Yields the first pixel of all windows, then the second, up to the ninth."""
    rows, columns = ((size - 3) // 2 * 2 + 1 for size in x.shape[1:3])
    for i in range(3):
        for j in range(3):
            yield x[:, i : i + rows : 2, j : j + columns : 2]


def _winners(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the maximum of each window and its index in the window (int8, 0 to 8)."""
    best, *others = _taps(x)
    won = jnp.zeros(best.shape, jnp.int8)
    for tap, value in enumerate(others, start=1):
        better = ~(value <= best) & ~jnp.isnan(best)  # a NaN is larger than any number
        best = jnp.where(better, value, best)
        won = jnp.where(better, jnp.int8(tap), won)
    return best, won


def _values_of(won: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the winner of each window of `x`, and 0 where there is none."""
    values = jnp.zeros(won.shape, x.dtype)
    for tap, value in enumerate(_taps(x)):
        values = jnp.where(won == tap, value, values)
    return values


def _to_winners(gradient: jax.Array, won: jax.Array, height: int, width: int) -> jax.Array:
    """Returns the gradient of the pixels, `[B, height, width, C]`, from that of the maxima.

    Args:
        gradient: the gradient of the maxima.
        won: the indices of `_winners`, or `_NONE_WON`.
        height: the height of the images.
        width: the width of the images.
    """
    batch, rows, columns, channels = won.shape
    zero = jnp.zeros((), gradient.dtype)

    def from_tap(i: int, j: int) -> jax.Array:
        """Returns the gradient of row i, column j of each window.

        Its shape is `[batch, rows + 1, columns + 1, channels]`: pixel (2 r, 2 c) is the first of
        window (r, c) and the last of window (r - 1, c - 1).
        """
        selected = jnp.where(won == 3 * i + j, gradient, zero)
        edges = [(1, 0, 0) if k == 2 else (0, 1, 0) for k in (i, j)]
        return lax.pad(selected, zero, [(0, 0, 0), *edges, (0, 0, 0)])

    # By the parity of the pixel's row and column.
    even_even = from_tap(0, 0) + from_tap(0, 2) + from_tap(2, 0) + from_tap(2, 2)
    even_odd = from_tap(0, 1) + from_tap(2, 1)
    odd_even = from_tap(1, 0) + from_tap(1, 2)
    odd_odd = from_tap(1, 1)
    even, odd = jnp.stack([even_even, even_odd], 3), jnp.stack([odd_even, odd_odd], 3)
    pixels = jnp.stack([even, odd], 2).reshape(batch, 2 * rows + 2, 2 * columns + 2, channels)
    return pixels[:, :height, :width]


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Returns the maxima, and for the gradient the winners and an empty `x`."""
    best, won = _winners(x)
    return best, (won, x[:0])


def _max_pool_backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array]:
    """Returns the gradient of `x` from that of the maxima."""
    won, empty = kept
    return (_to_winners(gradient, won, *empty.shape[1:3]),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def norm_relu_max_pool(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    """Computes `max_pool(relu(batch_norm(x)))` with the statistics of the batch.

    The gradient of a batch norm needs two sums over all pixels: of the gradient, and of its
    product with the normalised input. After a max-pool only the winners have a gradient. So the
    sums are over the windows, a quarter as many, and the gradient of the normalised pixels is
    fused into that of `x` instead of being stored. There is no forward-mode derivative, and within
    `jax.shard_map` there is a gradient only with `check_vma=False`.

    Args:
        x: `[B, H, W, C]`, floating point, height and width at least 3.
        scale: `float32[C]`, the factor of the normalised pixels.
        bias: `float32[C]`, added to the normalised pixels.
        epsilon: added to the variance.

    Returns:
        The maxima, in the dtype of `x`.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.models.pools import norm_relu_max_pool
        >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1)  # a mean of 4, a standard deviation of 2.582
        >>> norm_relu_max_pool(x, jnp.ones(1), jnp.zeros(1), 1e-5).ravel().round(3)
        Array([1.549], dtype=float32)

    Source: Ioffe and Szegedy 2015, "Batch Normalization" (https://arxiv.org/abs/1502.03167),
    section 3, for the gradient.
    """
    return jax.nn.relu(max_pool(_normalised(x, scale, bias, epsilon).y))


class _Normalised(NamedTuple):
    """A batch as `nnx.BatchNorm` normalises it, with the statistics of each channel."""

    y: jax.Array
    mean: jax.Array
    inverse: jax.Array  # 1 / the standard deviation
    varies: jax.Array  # whether the variance is above 0 after rounding


def _normalised(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> _Normalised:
    # The same operations as in flax, which also computes them: XLA merges the two.
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
    won = jnp.where(best > 0, won, jnp.int8(_NONE_WON))  # the ReLU has no gradient there
    # Otherwise XLA keeps more arrays, and reads all pixels again to find the winners a second time.
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
    # A variance clipped at 0 has no gradient.
    by_variance = jnp.where(varies, inverse * to_scale / num, jnp.zeros_like(to_scale))
    centred = (x.astype(jnp.float32) - mean) * by_variance
    to_x = (pixels - to_bias / num - centred) * (inverse * scale)
    return to_x.astype(x.dtype), to_scale, to_bias


norm_relu_max_pool.defvjp(_norm_forward, _norm_backward)
