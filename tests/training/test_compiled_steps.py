"""`CompiledSteps`: each step compiles once, donates its state, and copies nothing away."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from parts import Parts, batch_of

from nnx_alexnet.training.step_functions import State
from nnx_alexnet.training.steps_per_dispatch import stacked


@pytest.fixture(scope="module")
def parts():
    parts = Parts(val=(1.0, 2.0), weight=1.0, optimizer=optax.sgd(0.5, momentum=0.9))
    assert parts.ingredients
    return parts


@pytest.fixture
def state(parts):
    """A state of its own at weight 1."""
    return parts.arrays.steps.split(parts.model, parts.arrays.optimizer)


def key(parts):
    return parts.dispatcher.augmentation_key()


def train(parts, state, batch):
    sent = parts.placement.send(batch, len(batch["index"]))
    return parts.arrays.steps.train(state, parts.ingredients.evaluation.empty, {}, sent, key(parts))


def test_a_step_donates_its_state_and_returns_the_next_one(parts, state):
    new, metrics, info = train(parts, state, batch_of(1.0, 3.0))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert float(new.model[0]) == 0.0  # 1 - 0.5 * 2
    assert (float(info["loss"]), bool(info["is_finite"])) == (2.0, True)
    assert float(metrics.compute()["loss"]) == 2.0
    assert float(parts.model.weight[...]) == 1.0, "that of the caller stays"


@pytest.mark.parametrize("num", [1, 2, 3])
def test_a_group_of_steps_is_those_steps_whatever_its_padding(parts, state, num):
    steps, empty = parts.arrays.steps, parts.ingredients.evaluation.empty
    batches = [batch_of(1.0, 3.0), batch_of(4.0, 6.0), batch_of(-1.0, 0.0)][:num]
    group = parts.placement.send(stacked(batches, 4), 2, stacked=True)
    many, metrics, infos, last = steps.train_many(
        state, empty, {}, (group, np.int32(num)), key(parts)
    )
    single = steps.split(parts.model, parts.arrays.optimizer)
    losses = []
    for batch in batches:
        single, _, info = train(parts, single, batch)
        losses.append(float(info["loss"]))
    for left, right in zip(jax.tree.leaves(many), jax.tree.leaves(single), strict=True):
        np.testing.assert_array_equal(left, right)
    assert infos["loss"].tolist()[:num] == losses
    assert float(last["loss"]) == losses[-1]
    assert float(metrics.compute()["loss"]) == pytest.approx(np.mean(losses))


def test_each_step_compiles_once_for_each_size(parts):
    parts = Parts()
    steps = parts.ingredients.arrays.steps
    state = parts.arrays.take()
    for values in ([1.0, 2.0], [3.0, 4.0], [5.0], [6.0], [7.0, 8.0]):
        state, _, _ = train(parts, state, batch_of(*values))
    assert steps.traces["train"] == 2


def test_the_first_dispatch_of_a_size_is_told_from_the_others():
    steps = Parts().ingredients.arrays.steps
    assert [steps.note_size(size) for size in (4, 4, 2, 4, 2)] == [
        True, False, True, False, False
    ]  # fmt: skip


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_tells_whether_its_loss_was_finite(parts, state, bad):
    _, _, info = train(parts, state, batch_of(1.0, bad))
    assert not bool(info["is_finite"])


def test_an_evaluation_leaves_the_state_and_adds_to_the_metrics(parts, state):
    steps, empty = parts.arrays.steps, parts.preparation.for_evaluation(parts.data.val).empty
    batch = parts.placement.send(batch_of(1.0, 3.0), 2)
    carried, metrics, outputs = steps.evaluate(state.model, [], empty, batch)
    _, metrics, _ = steps.evaluate(state.model, carried, metrics, batch)
    assert outputs["loss"].tolist() == [1.0, 3.0]
    assert float(metrics.compute()["loss"]) == 2.0
    assert not state.model[0].is_deleted()


def test_joined_modules_hold_the_state(parts, state):
    other = Parts(weight=9.0, optimizer=parts.optimizer)
    arrays = other.ingredients.arrays
    arrays.steps.join(state, other.model, arrays.optimizer)
    assert float(other.model.weight[...]) == 1.0


def test_a_state_survives_the_way_to_the_host_and_back(parts, state):
    steps = parts.arrays.steps
    saved = steps.to_host(state)
    assert saved["model/weight"] == np.float32(1.0)
    other = jax.tree.map(lambda leaf: leaf + 1, state)
    restored = steps.from_host(saved, like=other)
    for left, right in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(left, right)
    assert steps.named(state).keys() == saved.keys()


def test_a_state_without_an_optimizer_names_the_model_alone(parts, state):
    assert [*parts.arrays.steps.named(State(state.model, []))] == ["model/weight"]


def test_gradients_leave_the_state(parts, state):
    sent = parts.placement.send(batch_of(1.0, 5.0), 2)
    found = parts.arrays.steps.gradients(state, sent, key(parts))
    assert {name: float(value) for name, value in found.items()} == {"weight": 3.0}
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_the_steps_are_of_a_model_until_it_is_built_in_another_way():
    parts = Parts()
    steps = parts.ingredients.arrays.steps
    assert steps.are_of(parts.model)
    parts.model.eval()
    assert steps.are_of(parts.model), "no layer has a mode here"
    parts.model.rate = 0.5
    assert not steps.are_of(parts.model)


class Draws(nnx.Module):
    """Its outputs are random numbers, the same for each example."""

    def __init__(self):
        self.weight = nnx.Param(jnp.float32(1.0))

    def __call__(self, image, rngs):
        return jnp.full(len(image), self.weight * rngs.uniform())


def test_a_pass_has_a_key_and_each_batch_its_own_numbers():
    parts = Parts(model=Draws(), val=(1.0, 2.0))
    empty = parts.preparation.for_evaluation(parts.data.val).empty
    steps = parts.arrays.steps
    leaves = steps.split(parts.model).model

    def drawn(number, start):
        carried = steps.begin_pass("evaluate", leaves, number)
        batch = parts.placement.send(batch_of(1.0, 3.0, start=start), 2)
        after, _, outputs = steps.evaluate(leaves, carried, empty, batch)
        assert (after[0] == carried[0]).all()
        first, second = outputs["loss"].tolist()
        assert first == second
        return first

    assert drawn(0, 0) == drawn(0, 0)
    assert len({drawn(0, 0), drawn(0, 2), drawn(1, 0), drawn(1, 2)}) == 4
