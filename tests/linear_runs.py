"""A linear model on 32 examples in one batch, and what plain optax computes for it."""

import jax
import numpy as np
import optax
from flax import nnx

from nnx_alexnet import DataModule, Trainer

X = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)


def linear_trainer(optimizer, *, log_dir=None, epochs=3, model=None, batch_size=32, **arguments):
    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0)) if model is None else model
    data = DataModule((X, Y), batch_size=batch_size)
    return Trainer(
        model, data, optimizer=optimizer, max_epochs=epochs, log_dir=log_dir, progress_bar=False,
        **arguments,
    )  # fmt: skip


def fit(optimizer, **arguments):
    trainer = linear_trainer(optimizer, **arguments)
    history = trainer.fit()
    return trainer.model, history


def by_hand(optimizer, steps):
    """The parameters and losses of plain optax on the whole batch, in its order."""
    order = np.arange(32)
    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    parameters = {"kernel": model.kernel[...], "bias": model.bias[...]}

    def loss_of(parameters):
        logits = X[order] @ parameters["kernel"] + parameters["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, Y[order]).mean()

    @jax.jit
    def step(parameters, state):
        loss, gradients = jax.value_and_grad(loss_of)(parameters)
        updates, state = optimizer.update(
            gradients, state, parameters, value=loss, grad=gradients, value_fn=loss_of
        )
        return optax.apply_updates(parameters, updates), state, loss

    state, losses = optimizer.init(parameters), []
    for _ in range(steps):
        parameters, state, loss = step(parameters, state)
        losses.append(float(loss))
    return parameters, losses
