import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from helpers import tiny_arrays, tree_allclose, tree_equal
from small_runs import FlatNet, numpy_metrics, tiny_data, tiny_trainer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nnx_alexnet import load_checkpoint
from nnx_alexnet.callbacks import EMA, SWA, Callback, ModelCheckpoint
from nnx_alexnet.training.averaged_weights import AveragingOptimizer, OptimizerFactory

WEIGHTS = nnx.Any(nnx.Param, nnx.BatchStat)


def weights(model):
    """The parameters and the statistics of a model on the host, by name."""
    return nnx.to_pure_dict(jax.tree.map(np.array, nnx.state(model, WEIGHTS)))


class Trajectory(Callback):
    """The trained weights after each step, the initial ones first."""

    def on_fit_start(self, trainer):
        self.weights = [weights(trainer.model)]

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        self.weights.append(weights(trainer.model))


class StopAfter(Callback):
    """Saves after a step and fails, as a machine would."""

    def __init__(self, step):
        self.every_n_steps = step

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        raise RuntimeError("a failure")


@pytest.fixture(scope="module")
def ema_run(tmp_path_factory):
    """A run with an EMA of 0.8: its trainer and trajectory."""
    trajectory = Trajectory()
    trainer = tiny_trainer(
        model=FlatNet(),
        callbacks=[trajectory, EMA(0.8), ModelCheckpoint("val/loss", every_n_epochs=1)],
        log_dir=tmp_path_factory.mktemp("ema"),
    )
    trainer.fit()
    return trainer, trajectory.weights


def test_ema_equals_the_recursion_over_the_weights_of_each_step(ema_run):
    trainer, (average, *after) = ema_run
    assert len(after) == 8
    for number, now in enumerate(after):  # of earlier updates
        decay = min(0.8, (1 + number) / (10 + number))
        average = jax.tree.map(lambda a, w, d=decay: d * a + (1 - d) * w, average, now)
    assert tree_allclose(weights(trainer.model), average)
    assert not tree_allclose(weights(trainer.model), after[-1], rtol=1e-2)


def test_validation_measures_the_averages_and_the_model_ends_with_them(ema_run):
    trainer, _ = ema_run
    images, labels = tiny_arrays(num=30, seed=1)
    loss, accuracy = numpy_metrics(trainer.model, images, labels)
    row = trainer.history[-1]
    assert math.isclose(row["val/loss"], loss, rel_tol=1e-5)
    assert row["val/accuracy"] == accuracy
    assert trainer.validate()["val/loss"] == row["val/loss"]
    assert trainer.checkpoints.best_value == min(row["val/loss"] for row in trainer.history)


def test_a_checkpoint_loads_the_averages_that_were_measured(ema_run):
    trainer, trained = ema_run
    loaded = FlatNet(9)
    load_checkpoint(trainer.run_dir, loaded, which="last")
    assert tree_equal(weights(loaded), weights(trainer.model))
    load_checkpoint(trainer.run_dir, loaded, which=4)
    images, labels = tiny_arrays(num=30, seed=1)
    assert math.isclose(
        trainer.history[0]["val/loss"], numpy_metrics(loaded, images, labels)[0], rel_tol=1e-5
    )
    assert not tree_equal(weights(loaded), trained[4])


@pytest.mark.parametrize("stop", [pytest.param(4, marks=pytest.mark.slow), 6])
def test_a_resumed_run_continues_averages_and_weights_bit_for_bit(ema_run, tmp_path, stop):
    arguments = {"log_dir": tmp_path, "name": "run"}
    ranking = [EMA(0.8), ModelCheckpoint("val/loss", every_n_epochs=1)]
    trainer = tiny_trainer(model=FlatNet(), callbacks=[StopAfter(stop), *ranking], **arguments)
    with pytest.raises(RuntimeError, match="a failure"):
        trainer.fit()
    trajectory = Trajectory()
    resumed = tiny_trainer(model=FlatNet(), callbacks=[trajectory, *ranking], **arguments)
    resumed.fit(resume="auto")
    reference, trained = ema_run
    assert tree_equal(trajectory.weights[-1], trained[-1])
    assert tree_equal(weights(resumed.model), weights(reference.model))
    values = [[row["val/loss"] for row in each.history] for each in (resumed, reference)]
    assert values[0] == values[1]


def dense_run(callback, **arguments):
    arguments = {"log_dir": None, "devices": 1, "max_epochs": 3, **arguments}
    trainer = tiny_trainer(model=FlatNet(), callbacks=[callback], **arguments)
    trainer.fit()
    return trainer


@pytest.fixture(scope="module")
def dense_ema():
    """A run with an EMA, eight steps per dispatch."""
    return dense_run(EMA(0.8), steps_per_execution=8)


@pytest.mark.parametrize("kind", ["ema", pytest.param("swa", marks=pytest.mark.slow)])
def test_single_steps_of_other_data_placement_give_the_same_bits(dense_ema, kind):
    """Each step is a dispatch, and the data are sent, ahead of the steps."""
    swa = SWA(start_epoch=1, every_n_steps=3)
    eight = dense_ema if kind == "ema" else dense_run(swa, steps_per_execution=8)
    one = dense_run(
        EMA(0.8) if kind == "ema" else swa, steps_per_execution=1,
        data=tiny_data(keep_on_device=False),
    )  # fmt: skip
    assert tree_equal(weights(one.model), weights(eight.model))
    assert one.history[-1]["val/loss"] == eight.history[-1]["val/loss"]


