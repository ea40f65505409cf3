import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnx_alexnet.augmentation import RandomErasing

KEY = jax.random.key(0)
BATCH = {"image": jnp.ones((400, 20, 30, 1)), "index": jnp.arange(400)}


def rectangles(image):
    """Returns height and width of the rectangle of zeros in each image; None without one."""
    found = []
    for is_erased in np.asarray(image)[..., 0] == 0:
        rows, columns = np.flatnonzero(is_erased.any(axis=1)), np.flatnonzero(is_erased.any(axis=0))
        size = (len(rows), len(columns))
        assert is_erased.sum() == size[0] * size[1]
        found.append(size if len(rows) else None)
    return found


def test_share_of_erased_images_is_the_probability():
    found = rectangles(RandomErasing(0.25)(BATCH, KEY)["image"])
    assert np.mean([each is not None for each in found]) == pytest.approx(0.25, abs=0.05)


def test_rectangles_have_area_and_ratio_in_range():
    erasing = RandomErasing(1.0, scale=(0.1, 0.3), ratio=(0.5, 2))
    found = np.array(rectangles(erasing(BATCH, KEY)["image"]))
    areas = found.prod(axis=1) / 600
    assert areas.min() > 0.08
    assert areas.max() < 0.33  # sides are rounded
    assert areas.mean() == pytest.approx(0.2, abs=0.015)
    ratios = found[:, 0] / found[:, 1]
    assert (ratios.min(), ratios.max()) == pytest.approx((0.5, 2), abs=0.2)


def test_a_rectangle_that_does_not_fit_erases_nothing():
    erasing = RandomErasing(1.0, scale=(1.0, 1.0))
    np.testing.assert_array_equal(erasing(BATCH, KEY)["image"], BATCH["image"])


def test_noise_replaces_the_pixels():
    batch = {**BATCH, "image": jnp.full((400, 20, 30, 1), 9.0)}
    erased = RandomErasing(1.0, value=-1)(batch, KEY)["image"] == -1
    noise = np.asarray(RandomErasing(1.0, noise=True)(batch, KEY)["image"])
    assert ((noise == 9) == ~erased).all()
    assert (noise[erased].mean(), noise[erased].std()) == pytest.approx((0, 1), abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"probability": 2}, ValueError, r"`probability` \(=2\) must be in \[0, 1\]"),
        ({"scale": (0.5, 0.2)}, ValueError, "`scale` .* in ascending order and at most 1"),
        ({"ratio": 1}, TypeError, "`ratio` .* must be two numbers"),
        ({"noise": 1}, TypeError, "`noise` .* must be True or False"),
    ],
)
def test_arguments_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        RandomErasing(**arguments)
