"""The initial weights of a run that failed before its first checkpoint come back."""

import dataclasses
import gc
import logging
from pathlib import Path

import jax.numpy as jnp
import pytest
from flax import nnx
from parts import Parts, Scale

from nnx_alexnet.training import initial_weights

RUN, OTHER = Path("logs/run/version_0"), Path("logs/run/version_1")


@pytest.fixture
def parts():
    parts = Parts(weight=3.0)
    assert parts.ingredients
    return parts


def train(parts):
    """Moves the weight from 3 to 7, and puts it back into the model as the end of a fit does."""
    parts.arrays.lend().weight[...] = jnp.float32(7.0)


def test_a_run_that_begins_again_has_the_weights_of_its_first_start(parts, warnings):
    warnings.set_level(logging.INFO, logger="nnx_alexnet")
    initial_weights.keep_or_restore(parts.arrays, RUN)
    train(parts)
    initial_weights.keep_or_restore(parts.arrays, RUN)
    assert parts.weight == 3.0
    assert float(parts.arrays.lend().weight[...]) == 3.0
    assert any("starts again from its initial weights" in text for text in warnings.messages)


def test_another_trainer_of_the_same_model_gets_them_too(parts):
    initial_weights.keep_or_restore(parts.arrays, RUN)
    train(parts)
    other = Parts(model=parts.model)
    assert other.ingredients
    initial_weights.keep_or_restore(other.arrays, RUN)
    assert other.weight == 3.0


def test_another_run_begins_with_the_present_weights(parts):
    initial_weights.keep_or_restore(parts.arrays, RUN)
    train(parts)
    initial_weights.keep_or_restore(parts.arrays, OTHER)
    assert parts.weight == 7.0
    train(parts)
    parts.arrays.lend().weight[...] = jnp.float32(9.0)
    initial_weights.keep_or_restore(parts.arrays, OTHER)
    assert parts.weight == 7.0, "those of the start of this run"


def test_a_run_that_has_a_checkpoint_needs_them_no_more(parts):
    initial_weights.keep_or_restore(parts.arrays, RUN)
    initial_weights.forget(parts.model)
    train(parts)
    initial_weights.keep_or_restore(parts.arrays, RUN)
    assert parts.weight == 7.0


def test_forgetting_what_was_never_kept_is_fine():
    initial_weights.forget(Scale())


def test_a_model_that_is_gone_leaves_nothing_behind():
    before = {*initial_weights._starts}
    parts = Parts()
    assert parts.ingredients
    initial_weights.keep_or_restore(parts.arrays, RUN)
    assert {*initial_weights._starts} - before == {id(parts.model)}
    del parts
    gc.collect()
    assert {*initial_weights._starts} <= before


@dataclasses.dataclass
class Dataclass(nnx.Module):
    """Cannot be hashed, and is equal to each model of the same fields."""

    start: float = 3.0

    def __post_init__(self):
        self.weight = nnx.Param(jnp.float32(self.start))

    def __call__(self, image):
        return image[:, 0] * self.weight[...]


def test_models_that_are_equal_are_told_apart():
    first, second = Parts(model=Dataclass()), Parts(model=Dataclass())
    for parts in (first, second):
        assert parts.ingredients
    initial_weights.keep_or_restore(first.arrays, RUN)
    train(first)
    train(second)
    initial_weights.keep_or_restore(second.arrays, RUN)
    assert second.weight == 7.0
    initial_weights.keep_or_restore(first.arrays, RUN)
    assert first.weight == 3.0
