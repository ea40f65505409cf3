import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from nnx_alexnet.augmentation import TrivialAugment
from nnx_alexnet.augmentation.trivial_augment import OPERATIONS, changed, draw_operation

KEY = jax.random.key(0)
LEVELS = np.random.default_rng(0).integers(0, 256, (41, 52, 3), dtype=np.uint8)
LEVELS[3:30, 5:20] = 90
# Of 30; odd, so that no threshold of solarize is a level.
BINS = (0, 7, -7, 13, 21, -29)
AUGMENT = jax.jit(TrivialAugment())


def affine(image, **arguments):
    arguments = {"angle": 0.0, "translate": [0, 0], "shear": [0.0, 0.0]} | arguments
    return functional.affine(
        image, scale=1.0, interpolation=InterpolationMode.BILINEAR, **arguments
    )


def shear(strength):
    return math.degrees(math.atan(0.99 * strength))


WANTED = {
    "identity": lambda image, strength: image,
    "shear_x": lambda image, strength: affine(image, shear=[shear(strength), 0.0], center=[0, 0]),
    "shear_y": lambda image, strength: affine(image, shear=[0.0, shear(strength)], center=[0, 0]),
    "translate_x": lambda image, strength: affine(image, translate=[int(32 * strength), 0]),
    "translate_y": lambda image, strength: affine(image, translate=[0, int(32 * strength)]),
    "rotate": lambda image, strength: functional.rotate(
        image, 135 * strength, interpolation=InterpolationMode.BILINEAR
    ),
    "brightness": lambda image, s: functional.adjust_brightness(image, 1 + 0.99 * s),
    "color": lambda image, s: functional.adjust_saturation(image, 1 + 0.99 * s),
    "contrast": lambda image, s: functional.adjust_contrast(image, 1 + 0.99 * s),
    "sharpness": lambda image, s: functional.adjust_sharpness(image, 1 + 0.99 * s),
    "posterize": lambda image, s: functional.posterize(image, 8 - round(6 * abs(s))),
    "solarize": lambda image, s: functional.solarize(image, 1 - abs(s)),
    "autocontrast": lambda image, strength: functional.autocontrast(image),
    "equalize": lambda image, strength: functional.equalize(image),
}
ON_LEVELS = ("posterize", "equalize")  # torchvision's results for floats differ


@pytest.fixture(scope="module", params=[1, 3])
def results(request):
    """The results of each operation and strength, `[operation, strength, H, W, C]`."""
    image = jnp.array(LEVELS[..., : request.param] / 255, jnp.float32)
    strengths = jnp.array(BINS) / 30
    each_strength = jax.vmap(changed, (None, None, 0))
    each = jax.vmap(each_strength, (None, 0, None))
    return np.asarray(jax.jit(each)(image, jnp.arange(len(OPERATIONS)), strengths))


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_those_of_torchvision(results, name):
    levels = torch.tensor(LEVELS[..., : results.shape[-1]]).permute(2, 0, 1)
    image = levels if name in ON_LEVELS else levels / 255
    for bin_, found in zip(BINS, results[OPERATIONS.index(name)], strict=True):
        wanted = WANTED[name](image, bin_ / 30).permute(1, 2, 0).numpy()
        wanted = wanted / 255 if name in ON_LEVELS else wanted
        # Fewer digits of luma, and float32 coordinates.
        np.testing.assert_allclose(found, wanted, atol=2e-4, err_msg=f"bin {bin_}")


def test_operations_strengths_and_directions_are_equally_likely():
    keys = jax.random.split(KEY, 14_000)
    operation, strength = map(np.asarray, jax.vmap(lambda key: draw_operation(key, 5))(keys))
    np.testing.assert_allclose(np.bincount(operation, minlength=14), 1000, atol=120)  # 4 sigma
    for name in ("identity", "rotate", "equalize"):
        drawn = strength[operation == OPERATIONS.index(name)]
        values, counts = np.unique(drawn, return_counts=True)
        assert values.tolist() == [-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1]
        shares = [0.1] * 4 + [0.2] + [0.1] * 4
        np.testing.assert_allclose(counts / len(drawn), shares, atol=0.05)


def test_each_image_has_the_operation_of_its_key():
    batch = batch_of(16)
    found = AUGMENT(batch, KEY)["image"]
    for index in (0, 7):
        operation, strength = draw_operation(jax.random.fold_in(KEY, index), 31)
        wanted = jax.jit(changed)(batch["image"][index], operation, strength)
        np.testing.assert_allclose(found[index], wanted, atol=1e-5)


def batch_of(num):
    image = jax.random.uniform(jax.random.key(1), (num, 20, 20, 3))
    return {"image": image, "index": jnp.arange(num)}


def test_order_of_the_batch_changes_no_bit():
    batch = batch_of(16)
    found = np.asarray(AUGMENT(batch, KEY)["image"])
    assert not np.array_equal(found, AUGMENT(batch, jax.random.key(5))["image"])
    order = np.random.default_rng(0).permutation(16)
    moved = AUGMENT({name: each[order] for name, each in batch.items()}, KEY)
    np.testing.assert_array_equal(moved["image"], found[order])


def test_four_devices_compute_the_same():
    batch = batch_of(16)
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    parted = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    found = AUGMENT(parted, KEY)["image"]
    assert len(found.sharding.device_set) == 4
    np.testing.assert_allclose(found, AUGMENT(batch, KEY)["image"], atol=1e-6)  # order of sums


def test_other_channels_are_refused():
    spec = {"image": jax.ShapeDtypeStruct((8, 8, 4), jnp.float32)}
    with pytest.raises(ValueError, match="TrivialAugment changes images of 1 or 3 channels"):
        TrivialAugment().check(spec)


@pytest.mark.parametrize("num", [1, 2.5, True])
def test_number_of_strengths_is_checked(num):
    with pytest.raises(ValueError, match=r"`num_magnitude_bins` .* integer of at least 2"):
        TrivialAugment(num)
