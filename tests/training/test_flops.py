"""What a step computes, counted, and the metrics that come of it."""

import types

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from nnx_alexnet import AlexNet
from nnx_alexnet.training.flops import flops_utilization, product_flops

H100 = types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3", memory_stats=lambda: None)


def forward(size, channels, classes, dtype=None):
    """AlexNet's forward pass for two images, traced."""

    def logits(image):
        model = AlexNet(
            classes, image_size=size, in_channels=channels, dtype=dtype, rngs=nnx.Rngs(0)
        )
        model.eval()
        return model(image)

    return jax.make_jaxpr(logits)(jnp.zeros((2, size, size, channels)))


def by_hand(size, channels, classes):
    """The multiplications of AlexNet for one image, layer by layer."""
    conv1 = (size - 11) // 4 + 1
    conv2 = (conv1 - 3) // 2 + 1
    conv3 = (conv2 - 3) // 2 + 1
    last = (conv3 - 3) // 2 + 1
    return (
        conv1**2 * 11**2 * channels * 96 + conv2**2 * 5**2 * 96 * 256
        + conv3**2 * 3**2 * (256 * 384 + 384 * 384 + 384 * 256)
        + last**2 * 256 * 4096 + 4096 * 4096 + 4096 * classes
    )  # fmt: skip


@pytest.mark.parametrize(("size", "channels", "classes"), [(96, 1, 10), (227, 3, 1000)])
def test_the_flops_of_alexnet_are_those_counted_by_hand(size, channels, classes):
    # In 16 bits: in float32 a CPU takes fewer, see `fourier_conv`.
    counted = product_flops(forward(size, channels, classes, "bfloat16"))
    assert sum(counted.values()) / 2 == pytest.approx(
        2 * by_hand(size, channels, classes), rel=0.02
    )


def test_the_count_is_that_of_xlas_cost_analysis():
    """Of a forward pass without padding, which XLA leaves out of its count."""
    x, kernel = jnp.zeros((2, 12, 12, 3)), jnp.zeros((5, 5, 3, 8))
    weights = jnp.zeros((512, 10))

    def apply(x, kernel, weights):
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return x.reshape(2, -1) @ weights

    lowered = jax.jit(apply).lower(x, kernel, weights)
    counted = product_flops(jax.make_jaxpr(apply)(x, kernel, weights))
    assert sum(counted.values()) == pytest.approx(lowered.cost_analysis()["flops"], rel=0.01)


def test_mfu_is_a_share_of_the_peak_for_16_bits_and_unknown_elsewhere(monkeypatch):
    flops = {"bfloat16": 1e9}
    assert flops_utilization(1000.0, flops) is None  # nobody says what a CPU's peak is
    monkeypatch.setattr("jax.local_devices", lambda: [H100])
    assert flops_utilization(1000.0, flops) == pytest.approx(1e12 / 989e12)
    assert flops_utilization(1000.0, {"float32": 1e9}) is None
    assert flops_utilization(1000.0, {}) is None


def test_a_product_in_a_loop_counts_once_for_each_iteration():
    def loop(x, kernel):
        return jax.lax.scan(lambda carry, _: (carry @ kernel, None), x, length=5)[0]

    counted = product_flops(jax.make_jaxpr(loop)(jnp.zeros((2, 3)), jnp.zeros((3, 3))))
    assert counted == {"float32": 5 * 2 * 2 * 3 * 3}


def test_alexnet_in_bfloat16_computes_its_products_in_16_bits():
    counted = product_flops(forward(96, 1, 10, "bfloat16"))
    assert counted["bfloat16"] > 0.9 * sum(counted.values())
