"""Fused convolution, BatchNorm, ReLU and max-pool, compared with the layers of flax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import assert_close, normal, plain_pool, sums_over

from nnx_alexnet.models.conv_norm import BatchNorm, Conv, conv_norm_relu, conv_norm_relu_max_pool

pytestmark = pytest.mark.usefixtures("strict_dtype_promotion")

BIASES = "conv1/bias", "conv2/bias"


class Net(nnx.Module):
    """Two convolutions and a dense layer, with our layers or with those of flax."""

    def __init__(self, *, plain: bool) -> None:
        rngs = nnx.Rngs(0)
        conv = nnx.Conv if plain else Conv
        norm = functools.partial(nnx.BatchNorm, momentum=0.9) if plain else BatchNorm
        biased = {"bias_init": nnx.initializers.normal(1.0), "rngs": rngs}
        self.conv1 = conv(2, 4, (3, 3), strides=2, padding="VALID", **biased)
        self.bn1 = norm(4, rngs=rngs)
        self.conv2 = conv(4, 6, (3, 3), **biased)
        self.bn2 = norm(6, rngs=rngs)
        self.dense = nnx.Linear(6, 3, rngs=rngs)
        self.plain = plain

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.plain:
            x = nnx.relu(self.bn1(self.conv1(x)))
            x = plain_pool(nnx.relu(self.bn2(self.conv2(x))))
        else:
            x = conv_norm_relu(self.conv1, self.bn1, x)
            x = conv_norm_relu_max_pool(self.conv2, self.bn2, x)
        return self.dense(x.mean((1, 2)))


@pytest.mark.parametrize(
    "options", [{"kernel_dilation": 2}, {"feature_group_count": 2}, {"padding": 1}]
)
def test_a_convolution_with_options_keeps_its_bias(options):
    conv, plain = (
        layer(2, 4, (3, 3), bias_init=nnx.initializers.ones, rngs=nnx.Rngs(0), **options)
        for layer in (Conv, nnx.Conv)
    )
    image = normal(1, (2, 7, 7, 2))
    with_norm = conv_norm_relu(conv, BatchNorm(4, rngs=nnx.Rngs(0)), image)
    norm = nnx.BatchNorm(4, momentum=0.9, rngs=nnx.Rngs(0))
    assert_close(with_norm, nnx.relu(norm(plain(image))), 1e-5)


def loss_of(model, image):
    labels = jnp.arange(len(image)) % 3
    return optax.softmax_cross_entropy_with_integer_labels(model(image), labels).mean()


def arrays(state):
    return {"/".join(path): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(state))}


def trained(*, plain):
    """Returns arrays before and after three steps, the last gradients, and evaluation outputs."""
    images = normal(1, (4, 8, 15, 15, 2))

    def train(images):
        model = Net(plain=plain)
        begun = arrays(model)
        optimizer = nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)
        for image in images[:-1]:
            gradients = nnx.grad(loss_of)(model, image)
            optimizer.update(model, gradients)
        model.eval()
        return begun, arrays(model), arrays(gradients), model(images[-1])

    return jax.jit(train)(images)


@pytest.fixture(scope="module")
def plainly_trained():
    return trained(plain=True)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_training_equals_that_of_plain_layers_up_to_rounding(monkeypatch, plainly_trained, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    begun, got, gradients, outputs = trained(plain=False)
    plain_begun, expected, plain_gradients, plain_outputs = plainly_trained
    for name, leaf in plain_begun.items():
        assert_close(begun[name], leaf, 1e-6)
    for name, leaf in expected.items():
        assert_close(got[name], leaf, 1e-4)
        assert name in BIASES or not jnp.allclose(leaf, plain_begun[name], atol=1e-3)
    assert_close(outputs, plain_outputs, 1e-4)
    for name in BIASES:  # of rounding alone, and of nothing
        assert 0 < abs(plain_gradients[name]).max() < 1e-6
        np.testing.assert_array_equal(gradients[name], 0)
        np.testing.assert_array_equal(got[name], begun[name])


def test_the_bias_before_a_frozen_norm_has_a_gradient():
    @functools.partial(jax.jit, static_argnames="plain")
    def of_bias(image, plain):
        model = Net(plain=plain)
        model.bn1.eval()
        return nnx.grad(loss_of)(model, image)["conv1"]["bias"][...]

    image = normal(0, (8, 15, 15, 2))
    expected = of_bias(image, plain=True)
    assert abs(expected).max() > 1e-3
    assert_close(of_bias(image, plain=False), expected, 1e-4)


def test_other_layers_can_replace_conv_and_batch_norm():
    x, rngs = normal(0, (2, 9, 9, 8)), nnx.Rngs(0)
    biased = {"bias_init": nnx.initializers.normal(1.0), "rngs": rngs}
    conv, norm = Conv(8, 8, (3, 3), **biased), nnx.GroupNorm(8, num_groups=2, rngs=rngs)
    got = conv_norm_relu_max_pool(conv, norm, x)
    np.testing.assert_array_equal(got, plain_pool(nnx.relu(norm(conv(x)))))
    conv, norms = nnx.Conv(8, 8, (3, 3), **biased), [BatchNorm(8, rngs=rngs) for _ in range(2)]
    got = conv_norm_relu(conv, norms[0], x)
    np.testing.assert_array_equal(got, nnx.relu(norms[1](conv(x))))
    np.testing.assert_array_equal(norms[0].mean[...], norms[1].mean[...])


def test_on_accelerators_nothing_is_summed_for_the_bias(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    def gradients(x):
        conv, norm = Conv(3, 4, (3, 3), rngs=nnx.Rngs(0)), BatchNorm(4, rngs=nnx.Rngs(0))
        loss = lambda conv, norm: conv_norm_relu_max_pool(conv, norm, x).sum()  # noqa: E731
        return [arrays(each) for each in nnx.grad(loss, argnums=(0, 1))(conv, norm)]

    traced = jax.make_jaxpr(gradients)(normal(0, (2, 9, 9, 3)))
    assert sums_over((2, 9, 9, 4), traced.jaxpr) == 4  # pixels and squares, by flax and by us


def test_gradients_have_the_dtype_of_the_parameters():
    norm = BatchNorm(3, param_dtype="bfloat16", rngs=nnx.Rngs(0))

    def gradients(way):
        loss = lambda norm, x: way(norm, x).sum()  # noqa: E731
        found = nnx.grad(loss)(norm, normal(0, (2, 9, 9, 3)))
        return [found[name][...] for name in ("scale", "bias")]

    got = gradients(lambda norm, x: conv_norm_relu_max_pool(lambda x: x, norm, x))
    expected = gradients(lambda norm, x: plain_pool(nnx.relu(norm(x))))
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other, 1e-2)
        assert one.dtype == jnp.bfloat16
