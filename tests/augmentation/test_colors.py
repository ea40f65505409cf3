import numpy as np
import pytest
import torch
from torchvision.transforms import functional

from nnx_alexnet.augmentation import colors

IMAGE = np.random.default_rng(0).random((7, 9, 3), dtype=np.float32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_blends_are_those_of_torchvision(name, factor, channels):
    image = IMAGE[..., :channels]
    wanted = getattr(functional, f"adjust_{name}")(torch.tensor(image).permute(2, 0, 1), factor)
    found = getattr(colors, f"adjust_{name}")(image, factor)
    np.testing.assert_allclose(found, wanted.permute(1, 2, 0), atol=2e-4)  # other digits of luma


@pytest.mark.parametrize("shift", [-0.5, -0.2, 0.0, 0.3])
def test_hue_is_that_of_torchvision(shift):
    wanted = functional.adjust_hue(torch.tensor(IMAGE).permute(2, 0, 1), shift)
    np.testing.assert_allclose(colors.adjust_hue(IMAGE, shift), wanted.permute(1, 2, 0), atol=1e-5)
    np.testing.assert_array_equal(colors.adjust_hue(IMAGE[..., :1], shift), IMAGE[..., :1])
