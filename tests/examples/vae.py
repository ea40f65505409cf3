"""A variational autoencoder, whose model samples in training and in evaluation.

The `nnx.Rngs` are part of the model, so a checkpoint contains how far they are. Evaluation draws
other noise for each batch too, and leaves the numbers that training draws as they are.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu.metrics import Average, Collection
from flax import nnx
from sklearn.datasets import load_digits

from nnx_alexnet import DataModule, Task, Trainer

PIXELS, LATENT = 64, 8


class VAE(nnx.Module):
    def __init__(self, width=256, *, rngs):
        self.encoder = nnx.Sequential(
            nnx.Linear(PIXELS, width, rngs=rngs), nnx.relu, nnx.Linear(width, 2 * LATENT, rngs=rngs)
        )
        self.decoder = nnx.Sequential(
            nnx.Linear(LATENT, width, rngs=rngs), nnx.relu, nnx.Linear(width, PIXELS, rngs=rngs)
        )
        self.rngs = rngs

    def __call__(self, pixels):
        """Returns the logits of the pixels for a sample of the code, and the code's parameters."""
        mean, log_variance = jnp.split(self.encoder(pixels), 2, axis=-1)  # B LATENT
        noise = jax.random.normal(self.rngs.noise(), mean.shape)
        return self.decoder(mean + jnp.exp(log_variance / 2) * noise), mean, log_variance

    def sample(self, num):
        """Returns new images, as probabilities of ink `[num, PIXELS]`."""
        return nnx.sigmoid(self.decoder(jax.random.normal(self.rngs.noise(), (num, LATENT))))


class NegativeELBO(Task):
    """The loss is the negative evidence lower bound of an example, in nats."""

    metrics = Collection.create(
        loss=Average.from_output("loss"),
        reconstruction=Average.from_output("reconstruction"),
        divergence=Average.from_output("divergence"),
    )

    def outputs(self, model, batch):
        logits, mean, log_variance = model(batch["pixels"])
        reconstruction = optax.sigmoid_binary_cross_entropy(logits, batch["pixels"]).sum(axis=1)
        divergence = (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(axis=1) / 2
        loss = reconstruction + divergence
        return {"loss": loss, "reconstruction": reconstruction, "divergence": divergence}

    def predict(self, model, batch):
        return nnx.sigmoid(model(batch["pixels"])[0])


def load_splits():
    """Returns train and test; the pixels are black or white."""
    pixels = (load_digits().data >= 8).astype(np.float32)
    return {"pixels": pixels[:1500]}, {"pixels": pixels[1500:]}


def make_trainer(*, max_epochs=20, **options):
    train, test = load_splits()
    return Trainer(
        VAE(rngs=nnx.Rngs(0)),
        DataModule(train, test, test, batch_size=50, name="digits"),
        task=NegativeELBO(),
        optimizer=optax.adam(2e-3),
        max_epochs=max_epochs,
        **options,
    )


def main(**options):
    trainer = make_trainer(**options)
    trainer.fit()
    train, test = (split["pixels"] for split in load_splits())
    ink = train.mean(axis=0).clip(1e-3, 1 - 1e-3)
    independent = -(test * np.log(ink) + (1 - test) * np.log(1 - ink)).sum(axis=1).mean()
    return {
        "negative_elbo": trainer.test()["test/loss"],
        "of_independent_pixels": float(independent),
        "ink_of_samples": float(trainer.model.sample(1000).mean()),
        "ink_of_digits": float(test.mean()),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name} {value:.4g}")
