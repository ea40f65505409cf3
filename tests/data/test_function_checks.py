"""The trials of a user's transform before anything is compiled."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision

from nnx_alexnet.data.composition import as_transform


def structs(**fields):
    return {k: jax.ShapeDtypeStruct(shape, dtype) for k, (shape, dtype) in fields.items()}


SPEC = structs(image=((12, 12, 2), np.float32), label=((), np.int32))


def on_image(function):
    """A transform that applies a function to the image."""
    return lambda batch: {**batch, "image": function(batch["image"])}


def coin(image):
    return image if np.random.rand() < 0.5 else -image


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (on_image(np.asarray), "fails: TracerArrayConversionError"),
        (on_image(torchvision.transforms.RandomHorizontalFlip()), "belong in the dataset"),
        (lambda image: image / 255, "fails: TypeError"),
        (on_image(lambda image: image * np.random.rand()), "a different program each time"),
        (on_image(lambda image: image + random.random()), "a different program each time"),
        (on_image(lambda image: image + torch.rand(12, 1, 1).numpy()), "a different program each"),
        (on_image(coin), "a different program each time"),
    ],
)
def test_functions_that_cannot_be_traced_are_rejected(function, text):
    np.random.seed(0)  # the coin does not always show the same side
    state = np.random.get_state()[1].copy()
    with pytest.raises(
        ValueError, match=r"`transform` \(.*\), for .* float32\[12, 12, 2"
    ) as caught:
        as_transform(function).check(SPEC)
    assert text in str(caught.value)
    assert "`transform(batch, key=None)`" in str(caught.value)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_a_field_that_the_batch_lacks_is_reported_with_those_that_exist():
    text = r"reads 'pixels', which the batch does not have; its keys are image, index, label, mask"
    with pytest.raises(ValueError, match=text):
        as_transform(lambda batch: {"image": batch["pixels"]}).check(SPEC)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda batch: batch["image"], r"returns float32\[2, 12, 12, 2\]; it must return"),
        (lambda batch: None, r"returns None; it must return the batch"),
        (lambda batch: {}, r"returns a batch without arrays; .* keys 'image', 'label'"),
        (lambda batch: {"mask": batch["mask"]}, "without arrays"),
        (on_image(lambda image: image[0]), r"`image` of shape \(12, 12, 2\) for a batch of 2"),
        (on_image(lambda image: image.mean()), r"`image` of shape \(\)"),
        (lambda batch: {"pair": {"one": batch["label"][:1]}}, r"`pair/one` of shape \(1,\)"),
        (lambda batch, key=None: batch if key is None else {"image": batch["image"][:, :8]},
         r"`image` of shape \[8, 12, 2\] in training and \[12, 12, 2\] in evaluation"),
    ],
)  # fmt: skip
def test_results_that_are_not_a_batch_are_rejected(function, text):
    with pytest.raises(ValueError, match=rf"`transform` \(.*\), for a batch .*{text}"):
        as_transform(function).check(SPEC)


def soft(batch):
    """Smooths labels over the batch."""
    labels = jax.nn.one_hot(batch["label"], 4)
    return {**batch, "label": labels + labels.mean(axis=0)}


MIXING = {
    "mean of all": on_image(lambda image: image - image.mean()),
    "minimum over the batch": on_image(lambda image: image - image.min(axis=0)),
    "permutation": on_image(
        lambda image: image + image[jax.random.permutation(jax.random.key(0), len(image))]
    ),
    "neighbour": on_image(lambda image: (image + image[::-1]) / 2),
    "bfloat16": on_image(lambda image: (image - image.mean()).astype(jnp.bfloat16)),
    "labels": soft,
    "boolean": lambda batch: {**batch, "high": batch["label"] >= batch["label"].max()},
    "new field": lambda batch: {"own": {"of the batch": batch["image"][::-1].mean((1, 2, 3))}},
}


@pytest.mark.parametrize("function", MIXING.values(), ids=MIXING)
def test_functions_that_mix_examples_in_evaluation_are_rejected(function):
    with pytest.raises(ValueError, match=r"of an example from the other examples of its batch"):
        as_transform(function).check(SPEC)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int32, np.bool_, jnp.bfloat16])
def test_mixing_is_found_in_fields_of_any_dtype(dtype):
    spec = structs(field=((5,), dtype))

    def shifted(batch):
        return {"field": jnp.roll(batch["field"], 1, axis=0)}

    with pytest.raises(ValueError, match="`field` of an example from the other"):
        as_transform(shifted).check(spec)
    assert as_transform(lambda batch: {"field": batch["field"][:, ::-1]}).check(spec) == spec


def mixup(batch, key=None):
    labels = jax.nn.one_hot(batch["label"], 4)
    if key is None:
        return {**batch, "label": labels}
    share, order = jax.random.beta(key, 0.4, 0.4), jnp.arange(len(labels))[::-1]
    mixed = jax.tree.map(
        lambda x: share * x + (1 - share) * x[order], {"image": batch["image"], "label": labels}
    )
    return {**batch, **mixed}


def test_examples_may_be_mixed_in_training():
    expected = structs(image=((12, 12, 2), np.float32), label=((4,), np.float32))
    assert as_transform(mixup).check(SPEC) == expected


def test_a_function_may_reduce_over_each_image_and_draw_for_each():
    def function(batch, key=None):
        image = batch["image"] - batch["image"].mean(axis=(1, 2, 3), keepdims=True)
        if key is not None:
            image = image * jax.random.uniform(key, (len(image), 1, 1, 1))
        return {**batch, "image": image}

    assert as_transform(function).check(SPEC)["image"].shape == (12, 12, 2)


# ---- Images that move without their masks --------------------------------------------------------


def brighter(batch, key=None):
    image = batch["image"] / 255.0
    if key is None:
        return {**batch, "image": image}
    draw = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i), (1, 1, 1)))
    return {**batch, "image": image * (0.5 + draw(batch["index"]))}


def mirrored(*names):
    """A transform that mirrors some of the fields of an example."""

    def transform(batch, key=None):
        if key is None:
            return batch
        coins = jax.vmap(lambda i: jax.random.bernoulli(jax.random.fold_in(key, i)))(batch["index"])
        moved = {}
        for name in names:
            field = batch[name]
            chosen = coins.reshape(-1, *(1,) * (field.ndim - 1))
            moved[name] = jnp.where(chosen, field[:, :, ::-1], field)
        return {**batch, **moved}

    return transform


def blurred(image):
    image = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return sum(image[:, y : y - 2 or None, x : x - 2 or None] for y in (0, 1, 2) for x in (0, 1, 2))


def small(image):
    return jax.image.resize(image, (len(image), 5, 5, image.shape[-1]), "linear")


STAYING = {
    "scaled": on_image(lambda image: image * 2.0),
    "standardised": on_image(
        lambda image: image / (1 + image.std(axis=(1, 2, 3), keepdims=True))
    ),
    "dark corner": on_image(lambda image: image.at[:, :3, :3].set(0)),
    "dark rest": on_image(lambda image: image.at[:, 2:, 2:].set(0)),
    "gamma": on_image(lambda image: (image / 200.0) ** 3),
    "brighter": brighter,
    "blurred": on_image(blurred),
    "no image": lambda batch: {"label": batch["label"]},
}  # fmt: skip
MOVING = {
    "mirrored in training": mirrored("image"),
    "upside down": on_image(lambda image: image[:, ::-1]),
    "mirrored": on_image(lambda image: image[:, :, ::-1]),
    "turned": on_image(lambda image: image[:, ::-1, ::-1]),
    "rolled down": on_image(lambda image: jnp.roll(image, 3, axis=1)),
    "rolled right": on_image(lambda image: jnp.roll(image, 3, axis=2)),
    "cut": on_image(lambda image: image[:, :-1]),
    "resized": on_image(small),
}
IMAGES = [((8, 8, 1), np.uint8), ((20, 30, 3), np.float32)]


@pytest.mark.parametrize(("shape", "dtype"), IMAGES)
@pytest.mark.parametrize("function", STAYING.values(), ids=STAYING)
def test_masks_may_stay_if_no_pixel_of_the_image_moves(function, shape, dtype):
    spec = structs(image=(shape, dtype), label=(shape[:2], np.int32))
    assert as_transform(function).check(spec)["label"] == spec["label"]


@pytest.mark.parametrize(("shape", "dtype"), IMAGES)
@pytest.mark.parametrize("function", MOVING.values(), ids=MOVING)
def test_masks_that_stay_while_the_image_moves_are_rejected(function, shape, dtype):
    spec = structs(image=(shape, dtype), label=(shape[:2], np.int32))
    with pytest.raises(ValueError, match=r"`transform` \(.*\) (moves|turns) .*returns `label` as"):
        as_transform(function).check(spec)


def test_a_transposed_image_has_moved_pixels():
    spec = structs(image=((16, 16, 3), np.uint8), depth=((16, 16), np.float32))
    with pytest.raises(ValueError, match=r"returns `depth` as it is: .* height and width"):
        as_transform(on_image(lambda image: image.swapaxes(1, 2))).check(spec)


@pytest.mark.parametrize("wrap", [lambda function: function, jax.jit])
def test_a_mask_that_moves_with_the_image_is_accepted(wrap):
    spec = structs(image=((16, 16, 3), np.uint8), label=((16, 16), np.int32))
    assert as_transform(wrap(mirrored("image", "label"))).check(spec) == spec
    with pytest.raises(ValueError, match="returns `label` as it is"):
        as_transform(wrap(mirrored("image"))).check(spec)


def test_nested_fields_with_the_axes_of_the_image_are_found():
    spec = structs(image=((16, 16, 3), np.uint8))
    spec["targets"] = structs(depth=((16, 16), np.float32), kind=((), np.int32))
    with pytest.raises(ValueError, match="returns `targets/depth` as it is"):
        as_transform(mirrored("image")).check(spec)


def test_labels_of_one_axis_stay_while_the_image_moves():
    spec = structs(image=((16, 16, 3), np.uint8), label=((4,), np.float32))
    assert as_transform(mirrored("image")).check(spec) == spec