@pytest.mark.parametrize("shard_state", [pytest.param(False, marks=pytest.mark.slow), True])
def test_two_devices_and_a_divided_state_give_the_same_average(dense_ema, shard_state):
    two = dense_run(EMA(0.8), devices=2, shard_state=shard_state)
    assert tree_allclose(weights(two.model), weights(dense_ema.model))
    assert two.num_compilations["train"] == 1


def test_swa_is_the_mean_of_the_weights_at_the_ends_of_epochs():
    trajectory = Trajectory()
    trainer = tiny_trainer(
        model=FlatNet(), callbacks=[trajectory, SWA(start_epoch=2)], max_epochs=4, log_dir=None
    )  # fmt: skip
    trainer.fit()
    ends = [trajectory.weights[step] for step in (8, 12, 16)]
    assert tree_allclose(weights(trainer.model), jax.tree.map(lambda *w: np.mean(w, 0), *ends))


def test_before_its_start_swa_evaluates_the_trained_weights():
    trajectory = Trajectory()
    trainer = tiny_trainer(
        model=FlatNet(), callbacks=[trajectory, SWA(start_epoch=2)], log_dir=None
    )
    trainer.fit()
    assert tree_equal(weights(trainer.model), trajectory.weights[-1])


class Normed(nnx.Module):
    """Two values and their statistics, of any dtype."""

    def __init__(self, dtype=jnp.float32):
        self.kernel = nnx.Param(jnp.ones(2, dtype))
        self.mean = nnx.BatchStat(jnp.zeros(2, dtype))
        self.count = nnx.BatchStat(jnp.int32(0))


def moved(optimizer, model, steps):
    """Takes steps that change the model; returns its values after each."""
    values = []
    for step in range(1, steps + 1):
        model.mean[...] = jnp.full(2, step, model.mean.dtype)
        model.count[...] = jnp.int32(step)
        optimizer.update(model, nnx.State({"kernel": nnx.Param(jnp.full(2, 0.1 * step))}))
        values.append([np.array(model.kernel[...]), np.array(model.mean[...])])
    return values


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_parameters_and_statistics_are_averaged_as_in_torch(kind):
    callback = EMA(0.7, warmup=False) if kind == "ema" else SWA(start_step=1, every_n_steps=1)
    model = Normed()
    optimizer = OptimizerFactory(optax.sgd(1.0), callback).create(model)
    module = torch.nn.Module()
    module.kernel = torch.nn.Parameter(torch.ones(2))
    module.register_buffer("mean", torch.zeros(2))
    averaging = {"multi_avg_fn": get_ema_multi_avg_fn(0.7)} if kind == "ema" else {}
    averaged = AveragedModel(module, use_buffers=True, **averaging)
    if kind == "ema":
        averaged.update_parameters(module)  # torch's first update copies: here the initial values
    for kernel, mean in moved(optimizer, model, 5):
        module.kernel.data, module.mean = torch.tensor(kernel), torch.tensor(mean)
        averaged.update_parameters(module)
    for name in ("kernel", "mean"):
        expected = getattr(averaged.module, name).detach().numpy()
        np.testing.assert_allclose(optimizer.averages[name][...], expected, rtol=1e-6)
    assert int(optimizer.averages["count"][...]) == 5  # integers are copied


def test_arrays_in_16_bits_are_averaged_in_32_bits():
    model = Normed(jnp.bfloat16)
    optimizer = AveragingOptimizer(
        model, optax.sgd(0.0), wrt=nnx.Param, weight=lambda step: 0.001
    )  # fmt: skip
    moved(optimizer, model, 1)
    assert optimizer.averages["mean"][...].dtype == jnp.float32
    np.testing.assert_allclose(optimizer.averages["mean"][...], 0.001, rtol=1e-6)


class States(Callback):
    """The optimizer's state and the parameters at the end of the run."""

    def on_train_end(self, trainer):
        model, optimizer = trainer.model, trainer._arrays.optimizer
        self.parameters = jax.tree.map(jnp.copy, nnx.as_pure(nnx.state(model, nnx.Param)))
        self.state = jax.tree.map(jnp.copy, nnx.as_pure(optimizer.opt_state))


@pytest.mark.parametrize("chained", [pytest.param(False, marks=pytest.mark.slow), True])
def test_schedule_free_is_evaluated_as_optax_does(tmp_path, chained):
    optimizer = optax.contrib.schedule_free_sgd(0.5)
    if chained:
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optimizer)
    states = States()
    trainer = tiny_trainer(
        model=FlatNet(), optimizer=optimizer, callbacks=[states], log_dir=tmp_path
    )
    trainer.fit()
    state = states.state[1] if chained else states.state
    expected = optax.contrib.schedule_free_eval_params(state, states.parameters)
    got = nnx.as_pure(nnx.state(trainer.model, nnx.Param))
    assert tree_allclose(nnx.to_pure_dict(got), nnx.to_pure_dict(expected))
    assert not tree_allclose(nnx.to_pure_dict(got), nnx.to_pure_dict(states.parameters), rtol=1e-3)
    loss, _ = numpy_metrics(trainer.model, *tiny_arrays(num=30, seed=1))
    assert math.isclose(trainer.history[-1]["val/loss"], loss, rel_tol=1e-5)
    loaded = FlatNet(9)
    load_checkpoint(trainer.run_dir, loaded, which="last")
    assert tree_equal(weights(loaded), weights(trainer.model))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"callbacks": [EMA(), SWA(3)]}, "EMA.* and SWA.*, but a run is evaluated with one"),
        (
            {"callbacks": EMA(), "optimizer": optax.contrib.schedule_free_sgd()},
            "`optimizer` is schedule-free and already averages",
        ),
    ],
)
def test_a_second_average_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_trainer(log_dir=None, **arguments).fit()
