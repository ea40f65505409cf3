"""Several labels per example: what is true of the number that a digit shows.

The labels are `bool[N, 4]`. The loss is the mean of the sigmoid cross-entropies of an example, and
each label has a metric of its own.
"""

import jax.numpy as jnp
import numpy as np
import optax
from clu.metrics import Average, Collection
from flax import nnx
from sklearn.datasets import load_digits

from nnx_alexnet import DataModule, Task, Trainer

PROPERTIES = {
    "odd": {1, 3, 5, 7, 9},
    "prime": {2, 3, 5, 7},
    "above_four": {5, 6, 7, 8, 9},
    "has_a_loop": {0, 6, 8, 9},
}


def load_splits():
    """Returns train and test, as pairs of images and labels."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    labels = np.stack([np.isin(digits.target, [*p]) for p in PROPERTIES.values()], axis=1)
    return (images[:1400], labels[:1400]), (images[1400:], labels[1400:])


class Network(nnx.Module):
    def __init__(self, *, rngs):
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.out = nnx.Linear(128, len(PROPERTIES), rngs=rngs)

    def __call__(self, image):
        return self.out(nnx.relu(self.hidden(image.reshape(len(image), -1))))  # B labels


class MultiLabel(Task):
    metrics = Collection.create(
        loss=Average.from_output("loss"),
        **{f"{name}_accuracy": Average.from_output(name) for name in PROPERTIES},
    )

    def outputs(self, model, batch):
        logits, labels = model(batch["image"]), batch["label"]
        loss = optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32)).mean(axis=1)
        right = (logits > 0) == labels
        return {"loss": loss, **dict(zip(PROPERTIES, right.T, strict=True))}

    def predict(self, model, batch):
        return nnx.sigmoid(model(batch["image"]))


def make_trainer(*, max_epochs=15, **options):
    train, test = load_splits()
    return Trainer(
        Network(rngs=nnx.Rngs(0)),
        DataModule(train, test, test, batch_size=50, name="digits"),
        task=MultiLabel(),
        optimizer=optax.adam(3e-3),
        max_epochs=max_epochs,
        **options,
    )


def main(**options):
    trainer = make_trainer(**options)
    trainer.fit()
    results = trainer.test()
    return {name: results[f"test/{name}_accuracy"] for name in PROPERTIES}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name} {value:.4g}")
