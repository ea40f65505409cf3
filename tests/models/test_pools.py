"""The max-pools against those of flax: values, gradients, dtypes, NaN and ties."""

import functools
import re

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, normal, plain_pool, sums_over, with_slow_cases
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nnx_alexnet.models import pools
from nnx_alexnet.models.conv_norm import BatchNorm, conv_norm_relu_max_pool

OPTIMIZED = True

pytestmark = pytest.mark.usefixtures("strict_dtype_promotion")


def plain_norm(norm, x):
    return plain_pool(nnx.relu(norm(x)))


def pooled_with_gradient(pool, x, cotangent):
    output, pullback = jax.vjp(pool, x)
    return output, pullback(cotangent)[0]


@jax.jit
def both_pools(x, cotangent):
    return (
        pools.max_pool(x),
        pooled_with_gradient(pools.max_pool, x, cotangent),
        pooled_with_gradient(plain_pool, x, cotangent),
    )


def assert_same_pool(x, *, whole=True):
    """Values and gradients are equal, exactly where the sums are of whole numbers."""
    cotangent = normal(2, jax.eval_shape(plain_pool, x).shape)
    if whole:
        cotangent = jnp.round(4 * cotangent)
    inference, got, expected = both_pools(x, cotangent.astype(x.dtype))
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other, 0.0 if whole else 1e-6)
    assert_close(inference, expected[0], 0.0)


