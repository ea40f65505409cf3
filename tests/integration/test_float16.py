"""Models that compute in float16 learn with a loss scale, and their losses stay finite."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import tiny_arrays, trainer_of

from nnx_alexnet import DataModule
from nnx_alexnet.data import ImageTransform
from nnx_alexnet.models import AlexNet
from nnx_alexnet.optimizers import dynamic_loss_scale


class HalfNet(nnx.Module):
    """A convolution, BatchNorm and a dense layer that compute in float16."""

    def __init__(self):
        rngs, half = nnx.Rngs(0), {"dtype": jnp.float16}
        self.conv = nnx.Conv(1, 8, (3, 3), strides=2, **half, rngs=rngs)
        self.bn = nnx.BatchNorm(8, momentum=0.9, **half, rngs=rngs)
        self.dense = nnx.Linear(8 * 16, 4, **half, rngs=rngs)

    def __call__(self, image):
        x = nnx.relu(self.bn(self.conv(image)))
        return self.dense(x.reshape(len(x), -1))


def learns(model, data, rate, *, exponent, max_epochs):
    """Checks a run whose first scale is so large that gradients overflow."""
    optimizer = dynamic_loss_scale(optax.sgd(rate, momentum=0.9), initial_scale=2.0**exponent)
    rows = trainer_of(model, data, optimizer=optimizer, max_epochs=max_epochs).fit()
    losses = [row[name] for row in rows for name in ("train/loss", "val/loss")]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5 * losses[0]
    skipped = rows[-1]["skipped_steps"]
    assert 0 < skipped < rows[-1]["step"] / 4, "the scale fell until the gradients were finite"
    assert rows[-1]["loss_scale"] == 2.0 ** (exponent - skipped)


def test_a_float16_model_learns_with_a_loss_scale():
    data = DataModule(tiny_arrays(num=64), tiny_arrays(num=32, seed=1), batch_size=16)
    model = HalfNet()
    learns(model, data, 0.05, exponent=24, max_epochs=20)
    assert model.dense.kernel.dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.optimized
def test_a_float16_alexnet_learns_with_a_loss_scale():
    data = DataModule(
        tiny_arrays(num=64, size=67), tiny_arrays(num=32, size=67, seed=1), batch_size=16,
        transform=ImageTransform(67, mean=(0.5,), std=(0.25,)),
    )  # fmt: skip
    model = AlexNet(
        4, image_size=67, in_channels=1, dropout_rate=0.0, dtype=jnp.float16, rngs=nnx.Rngs(0)
    )
    learns(model, data, 0.003, exponent=16, max_epochs=6)
