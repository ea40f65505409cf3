"""A trainer of a tiny model on tiny images, and what NumPy computes for the same model."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from helpers import TinyNet, tiny_arrays

from nnx_alexnet import DataModule, Trainer


def tiny_data(*, num=64, num_val=30, batch_size=16, **arguments):
    train, val = tiny_arrays(num=num), tiny_arrays(num=num_val, seed=1)
    return DataModule(train, val, val, batch_size=batch_size, **arguments)


def tiny_trainer(*, data=None, model=None, seed=0, **arguments):
    model = TinyNet(4, rngs=nnx.Rngs(seed)) if model is None else model
    defaults = {"log_dir": None, "progress_bar": False, "max_epochs": 2, "seed": seed}
    return Trainer(model, tiny_data() if data is None else data, **{**defaults, **arguments})


def numpy_metrics(model, images, labels):
    """Loss and accuracy of a model in evaluation mode over all of a split at once, in float64."""
    twin = nnx.merge(*nnx.split(model))
    twin.eval()
    logits = np.asarray(twin(jnp.asarray(images, jnp.float32) / 255), np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    losses = -log_probabilities[np.arange(len(labels)), labels]
    return losses.mean(), (logits.argmax(axis=1) == labels).mean()
