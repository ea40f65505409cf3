"""A trainer of a tiny model on tiny images, and what NumPy computes for the same model."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from helpers import TinyNet, tiny_arrays, trainer_of

from nnx_alexnet import DataModule
from nnx_alexnet.callbacks import Callback


def tiny_data(*, num=64, num_val=30, batch_size=16, **arguments):
    """Stripes, in a train split and in one for both validation and test."""
    train, val = tiny_arrays(num=num), tiny_arrays(num=num_val, seed=1)
    return DataModule(train, val, val, batch_size=batch_size, **arguments)


def tiny_trainer(*, data=None, model=None, seed=0, **arguments):
    """A trainer of a `TinyNet` of that seed; two epochs unless a limit is given."""
    model = TinyNet(4, rngs=nnx.Rngs(seed)) if model is None else model
    return trainer_of(model, tiny_data() if data is None else data, seed=seed, **arguments)


class FlatNet(nnx.Module):
    """Statistics and a layer without convolutions: several steps are one dispatch on a CPU."""

    def __init__(self, seed: int = 0) -> None:
        rngs = nnx.Rngs(seed)
        self.bn = nnx.BatchNorm(64, rngs=rngs)
        self.dense = nnx.Linear(64, 4, rngs=rngs)

    def __call__(self, image):
        return self.dense(self.bn(image.reshape(len(image), -1)))


def numpy_metrics(model, images, labels):
    """Loss and accuracy of a model in evaluation mode over all of a split at once, in float64."""
    twin = nnx.merge(*nnx.split(model))
    twin.eval()
    logits = np.asarray(twin(jnp.asarray(images, jnp.float32) / 255), np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    losses = -log_probabilities[np.arange(len(labels)), labels]
    return losses.mean(), (logits.argmax(axis=1) == labels).mean()


class Steps(Callback):
    """Keeps at which steps its hooks were called, and what they were given."""

    def __init__(self, every_n_steps=None):
        self.every_n_steps = every_n_steps
        self.starts, self.ends, self.indices, self.losses = [], [], [], []

    def on_train_batch_start(self, trainer, batch, batch_index):
        self.starts.append((trainer.global_step + 1, batch_index))

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        self.ends.append((trainer.global_step, batch_index))
        self.indices.append(batch["index"].tolist())
        self.losses.append(float(outputs["loss"]))
        assert batch["image"].shape[0] == len(batch["label"]) == len(batch["mask"])
