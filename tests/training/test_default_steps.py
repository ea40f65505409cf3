"""One step on the modules: the masked mean, the update, and what optimizers get besides."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from parts import Product, Scale, batch_of

from nnx_alexnet import Task
from nnx_alexnet.task import ContractError
from nnx_alexnet.training.default_steps import (
    GradientRecorder,
    eval_step,
    masked_mean,
    predict_step,
    train_step,
)


@pytest.mark.parametrize(
    ("values", "mask", "mean"),
    [
        ([1.0, 3.0, 8.0], [True, True, True], 4.0),
        ([1.0, 3.0, np.nan], [True, True, False], 2.0),
        ([np.inf, np.nan], [False, False], 0.0),
    ],
)
def test_a_mean_leaves_masked_values_out(values, mask, mean):
    assert float(masked_mean(jnp.array(values), jnp.array(mask))) == mean


def test_the_gradient_of_a_mean_is_zero_where_the_mask_leaves_out():
    mask = jnp.array([True, False])
    gradient = jax.grad(lambda x: masked_mean(x, mask))(jnp.array([2.0, 5.0]))
    assert gradient.tolist() == [1.0, 0.0]


def stepped(transformation, batch, weight=1.0, task=None):
    model = Scale(weight)
    optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)
    outputs = train_step(task or Product(), model, optimizer, batch)
    return float(model.weight[...]), outputs


def test_a_step_is_one_of_the_mean_loss_and_returns_the_outputs_of_before():
    weight, outputs = stepped(optax.sgd(0.5), batch_of(1.0, 3.0))
    assert weight == 0.0
    assert outputs["loss"].tolist() == [1.0, 3.0]


def test_masked_rows_move_nothing():
    batch = batch_of(1.0, 3.0, 100.0) | {"mask": jnp.array([True, True, False])}
    assert stepped(optax.sgd(0.5), batch)[0] == 0.0


def test_an_optimizer_gets_value_gradient_and_the_loss_as_a_function():
    seen = {}

    def update(updates, state, params, *, value, grad, value_fn):
        seen.update(value=float(value), grad=grad, at_zero=value_fn(
            jax.tree.map(jnp.zeros_like, params)
        ))  # fmt: skip
        return jax.tree.map(lambda g: -g, updates), state

    told = optax.GradientTransformationExtraArgs(lambda params: (), update)
    weight, _ = stepped(told, batch_of(1.0, 3.0))
    assert weight == -1.0
    assert seen["value"] == 2.0
    assert [float(leaf) for leaf in jax.tree.leaves(seen["grad"])] == [2.0]
    assert float(seen["at_zero"]) == 0.0


def test_a_complex_parameter_descends():
    class Complex(nnx.Module):
        def __init__(self):
            self.weight = nnx.Param(jnp.complex64(1 + 2j))

    class Squared(Task):
        def outputs(self, model, batch):
            return {"loss": jnp.square(jnp.abs(model.weight[...])) * batch["image"][:, 0]}

    model = Complex()
    optimizer = nnx.Optimizer(model, optax.sgd(0.25), wrt=nnx.Param)
    train_step(Squared(), model, optimizer, batch_of(1.0))
    assert complex(model.weight[...]) == 0.5 + 1j  # half of it, towards 0


def test_evaluation_and_prediction_return_what_the_task_returns():
    model = Scale(3.0)
    assert eval_step(Product(), model, batch_of(1.0, 2.0))["loss"].tolist() == [3.0, 6.0]
    assert predict_step(Product(), model, batch_of(1.0, 2.0)).tolist() == [3.0, 6.0]
    assert float(model.weight[...]) == 3.0


class MeanLoss(Task):
    def outputs(self, model, batch):
        return {"loss": model(batch["image"]).mean()}


@pytest.mark.parametrize(
    "step",
    [
        lambda task, batch: stepped(optax.sgd(0.5), batch, task=task),
        lambda task, batch: eval_step(task, Scale(), batch),
    ],
    ids=["train", "evaluate"],
)
def test_a_task_that_returns_one_loss_for_a_batch_is_named(step):
    with pytest.raises(ContractError, match=r"`MeanLoss\.outputs`"):
        step(MeanLoss(), batch_of(1.0, 3.0))


def test_a_recorder_keeps_the_gradients_and_the_model():
    model = Scale(1.0)
    recorder = GradientRecorder(model, optax.identity(), wrt=nnx.Param)
    train_step(Product(), model, recorder, batch_of(1.0, 3.0))
    assert [float(leaf) for leaf in jax.tree.leaves(recorder.gradients)] == [2.0]
    assert float(model.weight[...]) == 1.0
