"""Weighted averages over examples."""

import jax.numpy as jnp
import numpy as np
import pytest

from nnx_alexnet.task import Loss


def test_batches_merge_into_the_weighted_mean_without_padding():
    values, weight = np.array([1.0, 4.0, 2.0, np.nan, np.nan]), np.array([1, 2, 3, 0, np.nan])
    mask = np.array([True, True, True, True, False])
    metric = Loss.empty()
    for part in (slice(0, 2), slice(2, 5)):
        each = {"loss": values, "weight": weight, "mask": mask}
        metric = metric.merge(
            Loss.from_model_output(**{name: jnp.asarray(x[part]) for name, x in each.items()})
        )
    assert float(metric.compute()) == pytest.approx(np.average([1, 4, 2], weights=[1, 2, 3]))
