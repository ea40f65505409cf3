"""The max-pools against those of flax: values, gradients, dtypes, NaN and ties."""

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, normal, plain_pool, with_slow_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from nnx_alexnet.models import pools

pytestmark = pytest.mark.usefixtures("strict_dtype_promotion")


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


@pytest.mark.optimized
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
