"""Contrastive learning: two views of an image are to be more alike than those of different images.

The transform makes the views inside the compiled step. The loss couples the examples of a batch,
and is still one value per example: the cross-entropy of finding the partner of a view among all
views. Rows that only fill a batch are no candidates.

Source: van den Oord, Li and Vinyals, "Representation Learning with Contrastive Predictive Coding",
https://arxiv.org/abs/1807.03748.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu.metrics import Average, Collection
from flax import nnx
from sklearn.datasets import load_digits

from nnx_alexnet import DataModule, Task, Trainer

TEMPERATURE = 0.1


def view(image, numbers):
    """Returns an image moved by up to a pixel, with noise; both from 2 + 64 normal numbers."""
    start = 1 + jnp.clip(jnp.round(numbers[:2]), -1, 1).astype(jnp.int32)
    moved = jax.lax.dynamic_slice(jnp.pad(image, 1), start, image.shape)
    return moved + 0.1 * numbers[2:].reshape(image.shape)


def two_views(batch, key=None):
    """Adds `first` and `second`; in evaluation, each image always has the same views."""
    key = jax.random.key(0) if key is None else key

    def numbers(index):  # a key per example, so that they do not depend on the batch
        return jax.random.normal(jax.random.fold_in(key, index), (2, 66))

    drawn = jax.vmap(numbers)(batch["index"])  # B 2 66
    first, second = (jax.vmap(view)(batch["image"], drawn[:, side]) for side in (0, 1))
    return {**batch, "first": first, "second": second}


class Encoder(nnx.Module):
    def __init__(self, width=256, size=32, *, rngs):
        self.hidden = nnx.Linear(64, width, rngs=rngs)
        self.out = nnx.Linear(width, size, rngs=rngs)

    def __call__(self, image):
        x = self.out(nnx.relu(self.hidden(image.reshape(len(image), -1))))
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)  # B size


class Contrastive(Task):
    metrics = Collection.create(
        loss=Average.from_output("loss"), accuracy=Average.from_output("is_found")
    )

    def outputs(self, model, batch):
        first, second = model(batch["first"]), model(batch["second"])
        logits = first @ second.T / TEMPERATURE  # B B
        logits = jnp.where(batch["mask"][None, :], logits, -1e9)
        own = jnp.arange(len(logits))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, own)
        return {"loss": loss, "is_found": logits.argmax(axis=1) == own}

    def predict(self, model, batch):
        return {"first": model(batch["first"]), "second": model(batch["second"])}


def make_trainer(*, max_epochs=30, **options):
    images = (load_digits().images / 16).astype(np.float32)
    train, test = {"image": images[:1400]}, {"image": images[1400:]}
    data = DataModule(train, test, test, batch_size=100, transform=two_views, name="digits")
    return Trainer(
        Encoder(rngs=nnx.Rngs(0)),
        data,
        task=Contrastive(),
        optimizer=optax.adam(3e-3),
        max_epochs=max_epochs,
        **options,
    )


def retrieval(trainer):
    """Returns how often the second view is the nearest to the first, among all test images."""
    views = trainer.predict()
    nearest = (views["first"] @ views["second"].T).argmax(axis=1)
    return float((nearest == np.arange(len(nearest))).mean())


def main(**options):
    trainer = make_trainer(**options)
    before = retrieval(trainer)
    trainer.fit()
    return {"retrieval": retrieval(trainer), "retrieval_before": before}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name} {value:.4g}")
