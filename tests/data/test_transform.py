import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnx_alexnet.data import ImageTransform

KEY = jax.random.key(0)


def images(num=3, size=12, channels=2, dtype=np.uint8, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (num, size, size, channels))
    return values.astype(dtype) if dtype == np.uint8 else (values / 255).astype(dtype)


def batch_of(image, index=None, **fields):
    index = np.arange(len(image), dtype=np.int32) if index is None else index
    return {"image": image, "index": index, **fields}


def evaluate(transform, image):
    return np.asarray(transform({"image": image})["image"])


def train(transform, image, index=None, key=KEY):
    return np.asarray(jax.jit(transform)(batch_of(image, index), key)["image"])


def test_uint8_is_divided_by_255_and_floats_are_not_scaled():
    batch = images()
    np.testing.assert_allclose(evaluate(ImageTransform(), batch), batch / 255, rtol=1e-6)
    floats = images(dtype=np.float32) * 7
    np.testing.assert_array_equal(evaluate(ImageTransform(), floats), floats)


def test_channels_are_standardised():
    batch = images()
    got = evaluate(ImageTransform(mean=(0.1, 0.2), std=(0.3, 0.4)), batch)
    want = (batch / 255 - np.array([0.1, 0.2])) / np.array([0.3, 0.4])
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("size", [5, 12, 31])
@pytest.mark.parametrize("key", [None, KEY])
def test_without_augmentation_images_are_resized_as_by_jax(size, key):
    batch = images()
    got = ImageTransform(size)(batch_of(batch), key)["image"]
    want = jax.image.resize(batch.astype(np.float32) / 255, (3, size, size, 2), "linear")
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_central_region_is_resized_in_evaluation():
    batch = images(size=16)
    got = evaluate(ImageTransform(24, crop=0.5), batch)
    wide = jax.image.resize(batch.astype(np.float32) / 255, (3, 48, 48, 2), "linear")
    np.testing.assert_allclose(got, wide[:, 12:36, 12:36], atol=1e-5)


def pixels(unit):
    """The uint8 pixels that were scaled to 0..1, which must be whole."""
    scaled = np.asarray(unit) * 255
    np.testing.assert_allclose(scaled, np.rint(scaled), atol=1e-4)
    return np.rint(scaled).astype(np.uint8)


def find_patch(patch, image):
    """All offsets at which `patch` is exactly a part of `image`."""
    rows, columns = (image.shape[axis] - patch.shape[axis] + 1 for axis in (0, 1))
    height, width = patch.shape[:2]
    return [
        (y, x)
        for y in range(rows)
        for x in range(columns)
        if np.array_equal(image[y : y + height, x : x + width], patch)
    ]


def test_a_region_of_the_output_size_is_an_exact_patch_everywhere():
    num = 400
    batch = np.repeat(images(1, size=8, channels=1), num, axis=0)
    got = pixels(train(ImageTransform(5, crop=5 / 8), batch))
    places = [find_patch(patch, batch[0]) for patch in got]
    assert all(len(place) == 1 for place in places)
    counts = np.unique([place[0] for place in places], axis=0, return_counts=True)[1]
    assert len(counts) == 16  # offsets 0 to 3, both ways
    assert counts.min() > 8


def test_the_papers_patches_of_227_in_256_are_exact_pixels():
    batch = images(2, size=256, channels=1)
    transform = ImageTransform(227, crop=227 / 256, flip=True)
    for image, patch in zip(batch, pixels(train(transform, batch)), strict=True):
        assert len(find_patch(patch, image)) + len(find_patch(patch[:, ::-1], image)) == 1
    np.testing.assert_array_equal(pixels(evaluate(transform, batch)), batch[:, 14:241, 14:241])


