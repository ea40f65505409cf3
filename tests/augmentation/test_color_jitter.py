import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnx_alexnet.augmentation import ColorJitter

KEY = jax.random.key(0)


def test_factors_fill_their_range():
    batch = {"image": jnp.full((256, 1, 1, 3), 0.5), "index": jnp.arange(256)}
    found = np.asarray(ColorJitter(0.4, 0, 0)(batch, KEY)["image"])[:, 0, 0, 0]
    assert (found.min(), found.max()) == pytest.approx((0.3, 0.7), abs=0.01)
    assert found.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("channels", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_result_is_clipped_to_unit_range(channels):
    image = jax.random.uniform(KEY, (16, 4, 4, channels))
    found = ColorJitter(0.9, 0.9, 0.9, 0.5)({"image": image, "index": jnp.arange(16)}, KEY)["image"]
    assert found.shape == image.shape
    assert (float(found.min()), float(found.max())) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"brightness": -1}, ValueError, r"`brightness` \(=-1\) must be at least 0"),
        ({"hue": 0.6}, ValueError, r"`hue` \(=0.6\) must be in \[0, 0.5\]"),
        ({"contrast": "a"}, TypeError, "`contrast` .* must be a number"),
    ],
)
def test_arguments_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        ColorJitter(**arguments)
