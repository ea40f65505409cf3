"""The factor of the focal loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnx_alexnet.task.focal import focal_factor


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_value_and_gradient_are_finite_for_certain_predictions(gamma):
    log_p = jnp.array([0.0, -1e-9, -0.5, -40.0])
    p = np.exp(np.asarray(log_p, np.float64))
    got = focal_factor(log_p, gamma)
    np.testing.assert_allclose(got[1:], (-np.expm1([-1e-9, -0.5, -40.0])) ** gamma, rtol=1e-5)
    gradient = jax.grad(lambda x: (-x * focal_factor(x, gamma)).sum())(log_p)
    assert np.isfinite(gradient).all()
    assert got[0] == pytest.approx((1 - p[0]) ** gamma, abs=1e-5)
