"""A faster max-pool for AlexNet, 3x3 with stride 2, with the results of `flax.nnx.max_pool`.

Measurements, also of slower forms, are in tests/benchmarks/README.md; tests/benchmarks/layers.py
repeats them.
"""

from collections.abc import Iterator

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


def _taps(x: jax.Array) -> Iterator[jax.Array]:
    """Yields the first pixel of all windows, then the second, up to the ninth."""
    rows, columns = ((size - 3) // 2 * 2 + 1 for size in x.shape[1:3])
    for i in range(3):
        for j in range(3):
            yield x[:, i : i + rows : 2, j : j + columns : 2]


def winners(x: jax.Array, *others: jax.Array) -> tuple[jax.Array, ...]:
    """Finds the winner of each 3x3 window: its largest pixel, the first one if several are equal.

    Args:
        x: `[B, H, W, C]`, floating point; a NaN is larger than any number.
        others: arrays of the shape of `x`.

    Returns:
        The maxima, their indices in the windows (int8, 0 to 8), and the values of `others` there.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.models.pools import winners
        >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1)
        >>> [int(each.item()) for each in winners(x, -x)]
        [8, 8, -8]
    """
    (best, *kept), *taps = zip(*map(_taps, (x, *others)), strict=True)
    won = jnp.zeros(best.shape, jnp.int8)
    for tap, (value, *values) in enumerate(taps, start=1):
        better = ~(value <= best) & ~jnp.isnan(best)
        best = jnp.where(better, value, best)
        won = jnp.where(better, jnp.int8(tap), won)
        kept = [jnp.where(better, new, old) for new, old in zip(values, kept, strict=True)]
    return best, won, *kept


def to_winners(gradient: jax.Array, won: jax.Array, height: int, width: int) -> jax.Array:
    """Returns the gradient of the pixels, `[B, height, width, C]`, from that of the maxima.

    Args:
        gradient: the gradient of the maxima.
        won: the indices that `winners` returns; 9 where no pixel receives the gradient.
        height: the height of the images.
        width: the width of the images.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.models.pools import to_winners
        >>> gradient, won = jnp.full((1, 1, 1, 1), 2.0), jnp.full((1, 1, 1, 1), 5, jnp.int8)
        >>> to_winners(gradient, won, 3, 3)[0, :, :, 0]
        Array([[0., 0., 0.],
               [0., 0., 2.],
               [0., 0., 0.]], dtype=float32)
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
    best, won = winners(x)
    return best, (won, x[:0])


def _max_pool_backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array]:
    """Returns the gradient of `x` from that of the maxima."""
    won, empty = kept
    return (to_winners(gradient, won, *empty.shape[1:3]),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