SIZES = [(3, 3), (4, 4), (5, 8), (10, 9), (13, 13), (22, 22)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("size", with_slow_cases(SIZES[:2], *([size] for size in SIZES[2:])))
def test_the_pool_equals_that_of_nnx(size, dtype):
    assert_same_pool(normal(0, (2, *size, 3), dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", with_slow_cases(SIZES[2:4], *([size] for size in SIZES[4:])))
def test_the_first_of_equal_pixels_has_the_gradient(size, dtype):
    assert_same_pool(nnx.relu(normal(0, (2, *size, 3), dtype) - 1))  # mostly zeros
    assert_same_pool(jnp.zeros((2, *size, 3), dtype))


def test_the_pool_of_random_numbers_equals_that_of_nnx():
    assert_same_pool(normal(0, (4, 55, 54, 8)), whole=False)


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(
        np.float32,
        st.sampled_from([(1, 5, 8, 1), (2, 6, 7, 2), (1, 9, 9, 1)]),  # each is compiled once
        elements=st.integers(-2, 2).map(np.float32),
    )
)
def test_the_pool_with_many_ties_equals_that_of_nnx(x):
    assert_same_pool(jnp.asarray(x))


@pytest.mark.parametrize("first", [float("-inf"), float("inf"), float("nan")])
@pytest.mark.parametrize("place", [(0, 0), (1, 1), (2, 2), (2, 0), (4, 3)])
def test_the_pool_propagates_nan_and_infinity(first, place):
    x = normal(0, (1, 7, 7, 2)).at[0, *place, 0].set(first)
    taken, _ = jax.vjp(pools.max_pool, x)
    np.testing.assert_array_equal(taken, plain_pool(x))
    np.testing.assert_array_equal(pools.max_pool(x), plain_pool(x))
    assert jnp.isnan(taken).any() == np.isnan(first)


def test_the_gradient_of_a_window_of_minus_infinity_stays_inside():
    x = jnp.full((1, 4, 4, 1), -jnp.inf)
    gradient = jax.grad(lambda x: pools.max_pool(x).sum())(x)
    np.testing.assert_array_equal(gradient, jnp.zeros_like(x).at[0, 0, 0, 0].set(1))


def test_the_pool_without_a_gradient_computes_no_winners():
    lowered = jax.jit(pools.max_pool).lower(jnp.zeros((1, 5, 5, 1))).as_text()
    assert "reduce_window" in lowered
    assert "xi8>" not in lowered


def test_the_gradient_of_the_pool_has_no_scatter():
    def gradient(x):
        return jax.grad(lambda x: pools.max_pool(x).sum())(x)

    assert "scatter" not in jax.jit(gradient).lower(jnp.zeros((1, 9, 9, 1))).as_text()


def normed(x, scale, bias, *, plain):
    """Pooled, and the statistics that are kept, of flax's own BatchNorm or of ours."""
    norm = BatchNorm(x.shape[-1], rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = scale, bias
    pooled = plain_norm(norm, x) if plain else conv_norm_relu_max_pool(lambda x: x, norm, x)
    return pooled, norm.mean[...], norm.var[...]


@functools.partial(jax.jit, static_argnames="plain")
def normed_with_gradients(x, scale, bias, *, plain):
    outputs, pullback = jax.vjp(functools.partial(normed, plain=plain), x, scale, bias)
    gradient = normal(5, outputs[0].shape, x.dtype)
    return *outputs, *pullback((gradient, *map(jnp.zeros_like, outputs[1:])))


def assert_same_norm(x, scale, bias, tolerance):
    got, expected = (normed_with_gradients(x, scale, bias, plain=each) for each in (False, True))
    for one, other in zip(got[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(got[3:], expected[3:], strict=True):
        assert_close(one, other, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("size", [(3, 4), (13, 10)])
def test_the_fused_norm_and_pool_equal_those_of_flax(size, dtype, tolerance):
    x = 2 * normal(0, (4, *size, 6)).astype(dtype) + jnp.array(1, dtype)
    # A channel that is turned over, and one of which nothing but the bias is left.
    scale = jnp.array([1.0, -2.0, 0.0, 0.5, 3.0, -0.1])
    assert_same_norm(x, scale, normal(1, (6,)), tolerance)


@settings(deadline=None, max_examples=100)
@given(
    hnp.arrays(np.float32, (2, 6, 7, 2), elements=st.integers(-2, 2).map(np.float32)),
    st.sampled_from([1.0, -1.5]),
    st.sampled_from([0.0, 0.25, -0.5]),
)
def test_the_fused_norm_and_pool_with_ties_equal_those_of_flax(x, scale, bias):
    assume(all(np.ptp(x[..., channel]) for channel in range(2)))  # else its gradient is of rounding
    assert_same_norm(jnp.asarray(x), jnp.full(2, scale), jnp.full(2, bias), 1e-4)


def test_a_variance_clipped_at_zero_has_no_gradient():
    x = 1e4 + 3 * normal(0, (4, 9, 9, 16))
    assert_same_norm(x, jnp.ones(16), jnp.zeros(16), 1e-4)


def test_the_fused_norm_and_pool_propagate_nan():
    x = normal(0, (2, 7, 7, 2)).at[0, 3, 3, 0].set(jnp.nan)
    pooled, mean, var = normed(x, jnp.ones(2), jnp.zeros(2), plain=False)
    for values in (pooled, mean, var):
        assert jnp.isnan(values[..., 0]).all()
        assert jnp.isfinite(values[..., 1]).all()


def test_the_fused_gradient_has_no_sum_over_all_pixels():
    def with_gradients(x, scale, bias):
        pooled, pullback = jax.vjp(lambda *a: pools.norm_relu_max_pool(*a, 1e-5), x, scale, bias)
        return pooled, pullback(jnp.ones_like(pooled))

    x = normal(0, (2, 9, 9, 3))
    traced = jax.make_jaxpr(with_gradients)(x, jnp.ones(3), jnp.zeros(3))
    assert sums_over(x.shape, traced.jaxpr) == 2  # of the pixels and of their squares, forward


def test_the_statistics_are_computed_once():
    def sums(plain):
        way = jax.jit(functools.partial(normed, plain=plain))
        text = way.lower(normal(0, (2, 9, 9, 3)), jnp.ones(3), jnp.zeros(3)).compile().as_text()
        return len(re.findall(r" reduce\(", text))

    assert sums(plain=False) == sums(plain=True) == 2
