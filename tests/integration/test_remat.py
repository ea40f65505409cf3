"""Blocks that are computed again in the backward pass: less to keep, and the same results."""

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import TinyNet, normal, trainer_of, tree_allclose

from nnx_alexnet.models import AlexNet


class RematNet(TinyNet):
    """A user's model, whose block is a function of the layers and the input."""

    def __call__(self, image):
        def block(conv, bn, x):
            return nnx.relu(bn(conv(x)))

        x = nnx.remat(block)(self.conv, self.bn, image).mean(axis=(1, 2))
        return self.dense(self.dropout(x))


def test_a_model_with_remat_trains_like_the_one_without():
    states, rows = [], []
    for kind in (TinyNet, RematNet):
        model = kind(4, rngs=nnx.Rngs(0))
        trainer = trainer_of(model, max_epochs=1)
        rows += trainer.fit()
        assert "conv" in trainer.summary()
        states.append(nnx.state(model))
    assert tree_allclose(states[1], states[0], rtol=1e-4, atol=1e-5)
    assert rows[1]["val/loss"] == pytest.approx(rows[0]["val/loss"], rel=1e-4)


def loss_and_statistics(model, image):
    definition, *states = nnx.split(model, nnx.Param, ...)
    parameters, others = map(nnx.as_pure, states)

    def loss(parameters):
        model = nnx.merge(definition, parameters, others)
        return (model(image) ** 2).mean(), nnx.as_pure(nnx.state(model, nnx.BatchStat))

    return loss, parameters


def test_alexnet_with_remat_keeps_fewer_activations():
    image = jax.ShapeDtypeStruct((64, 227, 227, 3), "float32")
    parameters = 4 * 62_400_000
    with_, without = (
        kept_bytes_of_shapes(image, remat=remat) - parameters for remat in (True, False)
    )
    assert with_ / 2**20 == pytest.approx(106, abs=5)
    assert without / 2**20 == pytest.approx(302, abs=5)


def kept_bytes_of_shapes(image, **arguments):
    """Returns how much the forward pass of a train step keeps for the backward pass."""

    def kept(image):
        model = AlexNet(**arguments, rngs=nnx.Rngs(0))
        loss, parameters = loss_and_statistics(model, image)
        return jax.vjp(loss, parameters, has_aux=True)[1]

    found = jax.tree.leaves(jax.eval_shape(kept, image))
    return sum(np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in found)


@pytest.mark.slow
def test_alexnet_with_remat_has_the_same_gradients_and_statistics():
    image = normal(0, (4, 67, 67, 1))
    found = []
    for remat in (False, True):
        model = AlexNet(3, image_size=67, in_channels=1, remat=remat, rngs=nnx.Rngs(0))
        loss, parameters = loss_and_statistics(model, image)
        found.append(jax.jit(jax.grad(loss, has_aux=True))(parameters))
    assert tree_allclose(found[1], found[0], rtol=1e-4, atol=1e-6)
