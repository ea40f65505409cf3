"""A generative adversarial network: two networks, two losses, two optimizers, one model.

The loss of an example is the sum of both losses. Each network is held fixed in the loss of the
other, so each parameter has the gradient of its own loss, and `optax.partition` gives each network
its own optimizer. The data are numbers of a lopsided distribution with two peaks.
"""

import jax
import numpy as np
import optax
from clu.metrics import Average, Collection
from flax import nnx
from scipy.stats import wasserstein_distance

from nnx_alexnet import DataModule, Task, Trainer

LATENT = 4


def make_split(num, seed):
    """Returns numbers: a third of them near -2, the others near 1."""
    rng = np.random.default_rng(seed)
    is_left = rng.random(num) < 1 / 3
    numbers = np.where(is_left, rng.normal(-2, 0.3, num), rng.normal(1, 0.6, num))
    return {"number": numbers[:, None].astype(np.float32)}


def perceptron(size, width, *, rngs):
    return nnx.Sequential(
        nnx.Linear(size, width, rngs=rngs), nnx.leaky_relu,
        nnx.Linear(width, width, rngs=rngs), nnx.leaky_relu,
        nnx.Linear(width, 1, rngs=rngs),
    )  # fmt: skip


class GAN(nnx.Module):
    def __init__(self, width=64, *, rngs):
        self.generator = perceptron(LATENT, width, rngs=rngs)
        self.discriminator = perceptron(1, width, rngs=rngs)
        self.rngs = rngs

    def sample(self, num):
        return self.generator(jax.random.normal(self.rngs.noise(), (num, LATENT)))


def held_fixed(module):
    """Returns a copy of a module whose parameters have no gradient."""
    definition, state = nnx.split(module)
    return nnx.merge(definition, jax.lax.stop_gradient(state))


class Adversarial(Task):
    metrics = Collection.create(
        loss=Average.from_output("loss"),
        generator=Average.from_output("generator"),
        discriminator=Average.from_output("discriminator"),
    )

    def outputs(self, model, batch):
        real, fake = batch["number"], model.sample(len(batch["number"]))
        judge = model.discriminator
        on_real, on_fake = judge(real)[:, 0], judge(jax.lax.stop_gradient(fake))[:, 0]
        slope = jax.vmap(jax.grad(lambda number: judge(number)[0]))(real)[:, 0]
        discriminator = nnx.softplus(-on_real) + nnx.softplus(on_fake) + 0.5 * slope**2
        generator = nnx.softplus(-held_fixed(judge)(fake)[:, 0])
        loss = generator + discriminator
        return {"loss": loss, "generator": generator, "discriminator": discriminator}

    def predict(self, model, batch):
        return model.sample(len(batch["number"]))


def groups(parameters):
    """Returns the network of each parameter: the first part of its path."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key, parameters)


def make_trainer(*, max_epochs=20, **options):
    real = make_split(6400, seed=0), make_split(2000, seed=1)
    optimizers = {"generator": optax.adam(1e-3, b1=0.5), "discriminator": optax.adam(2e-3, b1=0.5)}
    return Trainer(
        GAN(rngs=nnx.Rngs(0)),
        DataModule(real[0], test=real[1], batch_size=64, name="two peaks"),
        task=Adversarial(),
        optimizer=optax.partition(optimizers, groups),
        max_epochs=max_epochs,
        **options,
    )


def main(**options):
    trainer = make_trainer(**options)
    real, others = (make_split(2000, seed)["number"][:, 0] for seed in (1, 2))
    before = trainer.predict()[:, 0]
    trainer.fit()
    fake = trainer.predict()[:, 0]
    normal = np.random.default_rng(3).normal(real.mean(), real.std(), 2000)
    return {
        "distance": wasserstein_distance(fake, real),
        "distance_before": wasserstein_distance(before, real),
        "distance_of_a_normal_distribution": wasserstein_distance(normal, real),
        "distance_of_other_real_numbers": wasserstein_distance(others, real),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name} {value:.4g}")
