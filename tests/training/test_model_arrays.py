"""`ModelArrays`: the arrays of a model are in one place at a time, and none is lost."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from parts import Parts

from nnx_alexnet.training.step_functions import State


@pytest.fixture
def parts():
    """Parts whose optimizer has a state: the momentum of the weight."""
    parts = Parts(weight=3.0, optimizer=optax.sgd(0.5, momentum=0.9))
    assert parts.ingredients
    return parts


def moved(state, value):
    """A state whose arrays all have another value."""
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, value), state)


def test_steps_get_copies_so_that_donating_them_leaves_the_model_alone(parts):
    state = parts.arrays.take()
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    assert float(parts.model.weight[...]) == 3.0


def test_the_same_state_is_taken_until_it_is_lent(parts):
    arrays = parts.arrays
    assert arrays.take() is arrays.take()
    before = arrays.take()
    arrays.lend()
    assert arrays.take() is not before


def test_a_model_that_is_lent_has_what_the_last_step_returned(parts):
    arrays = parts.arrays
    arrays.put(moved(arrays.take(), 7))
    assert float(parts.model.weight[...]) == 3.0, "nobody has asked for it yet"
    assert arrays.lend() is parts.model
    assert float(parts.model.weight[...]) == 7.0
    momentum = jax.tree.leaves(arrays.optimizer.opt_state)
    assert 7.0 in [float(leaf) for leaf in momentum]


def test_a_model_is_not_rewritten_if_no_step_has_changed_the_arrays(parts):
    arrays = parts.arrays
    arrays.lend()
    arrays.take()
    parts.model.weight[...] = jnp.float32(-1.0)
    assert float(arrays.lend().weight[...]) == -1.0
    arrays.put(moved(arrays.take(), 7))
    assert float(arrays.lend().weight[...]) == 7.0


def test_what_a_hook_changes_in_the_lent_model_reaches_the_next_step(parts):
    arrays = parts.arrays
    arrays.put(moved(arrays.take(), 7))
    arrays.lend().weight[...] = jnp.float32(-1.0)
    assert [float(leaf) for leaf in arrays.take().model] == [-1.0]


def test_parameters_are_read_wherever_they_are(parts):
    arrays = parts.arrays
    arrays.put(moved(arrays.take(), 7))
    assert float(arrays.parameters()["weight"]) == 7.0
    arrays.lend().weight[...] = jnp.float32(-1.0)
    assert float(arrays.parameters()["weight"]) == -1.0
    assert list(arrays.parameters()) == ["weight"]


def test_a_state_that_a_failed_step_deleted_leaves_the_values_of_before(parts, warnings):
    arrays = parts.arrays
    arrays.put(moved(arrays.take(), 7))
    arrays.lend()
    for leaf in jax.tree.leaves(arrays.take()):
        leaf.delete()
    assert float(arrays.lend().weight[...]) == 7.0
    assert [record.levelname for record in warnings.records] == ["ERROR"]
    assert warnings.messages[0].startswith("The step failed: the model has older values")
    assert float(arrays.parameters()["weight"]) == 7.0
    assert [float(leaf) for leaf in arrays.take().model] == [7.0], "training can begin again"


def test_all_arrays_have_a_path(parts):
    named = parts.arrays.named()
    assert next(iter(named)) == "model/weight"
    rest = [*named][1:]
    assert rest
    assert all(name.startswith("optimizer/") for name in rest)


def test_restored_arrays_are_those_that_were_copied_to_the_host(parts):
    arrays = parts.arrays
    arrays.put(moved(arrays.take(), 7))
    saved = arrays.to_host()
    assert all(isinstance(array, np.ndarray) for array in saved.values())
    arrays.put(moved(arrays.take(), 1))
    arrays.restore(saved | {"metrics/window/0": np.zeros(1)})
    for name, array in arrays.named().items():
        np.testing.assert_array_equal(array, saved[name], err_msg=name)
    assert float(arrays.lend().weight[...]) == 7.0


def test_the_model_can_be_restored_without_the_optimizer(parts):
    arrays = parts.arrays
    saved = arrays.model_to_host()
    assert list(saved) == ["model/weight"]
    arrays.put(moved(arrays.take(), 7))
    arrays.restore_model(saved)
    state = arrays.take()
    assert [float(leaf) for leaf in state.model] == [3.0]
    assert {float(leaf) for leaf in state.optimizer} == {7.0}


def test_the_optimizer_is_there_during_training_alone(parts):
    arrays = parts.arrays
    assert arrays.optimizer is not None
    arrays.lend()
    arrays.end_training()
    assert arrays.optimizer is None
    assert arrays.take().optimizer == []


def test_the_steps_fit_until_the_model_is_built_in_another_way(parts):
    arrays = parts.arrays
    assert arrays.has_current_steps()
    parts.model.weight[...] = jnp.float32(5.0)
    assert arrays.has_current_steps(), "values do not count"
    parts.model.extra = 3
    assert not arrays.has_current_steps()


def test_without_steps_nothing_was_compiled():
    arrays = Parts().arrays
    assert not arrays.has_current_steps()
    assert arrays.num_compilations == {}
    with pytest.raises(AssertionError, match="call `use` first"):
        arrays.take()


def test_a_state_has_the_model_before_the_optimizer():
    assert State._fields == ("model", "optimizer")
