"""What each name of an optimizer stands for."""

import inspect

import jax
import jax.numpy as jnp
import pytest

from nnx_alexnet.optimizers.registry import OPTIMIZERS, accepts, sgd


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_that_decays_takes_a_mask(name):
    assert accepts(name, "mask") == accepts(name, "weight_decay")
    first = next(iter(inspect.signature(OPTIMIZERS[name]).parameters))
    assert first == "learning_rate"


def test_sgd_without_momentum_stores_nothing():
    assert jax.tree.leaves(sgd(0.1, momentum=0.0).init(jnp.ones(2))) == []
