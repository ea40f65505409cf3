"""Gradual unfreezing equals optax on each group alone, from the step that unfreezes it."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fake_trainer import FakeTrainer
from flax import nnx
from small_runs import tiny_data, tiny_trainer

from nnx_alexnet import create_optimizer
from nnx_alexnet.callbacks import Callback, GradualUnfreezing
from nnx_alexnet.callbacks.gradual_unfreezing import unfreezing
from nnx_alexnet.devices import named_leaves
from nnx_alexnet.optimizers import dynamic_loss_scale, log_grad_norm, loss_scale, scalar_leaves


def rate(step):
    return 0.1 / (1 + step)


def injected(schedule):
    return optax.inject_hyperparams(optax.adamw)(schedule, weight_decay=0.3)


def plain(schedule):
    return optax.adamw(schedule, weight_decay=0.3)


def run(optimizer, parameters, gradients):
    state = optimizer.init(parameters)
    for each in gradients:
        updates, state = optimizer.update(each, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
    return parameters


@pytest.mark.parametrize("build", [plain, injected])
def test_each_group_trains_as_if_alone_with_the_schedule_of_the_run(build):
    rng = np.random.default_rng(0)
    names = {"body": 3, "head": 0, "headless": None}

    def random():
        return {name: jnp.asarray(rng.normal(size=3), jnp.float32) for name in names}

    start, gradients = random(), [random() for _ in range(6)]
    found = run(unfreezing(build(rate), {"head": 0, "body": 3, "headl": 9}), start, gradients)
    for name, begin in {"head": 0, "body": 3}.items():
        alone = build(lambda step, begin=begin: rate(step + begin))
        expected = run(alone, {"x": start[name]}, [{"x": g[name]} for g in gradients[begin:]])
        np.testing.assert_allclose(found[name], expected["x"], rtol=1e-6)
    np.testing.assert_array_equal(found["headless"], start["headless"])


def test_each_group_has_rates_a_norm_and_a_loss_scale_of_its_own():
    """The first scale is that of a frozen group; the gradients of the other one overflow in it."""
    chained = optax.chain(
        log_grad_norm(), create_optimizer("sgd", 0.1, rate_factors={"b": 0.1, "d": 0.5})
    )
    optimizer = unfreezing(dynamic_loss_scale(chained, initial_scale=4.0), {"b": 5, "d": 0})
    parameters = {"b": jnp.zeros(2), "d": jnp.zeros(2)}
    state, gradient = optimizer.init(parameters), jnp.array([3.0, 4.0])
    for d in (jnp.array([jnp.inf, 0.0]), gradient):
        updates, state = optimizer.update({"b": 2 * gradient, "d": d}, state, parameters)
    np.testing.assert_allclose(updates["d"], -0.05 * (1 + 0.9) * gradient, rtol=1e-6)
    np.testing.assert_array_equal(updates["b"], 0)
    assert float(loss_scale(state)) == 2.0
    leaves = named_leaves(state)
    shapes = [leaf.shape for leaf in leaves.values()]
    values = [*leaves.values()]
    found = {name: float(values[n]) for name, n in scalar_leaves([*leaves], shapes).items()}
    assert found == {
        "grad_norm/b": 10, "grad_norm/d": 5, "loss_scale/b": 4, "loss_scale/d": 2,
        "skipped_steps/b": 0, "skipped_steps/d": 1,
    }  # fmt: skip


class Snapshots(Callback):
    """Keeps the parameters at the end of each epoch."""

    def on_fit_start(self, trainer):
        self.epochs = []

    def on_train_epoch_end(self, trainer):
        self.epochs.append({name: np.array(leaf) for name, leaf in trainer.parameters().items()})


class Stack(nnx.Module):
    """Three groups, without convolutions, which compile longer."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(64, 8, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(8, rngs=rngs)
        self.dense = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, image):
        return self.dense(nnx.relu(self.bn(self.first(image.reshape(len(image), -1)))))


def unfreezing_trainer(**arguments):
    optimizer = create_optimizer("sgd", 0.05, schedule="cosine", num_steps=12)
    callbacks = [GradualUnfreezing({"dense": 0, "b": 1, "": 2}), *arguments.pop("callbacks", [])]
    return tiny_trainer(
        model=Stack(), optimizer=optimizer, callbacks=callbacks, devices=2, **arguments
    )


def test_groups_change_from_their_epoch_on_and_resume_exactly(tmp_path):
    seen = Snapshots()
    whole = unfreezing_trainer(callbacks=[seen], max_epochs=3, steps_per_execution=3)
    initial = {name: np.array(leaf) for name, leaf in whole.parameters().items()}
    whole.fit()
    changed = [
        sorted(name for name in initial if (initial[name] != epoch[name]).any())
        for epoch in seen.epochs
    ]
    dense, bn, first = ["dense/bias", "dense/kernel"], ["bn/bias", "bn/scale"], ["first/kernel"]
    assert changed[0] == dense
    assert changed[1] == [*bn, *dense]
    assert changed[2] == [*bn, *dense, *first]
    assert {*whole.learning_rates()} == {"lr/b", "lr/dense", "lr/others"}
    part = unfreezing_trainer(max_steps=6, log_dir=tmp_path)
    part.fit()
    rest = unfreezing_trainer(max_epochs=3, log_dir=tmp_path)
    rest.fit(resume=part.run_dir)
    for name, leaf in named_leaves(nnx.state(rest.model, (nnx.Param, nnx.BatchStat))).items():
        np.testing.assert_array_equal(leaf, named_leaves(whole.model)[name], name)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"dense": 1}, r"must train a group from epoch 0"),
        ({"dense": 0, "": -1}, r"`groups` .* must be prefixes"),
        ([], r"must train a group from epoch 0"),
    ],
)
def test_groups_that_cannot_be_trained_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        GradualUnfreezing(groups)


def test_a_group_without_parameters_is_refused():
    with pytest.raises(ValueError, match=r"'head'.*dense/kernel"):
        tiny_trainer(callbacks=GradualUnfreezing(["head", ""]))


def test_a_group_that_trainable_freezes_is_refused():
    groups = {"dense": 0, "": 1}
    trainer = tiny_trainer(
        model=Stack(), trainable=["dense", "bn"], callbacks=GradualUnfreezing(groups)
    )
    assert trainer.trained_parameters == ("bn/bias", "bn/scale", "dense/bias", "dense/kernel")
    with pytest.raises(ValueError, match=r"`groups`: '' selects no parameter .* `trainable`"):
        tiny_trainer(model=Stack(), trainable="dense", callbacks=GradualUnfreezing(groups))


@pytest.mark.parametrize(("max_epochs", "is_late"), [(2, True), (3, False), (None, False)])
def test_a_group_that_starts_after_the_end_of_the_run_is_reported(max_epochs, is_late, warnings):
    trainer = FakeTrainer(max_epochs=max_epochs)
    GradualUnfreezing({"dense": 0, "": 2}).on_train_start(trainer)
    assert ("never trains the group ''" in warnings.text) is is_late


def test_data_of_unknown_length_need_the_number_of_steps():
    batches = [{"image": np.zeros((4, 8, 8, 1), np.uint8), "label": np.zeros(4, np.int32)}]

    class Endless:
        def __iter__(self):
            return iter(batches)

    data = (Endless(), None)
    with pytest.raises(ValueError, match="Pass `steps_per_epoch`"):
        tiny_trainer(data=data, callbacks=GradualUnfreezing(["dense", ""]))
    tiny_trainer(data=data, callbacks=GradualUnfreezing(["dense", ""], steps_per_epoch=2))
    assert tiny_data().train.num_batches == 4
