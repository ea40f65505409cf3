"""BatchNorm in training, followed by ReLU and max-pool, with gradients that move less memory.

Values and gradients are those of `flax.nnx.BatchNorm`, `jax.nn.relu` and `flax.nnx.max_pool`, up to
rounding. The gradient of a batch norm needs two sums over all pixels: of the gradient, and of its
product with the centred input. The automatically derived gradient has three, and the last of them
shares a kernel with the gradient of the input, which makes that kernel slower on a GPU. Source:
Ioffe and Szegedy 2015, "Batch Normalization" (https://arxiv.org/abs/1502.03167), section 3.

There are no forward-mode derivatives, and within `jax.shard_map` there are gradients only with
`check_vma=False`. Measurements are in tests/benchmarks/README.md and in
tests/benchmarks/compiled_programs/README.md.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from nnx_alexnet.models import pools

_NONE_WON = 9  # no pixel of a window has this index


class _Norm(NamedTuple):
    """Scale and bias of a batch norm, with the statistics of a batch, each by channel."""

    scale: jax.Array
    bias: jax.Array
    mean: jax.Array
    inverse: jax.Array  # 1 / the standard deviation
    varies: jax.Array  # whether the variance is above 0 after rounding

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the normalised `x`, with the operations of flax."""
        single = x.astype(jnp.float32)
        return ((single - self.mean) * (self.inverse * self.scale) + self.bias).astype(x.dtype)


def _norm_of(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> _Norm:
    # The same operations as in flax, which also computes them: XLA merges the two.
    single = x.astype(jnp.float32)
    mean, of_squares = single.mean((0, 1, 2)), lax.square(single).mean((0, 1, 2))
    var = jnp.maximum(0.0, of_squares - lax.square(mean))
    return _Norm(scale, bias, mean, lax.rsqrt(var + epsilon), var > 0)


def _gradients(
    x: jax.Array, norm: _Norm, gradient: jax.Array, summed: jax.Array, at: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradients of `x`, scale and bias.

    Args:
        x: the input.
        norm: the norm that was applied to it.
        gradient: the gradient of each normalised pixel.
        summed: the part of `gradient` that may be nonzero, `float32[B, h, w, C]`.
        at: the values of `x` at the pixels of `summed`.
    """
    num = x.size // x.shape[-1]
    to_bias = summed.sum((0, 1, 2))
    to_scale = (summed * (at.astype(jnp.float32) - norm.mean)).sum((0, 1, 2)) * norm.inverse
    # A variance clipped at 0 has no gradient.
    by_variance = jnp.where(norm.varies, norm.inverse * to_scale / num, jnp.zeros_like(to_scale))
    centred = (x.astype(jnp.float32) - norm.mean) * by_variance
    to_x = (gradient - to_bias / num - centred) * (norm.inverse * norm.scale)
    return to_x.astype(x.dtype), to_scale, to_bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def norm_relu(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Computes `relu(batch_norm(x))` with the statistics of the batch.

    Args:
        x: `[B, H, W, C]`, floating point.
        scale: `float32[C]`, the factor of the normalised pixels.
        bias: `float32[C]`, added to the normalised pixels.
        epsilon: added to the variance.

    Returns:
        `[B, H, W, C]`, in the dtype of `x`.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.models.norms import norm_relu
        >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1)  # a mean of 4, a standard deviation of 2.582
        >>> norm_relu(x, jnp.full(1, 2.582), jnp.zeros(1), 1e-5).ravel().round()
        Array([0., 0., 0., 0., 0., 1., 2., 3., 4.], dtype=float32)
    """
    return jax.nn.relu(_norm_of(x, scale, bias, epsilon)(x))


def _norm_relu_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, tuple[jax.Array, _Norm]]:
    norm = _norm_of(x, scale, bias, epsilon)
    return jax.nn.relu(norm(x)), (x, norm)


def _norm_relu_backward(
    _: float, kept: tuple[jax.Array, _Norm], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, norm = kept
    # Computes the mask of the ReLU again, which is faster than reading a stored one.
    gradient = jnp.where(norm(x) > 0, gradient, jnp.zeros_like(gradient)).astype(jnp.float32)
    return _gradients(x, norm, gradient, gradient, x)


norm_relu.defvjp(_norm_relu_forward, _norm_relu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def norm_relu_max_pool(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    """Computes `max_pool(relu(batch_norm(x)))` with the statistics of the batch.

    After a max-pool only the winners have a gradient. So the sums are over the windows, a quarter
    as many, and the gradient of the normalised pixels is fused into that of `x` instead of being
    stored.

    Args:
        x: `[B, H, W, C]`, floating point, height and width at least 3.
        scale: `float32[C]`, the factor of the normalised pixels.
        bias: `float32[C]`, added to the normalised pixels.
        epsilon: added to the variance.

    Returns:
        The maxima, in the dtype of `x`.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.models.norms import norm_relu_max_pool
        >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1)  # a mean of 4, a standard deviation of 2.582
        >>> norm_relu_max_pool(x, jnp.ones(1), jnp.zeros(1), 1e-5).ravel().round(3)
        Array([1.549], dtype=float32)
    """
    return jax.nn.relu(pools.max_pool(_norm_of(x, scale, bias, epsilon)(x)))


def _norm_pool_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array, _Norm]]:
    norm = _norm_of(x, scale, bias, epsilon)
    best, won, winner = pools.winners(norm(x), x)
    won = jnp.where(best > 0, won, jnp.int8(_NONE_WON))  # the ReLU's gradient is 0 there
    # Without it, XLA keeps more arrays, and reads all pixels a second time to find the winners.
    pooled, won, winner = lax.optimization_barrier((jax.nn.relu(best), won, winner))
    return pooled, (x, winner, won, norm)


def _norm_pool_backward(
    _: float, kept: tuple[jax.Array, jax.Array, jax.Array, _Norm], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, winner, won, norm = kept
    gradient = gradient.astype(jnp.float32)
    of_winners = jnp.where(won != _NONE_WON, gradient, jnp.zeros_like(gradient))
    pixels = pools.to_winners(gradient, won, *x.shape[1:3])
    return _gradients(x, norm, pixels, of_winners, winner)


norm_relu_max_pool.defvjp(_norm_pool_forward, _norm_pool_backward)