def test_exact_patches_are_translated_by_whole_pixels():
    num = 300
    batch = np.repeat(images(1, size=10, channels=1) // 2 + 100, num, axis=0)
    got = pixels(train(ImageTransform(translate=0.25), batch))
    black = np.pad(batch[0], ((2, 2), (2, 2), (0, 0)))
    places = {find_patch(patch, black)[0] for patch in got}
    assert places == {(y, x) for y in range(5) for x in range(5)}


def test_resampled_translations_stay_within_their_limit():
    batch = np.full((200, 10, 10, 1), 255, np.uint8)
    got = train(ImageTransform(20, translate=0.2), batch)
    dark = 1 - got[..., 0].mean(axis=1)  # num, columns
    assert dark[:, 4:-4].max() < 0.45  # only rows that moved out make the middle columns dark
    assert (got.min(axis=(1, 2, 3)) == 0).mean() > 0.5
    np.testing.assert_allclose(got[:, 5:15, 5:15], 1, atol=1e-6)


def test_about_half_of_the_images_are_mirrored():
    batch = np.repeat(images(1), 400, axis=0)
    got = pixels(train(ImageTransform(flip=True), batch))
    straight = np.array([np.array_equal(image, batch[0]) for image in got])
    mirrored = np.array([np.array_equal(image, batch[0][:, ::-1]) for image in got])
    assert (straight | mirrored).all()
    assert 150 < mirrored.sum() < 250


AUGMENTED = ImageTransform(9, mean=(0.5, 0.4), std=(0.2, 0.3), translate=0.1, crop=0.8, flip=True)


@pytest.mark.parametrize("transform", [AUGMENTED, ImageTransform(9, crop=0.75, flip=True)])
def test_the_result_of_an_example_does_not_depend_on_its_batch(transform):
    batch, index = images(6), np.arange(100, 106, dtype=np.int32)
    step = jax.jit(transform)
    whole = np.asarray(step(batch_of(batch, index), KEY)["image"])

    @given(order=st.permutations(range(6)), num=st.sampled_from([1, 4, 6]))
    @settings(deadline=None, max_examples=20)
    def check(order, num):
        rows = list(order[:num])
        part = np.asarray(step(batch_of(batch[rows], index[rows]), KEY)["image"])
        np.testing.assert_allclose(part, whole[rows], atol=1e-5)

    check()


def test_another_key_or_index_gives_another_augmentation():
    batch = images(1)
    results = [
        train(AUGMENTED, batch, np.array([i]), jax.random.key(k))
        for i, k in [(0, 0), (1, 0), (0, 1)]
    ]
    assert not any(np.array_equal(results[a], results[b]) for a, b in [(0, 1), (0, 2), (1, 2)])


def test_evaluation_is_deterministic_and_compiles_once():
    traces = []

    @jax.jit
    def step(batch, key):
        traces.append(1)
        return AUGMENTED(batch, key)

    for number in range(3):
        index = np.arange(3, dtype=np.int32) + number
        step(batch_of(images(seed=number), index), jax.random.key(number))
    assert len(traces) == 1
    np.testing.assert_array_equal(*(evaluate(AUGMENTED, images()) for _ in range(2)))


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 6)])
def test_inputs_of_other_ranks_are_only_scaled(shape):
    batch = np.full(shape, 255, np.uint8)
    got = train(ImageTransform(9, mean=(0.5,), std=(0.5,), translate=0.1, flip=True), batch)
    # Without optimizations, 255 is multiplied by the rounded reciprocal of 255.
    np.testing.assert_array_max_ulp(got, np.ones(shape, np.float32), maxulp=1)


def test_images_need_not_be_square():
    batch = np.zeros((2, 8, 12, 3), np.uint8)
    assert evaluate(ImageTransform(), batch).shape == (2, 8, 12, 3)
    assert evaluate(ImageTransform(crop=0.5), batch).shape == (2, 4, 6, 3)
    assert train(ImageTransform(10, translate=0.1, crop=0.7), batch).shape == (2, 10, 10, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop": 0}, "`crop` (=0)"),
        ({"crop": 1.5}, "`crop` (=1.5)"),
        ({"translate": 1}, "`translate` (=1)"),
        ({"std": (0.0,)}, "`std` (=(0.0,))"),
        ({"image_size": 0}, "`image_size` (=0)"),
    ],
)
def test_arguments_out_of_range_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ImageTransform(**arguments)


@pytest.mark.parametrize("number", [0.25, np.float32(0.25), np.array(0.25), jnp.float32(0.25)])
def test_one_number_applies_to_all_channels(number):
    transform = ImageTransform(mean=number, std=number)
    assert (transform.mean, transform.std) == ((0.25,), (0.25,))
    batch = images(channels=3)
    np.testing.assert_allclose(evaluate(transform, batch), (batch / 255 - 0.25) / 0.25, atol=1e-5)


