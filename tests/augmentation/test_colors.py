import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torchvision.transforms import functional

from nnx_alexnet.augmentation import colors

IMAGE = np.random.default_rng(0).random((7, 9, 3), dtype=np.float32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "sharpness"])
def test_blends_are_those_of_torchvision(name, factor, channels):
    image = IMAGE[..., :channels]
    wanted = getattr(functional, f"adjust_{name}")(torch.tensor(image).permute(2, 0, 1), factor)
    found = getattr(colors, f"adjust_{name}")(jnp.array(image), factor)
    np.testing.assert_allclose(found, wanted.permute(1, 2, 0), atol=2e-4)  # other digits of luma


@pytest.mark.parametrize("shift", [-0.5, -0.2, 0.0, 0.3])
def test_hue_is_that_of_torchvision(shift):
    wanted = functional.adjust_hue(torch.tensor(IMAGE).permute(2, 0, 1), shift)
    np.testing.assert_allclose(colors.adjust_hue(IMAGE, shift), wanted.permute(1, 2, 0), atol=1e-5)
    np.testing.assert_array_equal(colors.adjust_hue(IMAGE[..., :1], shift), IMAGE[..., :1])


def wanted_of(name, levels, *arguments):
    """Returns what torchvision makes of uint8 levels, from 0 to 1."""
    image = torch.tensor(levels).permute(2, 0, 1)
    return getattr(functional, name)(image, *arguments).permute(1, 2, 0).numpy() / 255


@pytest.mark.parametrize("bits", [2, 5])
def test_posterized_levels_are_those_of_torchvision(bits):
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    found = colors.posterize(jnp.array(every / 255, jnp.float32), bits)
    np.testing.assert_allclose(found, wanted_of("posterize", every, bits), atol=1e-6)


@pytest.mark.parametrize("share", [0.2, 1.0])  # of the pixels that are not of one level
@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_stretched_levels_are_those_of_torchvision(name, share):
    random = np.random.default_rng(1)
    image = random.normal(120, 25, (40, 50, 3)).clip(0, 255).astype(np.uint8)
    image[random.random(image.shape) > share] = 170
    found = jax.jit(getattr(colors, name))(jnp.array(image / 255, jnp.float32))
    tolerance = 1e-6 if name == "equalize" else 1 / 255  # torchvision cuts to whole levels
    np.testing.assert_allclose(found, wanted_of(name, image), atol=tolerance)


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_images_of_one_level_stay_as_they_are(name):
    image = jnp.full((20, 20, 1), 0.3)
    np.testing.assert_array_equal(jax.jit(getattr(colors, name))(image), image)


def test_images_too_small_to_be_smoothed_stay_as_they_are():
    np.testing.assert_array_equal(colors.adjust_sharpness(IMAGE[:2], 0.1), IMAGE[:2])
