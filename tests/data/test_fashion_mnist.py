"""A short run on real images, from Debian's package of them."""

import jax
from flax import nnx

from nnx_alexnet import Trainer, create_optimizer, load_data


class SmallNet(nnx.Module):
    def __init__(self, *, rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), strides=2, rngs=rngs)
        self.bn1 = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.bn2 = nnx.BatchNorm(32, momentum=0.9, rngs=rngs)
        self.dense = nnx.Linear(32 * 7 * 7, 10, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        x = nnx.relu(self.bn1(self.conv1(image)))
        x = nnx.relu(self.bn2(self.conv2(x)))
        return self.dense(x.reshape(len(x), -1))


def test_a_small_network_learns_fashion_mnist_in_100_steps(fashion_mnist):
    data = load_data("fashion_mnist", image_size=28, batch_size=128, root=fashion_mnist)
    trainer = Trainer(
        SmallNet(rngs=nnx.Rngs(0)),
        data,
        optimizer=create_optimizer("adam", 0.02, schedule="cosine", num_steps=100),
        max_steps=100,
        log_dir=None,
        progress_bar=False,
    )
    trainer.fit()
    assert trainer.test()["test/accuracy"] > 0.77
