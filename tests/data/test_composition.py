import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnx_alexnet.augmentation import (
    ColorJitter,
    CutMix,
    Lighting,
    MixUp,
    RandomErasing,
    TrivialAugment,
)  # fmt: skip
from nnx_alexnet.data import DataModule, ImageTransform
from nnx_alexnet.data.composition import Compose, DefaultTransform, as_transform

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3), dtype=np.uint8)
LABELS = np.arange(8) % 4
KEY = jax.random.key(3)
SCALED = ImageTransform(16, mean=0.5, std=0.25, translate=0.1, flip=True)
JITTER = ColorJitter(hue=0.1)
EACH = [TrivialAugment(), JITTER, Lighting(0.1), RandomErasing(1.0)]  # per example


def batch_of(rows, images=IMAGES):
    index = np.arange(8, dtype=np.int32)[rows]
    return {"image": images[rows], "label": LABELS[rows], "index": index, "mask": index >= 0}


def test_standardises_after_the_last_augmentation_of_unit_range():
    batch = batch_of(slice(None))
    jitter, lighting, erasing = ColorJitter(0.4, 0, 0), Lighting(0.2), RandomErasing(1.0)
    found = as_transform([SCALED, jitter, lighting, erasing])(batch, KEY)["image"]
    keys = [jax.random.fold_in(jax.random.fold_in(KEY, 0x70617274), n) for n in range(4)]
    scaled = ImageTransform(16, translate=0.1, flip=True)(batch, KEY)
    bright = lighting(jitter(scaled, keys[1]), keys[2])
    bright["image"] = (bright["image"] - 0.5) / 0.25
    np.testing.assert_allclose(found, erasing(bright, keys[3])["image"], atol=1e-5)


@pytest.mark.parametrize(
    "images", [IMAGES, pytest.param(IMAGES.astype(np.float32) / 255, marks=pytest.mark.slow)]
)
def test_each_example_is_augmented_alike_in_any_batch(images):
    transform = jax.jit(as_transform([SCALED, *EACH]))
    whole = transform(batch_of(slice(None), images), KEY)["image"]
    parts = [transform(batch_of([n, 0], images), KEY)["image"][0] for n in range(8)]
    np.testing.assert_allclose(whole, np.stack(parts), atol=1e-5)
    assert not np.allclose(
        whole, transform(batch_of(slice(None), images), jax.random.key(4))["image"]
    )


def test_evaluation_is_that_of_the_image_transform():
    batch = batch_of(slice(None))
    found = as_transform([SCALED, *EACH, MixUp()])(batch)
    for name, value in SCALED(batch).items():
        np.testing.assert_array_equal(found[name], value)


def test_without_image_transform_images_are_scaled():
    data = DataModule((IMAGES, LABELS), batch_size=4, transform=ColorJitter())
    found = data.transform(batch_of(slice(None)))["image"]
    np.testing.assert_allclose(found, IMAGES / 255, rtol=1e-6)


def test_image_transform_draws_the_same_alone_and_in_a_list():
    batch = batch_of(slice(None))
    found = as_transform([SCALED, RandomErasing(0.0)])(batch, KEY)["image"]
    np.testing.assert_array_equal(found, SCALED(batch, KEY)["image"])


def test_functions_run_in_their_place():
    def halved(batch, key=None):
        return {**batch, "image": batch["image"] / 2}

    data = DataModule((IMAGES, LABELS), batch_size=4, transform=[ImageTransform(), halved])
    assert data.transform(batch_of([0]))["image"].max() <= 0.5
    assert data.describe()["transform"]["with"] == [
        {"function": f"{halved.__module__}.{halved.__qualname__}"}
    ]


def test_number_of_classes_is_that_of_the_data():
    data = DataModule((IMAGES, LABELS), batch_size=4, transform=[MixUp(), CutMix(num_classes=9)])
    assert [part.num_classes for part in data.transform.parts[1:]] == [4, 9]
    assert jax.eval_shape(data.transform, batch_of(slice(None)))["label"].shape == (8,)


def test_description_is_json():
    described = as_transform([SCALED, *EACH, MixUp(0.3)]).describe()
    assert json.loads(json.dumps(described))["with"][-1] == {
        "MixUp": {"alpha": 0.3, "probability": 1.0, "num_classes": None}
    }


MASKS = (IMAGES[..., 0] > 127).astype(np.int32)


