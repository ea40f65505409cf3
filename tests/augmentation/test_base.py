import jax
import jax.numpy as jnp
import pytest

from nnx_alexnet.augmentation import (
    Augmentation,
    ColorJitter,
    Lighting,
    RandomErasing,
    TrivialAugment,
)


def test_example_must_be_overridden():
    batch = {"image": jnp.zeros((1, 2, 2, 1)), "index": jnp.zeros(1, jnp.int32)}
    with pytest.raises(TypeError, match="Augmentation must override `example"):
        Augmentation()(batch, jax.random.key(0))


@pytest.mark.parametrize(
    "augmentation", [ColorJitter(), Lighting(), RandomErasing(1.0), TrivialAugment()], ids=repr
)
def test_evaluation_changes_no_image(augmentation):
    batch = {"image": jnp.full((1, 4, 4, 3), 0.5), "index": jnp.zeros(1, jnp.int32)}
    assert augmentation(batch)["image"] is batch["image"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"x": jax.ShapeDtypeStruct((3,), jnp.float32)}, r"no `image` and the keys \['x'\]"),
        ({"image": jax.ShapeDtypeStruct((8, 8, 3), jnp.uint8)}, "`image` is uint8 at this point"),
        ({"image": jax.ShapeDtypeStruct((64,), jnp.float32)}, r"`image` \(64,\)"),
    ],
)
def test_unfit_images_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        ColorJitter().check(spec)