def test_arrays_and_tensors_give_one_value_per_channel():
    for values in (np.array([0.25, 0.5]), torch.tensor([0.25, 0.5]), [0.25, 0.5]):
        assert ImageTransform(mean=values).mean == (0.25, 0.5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"mean": "0.5"}, {"mean": None}, {"mean": (0.5, None)}, {"mean": ()}, {"mean": [[0.5]]},
        {"mean": float("nan")}, {"std": float("inf")}, {"std": {"r": 0.5}}, {"std": len},
        {"translate": "0.1"}, {"translate": None}, {"crop": (0.5, 0.5)}, {"crop": True},
        {"image_size": "96"}, {"image_size": 96.0}, {"image_size": (96, 96)}, {"image_size": True},
        {"flip": "yes"}, {"flip": None}, {"flip": 1},
    ],
)  # fmt: skip
def test_arguments_of_another_type_are_rejected(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(TypeError, match=re.escape(f"`{name}` (={value!r}) must be ")):
        ImageTransform(**arguments)


def test_means_for_another_number_of_channels_are_rejected():
    with pytest.raises(ValueError, match=r"`mean` .* has 3 values, .* have 2 channels"):
        evaluate(ImageTransform(mean=(0.1, 0.2, 0.3)), images())


def test_a_key_without_an_index_is_rejected():
    with pytest.raises(ValueError, match="`key` needs `index`"):
        ImageTransform(flip=True)({"image": images()}, KEY)


def test_lists_become_tuples_so_that_the_transform_is_hashable():
    assert hash(ImageTransform(mean=[0.5], std=[1])) == hash(ImageTransform(mean=(0.5,)))


# ---- Fields, and the default ---------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, KEY])
def test_fields_move_with_their_images_and_the_others_stay(key):
    """The image itself as a mask moves like the image."""
    batch = images(20, channels=1)
    transform = ImageTransform(translate=0.3, crop=0.75, flip=True, masks=("mask_", "label"))
    fields = {"mask_": batch, "label": batch[..., 0], "kind": np.arange(20), "more": {"x": batch}}
    result = jax.jit(transform)(batch_of(batch, **fields), key)
    moved = pixels(result["image"])
    np.testing.assert_array_equal(result["mask_"], moved)
    np.testing.assert_array_equal(result["label"], moved[..., 0])
    for name in ("kind", "more", "index"):
        jax.tree.map(np.testing.assert_array_equal, result[name], batch_of(batch, **fields)[name])


def test_boxes_are_clipped_in_evaluation_as_in_training():
    transform = ImageTransform(translate=0.2, boxes=("boxes",))
    boxes = np.full((3, 1, 4), (-3, 2, 40, 5), np.float32)
    for key in (None, KEY):
        result = np.asarray(transform(batch_of(images(), boxes=boxes), key)["boxes"])
        assert (result[..., 0] >= 0).all()
        assert (result[..., 2] <= 12).all()
    still = ImageTransform(mean=0.5, boxes=("boxes",))(batch_of(images(), boxes=boxes))
    np.testing.assert_array_equal(still["boxes"], boxes)


def test_the_value_outside_fills_masks_alone():
    transform = ImageTransform(translate=0.5, masks=("label",), mask_fill=255)
    labels = np.ones((3, 12, 12), np.int32)
    result = jax.jit(transform)(batch_of(images(channels=1) // 2 + 100, label=labels), KEY)
    outside = np.asarray(result["image"][..., 0]) == 0
    assert outside.any()
    np.testing.assert_array_equal(result["label"], np.where(outside, 255, 1))


def test_a_description_lists_only_the_fields_that_are_declared():
    plain = {"image_size": None, "mean": (0.5,), "std": (1.0,), "translate": 0.0, "crop": 1.0,
             "flip": True}  # fmt: skip
    assert ImageTransform(mean=0.5, flip=True).describe() == plain
    transform = ImageTransform(mean=0.5, flip=True, masks=["label"], mask_fill=255)
    assert transform.describe() == {**plain, "masks": ("label",), "mask_fill": 255}
    assert ImageTransform(**transform.describe()) == transform


def test_resized_crop_is_random_in_training_and_central_in_evaluation():
    transform = ImageTransform(6, resized_crop=(0.1, 0.3), crop=0.75)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    batch = {"image": images, "index": np.arange(4)}
    np.testing.assert_allclose(transform(batch)["image"], images[:, 1:7, 1:7] / 255, rtol=1e-6)
    trained = transform(batch, jax.random.key(0))["image"]
    assert trained.shape == (4, 6, 6, 3)
    alone = transform({"image": images[2:3], "index": np.array([2])}, jax.random.key(0))["image"]
    np.testing.assert_allclose(trained[2], alone[0], atol=1e-6)
    assert ImageTransform(**transform.describe()) == transform


def test_views_are_added_in_evaluation_only():
    transform = ImageTransform(mean=0.5, std=0.5, crop=0.75, ten_crops=True)
    batch = {"image": np.full((2, 8, 8, 1), 255, np.uint8), "index": np.arange(2)}
    views = transform(batch)["views"]
    assert (views.shape, float(views.min()), float(views.max())) == ((2, 10, 6, 6, 1), 1.0, 1.0)
    assert "views" not in transform(batch, jax.random.key(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resized_crop": (0.0, 1.0), "image_size": 8}, "`resized_crop` .* must be positive"),
        ({"resized_crop": (0.1, 1.0)}, "needs an `image_size`"),
        ({"resized_crop": (0.1, 1.0), "image_size": 8, "translate": 0.1}, "with `translate`"),
        ({"ten_crops": True}, "smaller than the image, such as crop=0.875"),
    ],
)
def test_crops_that_do_not_fit_together_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageTransform(**arguments)