@pytest.mark.parametrize(
    ("splits", "transform", "message"),
    [
        ((IMAGES, LABELS), [JITTER, SCALED], "at most one ImageTransform, and the augmentations"),
        ((IMAGES, LABELS), [SCALED, SCALED], "at most one ImageTransform"),
        ((IMAGES[..., 0], LABELS), [JITTER], r"ColorJitter changes an `image` of shape"),
        ((IMAGES[..., :2], LABELS), [JITTER], "1 or 3 channels, but the images have 2"),
        ((IMAGES[..., :1], LABELS), [Lighting()], "pca_lighting"),
        ((IMAGES.astype(np.float32), LABELS), [JITTER], r"has float32 images from 0 to 255"),
        ({"image": IMAGES}, [MixUp()], "MixUp mixes `label`, but the keys are"),
        ((IMAGES, np.stack([LABELS] * 2, 1)), [MixUp()], "Convert labels of several integers"),
        (
            {"image": IMAGES, "label": LABELS, "mask_of": MASKS},
            [ImageTransform(masks=("mask_of",)), MixUp()],
            "MixUp moves the pixels of `image`, but not `mask_of`",
        ),
        (
            {"image": IMAGES, "label": LABELS, "depth": MASKS},
            [TrivialAugment()],
            "TrivialAugment moves the pixels of `image`, but not `depth`",
        ),
        (
            {"image": IMAGES, "label": LABELS, "depth": MASKS},
            [CutMix()],
            "CutMix moves the pixels of `image`, but not `depth`",
        ),
    ],
)
def test_unfit_transforms_are_refused(splits, transform, message):
    with pytest.raises(ValueError, match=message):
        DataModule(splits, batch_size=4, transform=transform)


def test_subclass_with_its_own_call_is_refused_before_colours():
    class Own(ImageTransform):
        def __call__(self, batch, key=None):
            return super().__call__(batch, key)

    with pytest.raises(TypeError, match="Own overrides `__call__`"):
        Compose((Own(), JITTER))


@pytest.mark.parametrize("transform", [[3], "flip", 3])
def test_values_of_other_types_are_refused(transform):
    with pytest.raises(TypeError, match="must be an ImageTransform, a function, an augmentation"):
        as_transform(transform)


def test_a_jitted_list_is_traced_with_shapes_only():
    transform = as_transform([SCALED, *EACH, MixUp(num_classes=4)])
    found = jax.eval_shape(transform, batch_of(slice(None)), KEY)
    assert (found["image"].shape, found["label"].shape) == ((8, 16, 16, 3), (8, 4))
    assert found["label"].dtype == jnp.float32


def test_ten_crops_go_with_augmentations_but_not_with_functions():
    cropped = ImageTransform(mean=0.5, crop=0.75, ten_crops=True)
    data = DataModule((IMAGES, LABELS), batch_size=4, transform=[cropped, JITTER, MixUp()])
    batch = batch_of(slice(None))
    views = data.transform(batch)["views"]
    np.testing.assert_array_equal(views, cropped(batch)["views"])
    assert "views" not in jax.eval_shape(data.transform, batch, KEY)
    with pytest.raises(ValueError, match="would not change the ten views"):
        as_transform([cropped, lambda batch: batch])


@pytest.mark.parametrize(
    ("shape", "dtype", "is_scaled"),
    [
        ((4, 4, 1), np.uint8, True), ((4, 4), np.uint8, True), ((2, 4, 4, 3), np.uint8, True),
        ((9,), np.uint8, False), ((4, 4, 1), np.uint16, False), ((4, 4, 1), np.float16, False),
        ((4, 4, 1), np.int32, False),
    ],
)  # fmt: skip
def test_by_default_only_images_of_bytes_are_scaled(shape, dtype, is_scaled):
    image = np.full((2, *shape), 51, dtype)
    spec = {"image": jax.ShapeDtypeStruct(shape, dtype), "x": jax.ShapeDtypeStruct((), np.uint8)}
    batch = {"image": image, "x": np.full(2, 51, np.uint8)}
    result = DefaultTransform()(batch, KEY)
    assert result["x"].tolist() == [51, 51]
    assert result["image"].dtype == (np.float32 if is_scaled else dtype)
    np.testing.assert_allclose(result["image"], 0.2 if is_scaled else 51, rtol=1e-6)
    after = spec["image"].update(dtype=result["image"].dtype)
    assert DefaultTransform().check(spec) == {**spec, "image": after}
    if is_scaled:
        np.testing.assert_array_equal(result["image"], ImageTransform()(batch)["image"])


def test_by_default_any_batch_is_accepted():
    spec = {"tokens": {"ids": jax.ShapeDtypeStruct((9,), np.int32)}}
    assert DefaultTransform().check(spec) == spec
    pair = {"image": {"left": jax.ShapeDtypeStruct((4, 4), np.uint8)}}
    assert DefaultTransform().check(pair) == pair
    assert DefaultTransform().describe() == ImageTransform().describe()
