"""The norm of gradients, the loss scale of float16, and steps that are skipped."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from helpers import Dense, trainer_of
from parts import Scale, batch_of

from nnx_alexnet import Task
from nnx_alexnet.optimizers import dynamic_loss_scale, log_grad_norm, loss_scale
from nnx_alexnet.training.default_steps import train_step


def test_the_norm_of_the_gradients_is_a_metric():
    """It is the norm before clipping, compared with NumPy; the rate of 0 keeps the weights."""
    optimizer = optax.chain(log_grad_norm(), optax.clip_by_global_norm(1.0), optax.sgd(0.0))
    norms = {}
    for num in (1, 2):
        trainer = trainer_of(Dense(), optimizer=optimizer, num_micro_batches=num, max_epochs=1)
        (row,) = trainer.fit()
        norms[num] = row["grad_norm"]
        assert "grad_norm" in trainer.epoch_metric_names
        assert trainer.learning_rates() == {}
    data = trainer.data.train
    batch = list(data.batches(epoch=0, seed=0))[-1]
    images = batch["image"].reshape(16, -1).astype(np.float64) / 255
    logits = images @ np.asarray(trainer.model.dense.kernel[...], np.float64)
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error = (chance - np.eye(4)[batch["label"]]) / 16
    norm = np.sqrt(np.square(images.T @ error).sum() + np.square(error.sum(0)).sum())
    assert norms == pytest.approx({1: norm, 2: norm}, rel=1e-5)


def test_the_loss_scale_follows_the_rule_of_torch():
    theirs = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
    ours = dynamic_loss_scale(optax.sgd(1.0), initial_scale=8.0, growth_interval=3)
    weight = torch.nn.Parameter(torch.zeros(()))
    sgd = torch.optim.SGD([weight], lr=1.0)
    parameters = {"w": jnp.zeros(())}
    state, update = ours.init(parameters), jax.jit(ours.update)
    for gradient in [1.0, 2.0, np.inf, 1.0, 1.0, 1.0, np.nan, np.nan, 1.0, 1.0, 1.0, 1.0]:
        weight.grad = torch.tensor(gradient) * theirs.scale(torch.ones(()))
        theirs.step(sgd)
        theirs.update()
        updates, state = update({"w": jnp.float32(gradient)}, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        assert float(state.loss_scale) == theirs.get_scale()
        assert float(parameters["w"]) == weight.item()
    assert int(state.skipped_steps) == 3


class Half(Task):
    """A loss whose gradient, 2 ** -27 of the input, underflows in float16."""

    def outputs(self, model, batch):
        small = (model.weight[...].astype(jnp.float16) * jnp.float16(2**-12)).astype(jnp.float32)
        return {"loss": small * 2**-15 * batch["image"][:, 0]}


@pytest.mark.parametrize("scaled", [False, True])
def test_a_scaled_loss_has_gradients_that_do_not_underflow(scaled):
    model = Scale(1.0)
    plain = optax.sgd(2.0**26)
    optimizer = nnx.Optimizer(model, dynamic_loss_scale(plain) if scaled else plain, wrt=nnx.Param)
    outputs = train_step(Half(), model, optimizer, batch_of(1.0, 1.0))
    assert float(model.weight[...]) == (0.5 if scaled else 1.0)
    assert outputs["loss"].tolist() == [2.0**-27] * 2, "the loss is not scaled"
    assert (loss_scale(optimizer.opt_state) is not None) == scaled


@pytest.mark.parametrize(
    "arguments",
    [{"initial_scale": 0.0}, {"initial_scale": np.inf}, {"growth_interval": 0}],
    ids=str,
)
def test_invalid_arguments_of_the_loss_scale_are_named(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
        dynamic_loss_scale(optax.sgd(0.1), **arguments)


def test_an_optimizer_that_was_not_called_cannot_scale_the_loss():
    with pytest.raises(TypeError, match=r"`optimizer` .* Call it: sgd\(1e-3\)"):
        dynamic_loss_scale(optax.sgd)
