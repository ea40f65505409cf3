"""BatchNorm with ReLU, and with ReLU and max-pool, compared with the layers of flax."""

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

from nnx_alexnet.models import norms
from nnx_alexnet.models.conv_norm import BatchNorm, conv_norm_relu, conv_norm_relu_max_pool

pytestmark = pytest.mark.usefixtures("strict_dtype_promotion")

# By whether a max-pool follows, what is compared.
OURS = {False: conv_norm_relu, True: conv_norm_relu_max_pool}
PLAIN = {
    False: lambda conv, norm, x: nnx.relu(norm(conv(x))),
    True: lambda conv, norm, x: plain_pool(nnx.relu(norm(conv(x)))),
}


def normed(x, scale, bias, *, way):
    """Returns the output after the norm, and the statistics that the norm keeps."""
    norm = BatchNorm(x.shape[-1], rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = scale, bias
    outputs = way(lambda x: x, norm, x)
    return outputs, norm.mean[...], norm.var[...]


@functools.partial(jax.jit, static_argnames="way")
def normed_with_gradients(x, scale, bias, *, way):
    outputs, pullback = jax.vjp(functools.partial(normed, way=way), x, scale, bias)
    gradient = normal(5, outputs[0].shape, x.dtype)
    return *outputs, *pullback((gradient, *map(jnp.zeros_like, outputs[1:])))


def assert_same_norm(x, scale, bias, tolerance, *, pool):
    got, expected = (
        normed_with_gradients(x, scale, bias, way=each[pool]) for each in (OURS, PLAIN)
    )
    for one, other in zip(got[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(got[3:], expected[3:], strict=True):
        assert_close(one, other, tolerance)


@pytest.mark.parametrize(
    ("size", "pool", "dtype", "tolerance"),
    with_slow_cases(
        [
            # otherwise the last bits differ
            pytest.param((13, 10), True, "float32", 1e-5, marks=pytest.mark.optimized),
            ((4, 5), False, "bfloat16", 2e-2),
        ],
        ((3, 4), True, "float32", 1e-5),
        ((4, 5), False, "float32", 1e-5),
        ((3, 4), True, "bfloat16", 2e-2),
        ((13, 10), True, "bfloat16", 2e-2),
    ),
)
def test_the_fused_norm_equals_that_of_flax(size, pool, dtype, tolerance):
    x = 2 * normal(0, (4, *size, 6)).astype(dtype) + jnp.array(1, dtype)
    # Two channels have a negative scale; one has scale 0, which leaves only the bias.
    scale = jnp.array([1.0, -2.0, 0.0, 0.5, 3.0, -0.1])
    assert_same_norm(x, scale, normal(1, (6,)), tolerance, pool=pool)


@pytest.mark.optimized
@settings(deadline=None, max_examples=100)
@given(
    hnp.arrays(np.float32, (2, 6, 7, 2), elements=st.integers(-2, 2).map(np.float32)),
    st.sampled_from([1.0, -1.5]),
    st.sampled_from([0.0, 0.25, -0.5]),
)
def test_the_fused_norm_and_pool_with_ties_equal_those_of_flax(x, scale, bias):
    assume(all(np.ptp(x[..., channel]) for channel in range(2)))  # else its gradient is of rounding
    assert_same_norm(jnp.asarray(x), jnp.full(2, scale), jnp.full(2, bias), 1e-4, pool=True)


@pytest.mark.optimized
def test_a_variance_clipped_at_zero_has_no_gradient():
    x = 1e4 + 3 * normal(0, (4, 9, 9, 16))
    assert_same_norm(x, jnp.ones(16), jnp.zeros(16), 1e-4, pool=True)


@pytest.mark.optimized
def test_the_fused_norm_and_pool_propagate_nan():
    x = normal(0, (2, 7, 7, 2)).at[0, 3, 3, 0].set(jnp.nan)
    pooled, mean, var = normed(x, jnp.ones(2), jnp.zeros(2), way=conv_norm_relu_max_pool)
    for values in (pooled, mean, var):
        assert jnp.isnan(values[..., 0]).all()
        assert jnp.isfinite(values[..., 1]).all()


@pytest.mark.parametrize(
    ("function", "num_backward"), [(norms.norm_relu, 2), (norms.norm_relu_max_pool, 0)]
)
def test_the_gradient_sums_all_pixels_no_more_than_needed(function, num_backward):
    def with_gradients(x, scale, bias):
        outputs, pullback = jax.vjp(lambda *a: function(*a, 1e-5), x, scale, bias)
        return outputs, pullback(jnp.ones_like(outputs))

    x = normal(0, (2, 9, 9, 3))
    traced = jax.make_jaxpr(with_gradients)(x, jnp.ones(3), jnp.zeros(3))
    forward = 2  # of the pixels and of their squares
    assert sums_over(x.shape, traced.jaxpr) == forward + num_backward


def test_the_statistics_are_computed_once():
    def sums(way):
        computed = jax.jit(functools.partial(normed, way=way))
        args = normal(0, (2, 9, 9, 3)), jnp.ones(3), jnp.zeros(3)
        return len(re.findall(r" reduce\(", computed.lower(*args).compile().as_text()))

    assert {sums(way[pool]) for way in (OURS, PLAIN) for pool in (False, True)} == {2}
