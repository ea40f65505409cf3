"""AlexNet against itself with the layers of lax and flax."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from helpers import alexnet_shapes, assert_close, normal, plain_pool
from jax import lax

from nnx_alexnet.models import AlexNet, alexnet, convolutions

pytestmark = pytest.mark.usefixtures("strict_dtype_promotion")


def plain_layers(conv, norm, x):
    return plain_pool(nnx.relu(norm(conv(x))))


def test_parameters_are_those_of_plain_layers(monkeypatch):
    def shapes():
        state = nnx.state(alexnet_shapes(num_classes=10, image_size=96, in_channels=1))
        leaves = jax.tree_util.tree_leaves_with_path(state)
        return [(jax.tree_util.keystr(path), leaf.shape, leaf.dtype) for path, leaf in leaves]

    ours = shapes()
    monkeypatch.setattr(convolutions, "conv", lax.conv_general_dilated)
    assert ours == shapes()
    assert (11, 11, 1, 96) in [shape for path, shape, _ in ours if "conv1" in path]


@pytest.fixture(scope="module", autouse=True)
def few_hidden_units():
    """The dense layers, three quarters of the numbers, are plain in any case."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alexnet, "_NUM_HIDDEN", 64)
        yield


def results_with_plain_layers():
    """Logits and gradients of AlexNet with the layers of lax and nnx alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolutions, "conv", lax.conv_general_dilated)
        patch.setattr(alexnet, "conv_norm_relu", lambda conv, norm, x: nnx.relu(norm(conv(x))))
        patch.setattr(alexnet, "conv_norm_relu_max_pool", plain_layers)
        return results_of_alexnet()


def results_of_alexnet():
    model = AlexNet(5, image_size=96, in_channels=1, dropout_rate=0.0, rngs=nnx.Rngs(0))
    image, label = normal(1, (8, 96, 96, 1)), jnp.arange(8) % 5

    @nnx.jit
    def results(model, image):
        def loss(model):
            logits = model(image)
            return -jax.nn.log_softmax(logits)[jnp.arange(8), label].mean(), logits

        (_, logits), gradients = nnx.value_and_grad(loss, has_aux=True)(model)
        return logits, gradients, nnx.state(model, nnx.BatchStat)

    return jax.tree_util.tree_leaves_with_path(results(model, image))


@pytest.fixture(scope="module")
def plain_results():
    return results_with_plain_layers()


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_alexnet_equals_itself_with_plain_layers(monkeypatch, plain_results, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    compare(results_of_alexnet(), plain_results)


@pytest.mark.slow
@pytest.mark.optimized
def test_alexnet_equals_itself_with_plain_layers_with_all_optimizations(monkeypatch):
    plain = results_with_plain_layers()
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        compare(results_of_alexnet(), plain)


def compare(got, expected):
    assert [path for path, _ in got] == [path for path, _ in expected]
    for (path, one), (_, other) in zip(got, expected, strict=True):
        name = jax.tree_util.keystr(path)
        if "conv" in name and "bias" in name:
            assert not one.any()  # BatchNorm subtracts the bias: `other` is rounding alone
            continue
        assert_close(one, other, 1e-3)
