"""The forms of a convolution against that of lax: values, gradients and dtypes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import alexnet_shapes, assert_close, normal, with_slow_cases
from jax import lax

from nnx_alexnet.models import convolutions

pytestmark = pytest.mark.usefixtures("strict_dtype_promotion")


def plain_conv(image, kernel, stride, padding):
    return lax.conv_general_dilated(
        image, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def assert_same_convolution(way, plain, image, kernel, tolerance=1e-5):
    def both(function, cotangent):
        output, pullback = jax.vjp(function, image, kernel)
        return output, *pullback(cotangent)

    cotangent = normal(3, jax.eval_shape(plain, image, kernel).shape, image.dtype)
    got, expected = (jax.jit(both, static_argnums=0)(each, cotangent) for each in (way, plain))
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other, tolerance)


@pytest.mark.parametrize(
    ("size", "channels"),
    with_slow_cases([((69, 70), 3)], ((67, 67), 1), ((96, 96), 1), ((227, 227), 3)),
)
def test_space_to_depth_equals_the_strided_convolution(size, channels):
    image, kernel = normal(0, (2, *size, channels)), normal(1, (11, 11, channels, 8)) / 20
    way = functools.partial(convolutions.space_to_depth_conv, stride=4)
    plain = functools.partial(plain_conv, stride=4, padding="VALID")
    assert_same_convolution(way, plain, image, kernel)


@pytest.mark.parametrize(
    ("window", "stride"), with_slow_cases([(2, 4), (5, 3), (4, 4)], (1, 1), (3, 2), (7, 4))
)
@pytest.mark.parametrize("size", [7, 10])
def test_space_to_depth_accepts_any_window_and_stride(window, stride, size):
    image, kernel = normal(0, (1, size, size + 1, 2)), normal(1, (window, window, 2, 3))
    way = functools.partial(convolutions.space_to_depth_conv, stride=stride)
    plain = functools.partial(plain_conv, stride=stride, padding="VALID")
    assert_close(way(image, kernel), plain(image, kernel), 1e-5)


def test_space_to_depth_keeps_bfloat16():
    image, kernel = normal(0, (2, 67, 67, 3), "bfloat16"), normal(1, (11, 11, 3, 8), "bfloat16")
    way = functools.partial(convolutions.space_to_depth_conv, stride=4)
    plain = functools.partial(plain_conv, stride=4, padding="VALID")
    assert_same_convolution(way, plain, image, kernel, 0.02)


@pytest.mark.parametrize(
    ("size", "window"), with_slow_cases([(1, 3), (4, 3)], (1, 1), (3, 3), (5, 4), (10, 5))
)
def test_fourier_equals_the_convolution(size, window):
    image, kernel = normal(0, (3, size, size, 6)), normal(1, (window, window, 6, 5))
    plain = functools.partial(plain_conv, stride=1, padding="SAME")
    assert_same_convolution(convolutions.fourier_conv, plain, image, kernel)


@pytest.mark.parametrize(("size", "window", "features"), [(10, 5, 64), (4, 3, 384)])
def test_the_rounding_error_of_fourier_is_small(size, window, features):
    """The error against float64 is far below what matters in training."""
    image = normal(0, (8, size, size, features))
    kernel = normal(1, (window, window, features, 32))
    before = (window - 1) // 2
    edge = (before, window // 2)
    padded = np.pad(np.asarray(image, np.float64), ((0, 0), edge, edge, (0, 0)))
    exact = sum(
        padded[:, i : i + size, j : j + size] @ np.asarray(kernel[i, j], np.float64)
        for i in range(window)
        for j in range(window)
    )
    error = np.abs(convolutions.fourier_conv(image, kernel) - exact).max() / np.abs(exact).max()
    assert error < 2e-6


@pytest.mark.parametrize(
    "shape",
    with_slow_cases([(16, 10, 10, 4)], [(2, 10, 10, 4)], [(16, 13, 13, 4)], [(16, 8, 9, 4)]),
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_conv_is_correct_on_every_backend(monkeypatch, shape, dtype, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    layer = nnx.Conv(
        4, 8, (3, 3), dtype=dtype, conv_general_dilated=convolutions.conv, rngs=nnx.Rngs(0)
    )
    plain = nnx.Conv(4, 8, (3, 3), dtype=dtype, rngs=nnx.Rngs(0))
    image = normal(1, shape, dtype)
    assert_close(layer(image), plain(image), 1e-5 if dtype == "float32" else 0.02)


def calls(monkeypatch, backend, dtype, size, batch):
    """How often the convolutions of an AlexNet use each form."""
    counts = {}

    def counted(name):
        function = getattr(convolutions, name)

        def call(*args):
            counts[name] = counts.get(name, 0) + 1
            return function(*args)

        monkeypatch.setattr(convolutions, name, call)

    for name in ("space_to_depth_conv", "fourier_conv"):
        counted(name)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    model = alexnet_shapes(image_size=size, dtype=dtype)
    nnx.eval_shape(lambda model, image: model(image), model, jnp.zeros((batch, size, size, 3)))
    return counts


@pytest.mark.parametrize(
    ("backend", "model", "expected"),
    [
        ("cpu", (None, 96, 16), {"fourier_conv": 4}),
        ("cpu", (None, 96, 15), {}),
        ("cpu", ("bfloat16", 96, 16), {}),
        ("cpu", (None, 227, 16), {}),
        ("gpu", (None, 96, 16), {"space_to_depth_conv": 1}),
        ("tpu", ("bfloat16", 227, 1), {"space_to_depth_conv": 1}),
    ],
)
def test_the_backend_selects_the_form(monkeypatch, backend, model, expected):
    dtype, size, batch = model
    assert calls(monkeypatch, backend, dtype, size, batch) == expected
