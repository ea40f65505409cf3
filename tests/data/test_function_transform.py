"""A user's own function as the transform."""

import functools
import json
import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from helpers import Dense, tiny_arrays

from nnx_alexnet import Trainer
from nnx_alexnet.data import DataModule, ImageTransform
from nnx_alexnet.data.function_transform import as_transform

KEY = jax.random.key(0)


def images(num=3, size=12, channels=2, dtype=np.uint8, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (num, size, size, channels))
    return values.astype(dtype) if dtype == np.uint8 else (values / 255).astype(dtype)


AUGMENTED = ImageTransform(9, mean=(0.5, 0.4), std=(0.2, 0.3), translate=0.1, crop=0.8, flip=True)


def brighter(image, *, key=None, index=None):
    image = image / 255.0
    if key is None:
        return image
    draw = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i), (1, 1, 1)))
    return image * (0.5 + draw(index))


def mirrored(image, *, key=None, index=None):
    if key is None:
        return image
    coins = jax.vmap(lambda i: jax.random.bernoulli(jax.random.fold_in(key, i)))(index)
    return jnp.where(coins[:, None, None, None], image[:, :, ::-1], image)


def blurred(image):
    image = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return sum(image[:, y : y - 2 or None, x : x - 2 or None] for y in (0, 1, 2) for x in (0, 1, 2))


class Callable:
    """A callable object that cannot be hashed."""

    __hash__ = None

    def __call__(self, image, key=None, index=None):
        return image * 2.0


@pytest.mark.parametrize(
    ("function", "takes_key"),
    [
        (brighter, True),
        (lambda image, **_: image, True),
        (lambda image, key, index: image, True),
        (lambda image: image, False),
        (lambda x, scale=2.0: x * scale, False),
        (functools.partial(lambda image, scale: image * scale, scale=2.0), False),
        (jax.jit(lambda image: image), False),
        (Callable(), True),
        (jax.nn.relu, False),
    ],
)
def test_a_function_is_called_by_its_signature(function, takes_key):
    transform = as_transform(function)
    assert transform.takes_key == takes_key
    assert transform.check((12, 12, 2), np.float32) == (12, 12, 2)
    batch = images(dtype=np.float32)
    np.testing.assert_array_equal(
        transform(batch, key=KEY, index=np.arange(3)),
        function(batch, key=KEY, index=np.arange(3)) if takes_key else function(batch),
    )
    given_no_key = {"key": None, "index": None} if takes_key else {}
    np.testing.assert_array_equal(transform(batch), function(batch, **given_no_key))
    assert json.loads(json.dumps(transform.describe())) == transform.describe()


def test_an_image_transform_and_none_are_accepted():
    assert as_transform(AUGMENTED) is AUGMENTED
    assert as_transform(None) == ImageTransform()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "`transform` (=0.5) must be an ImageTransform, or a function"),
        (ImageTransform, "must be an ImageTransform, or a function"),
        ("flip", "must be an ImageTransform, or a function"),
        ([AUGMENTED], "must be an ImageTransform, or a function"),
        (lambda: 0, "`transform` has the arguments ()"),
        (lambda image, label: image, "`transform` has the arguments (image, label)"),
        (
            lambda image, key=None: image,
            "(image, key=None); it must accept both `key` and `index`",
        ),
        (lambda *, image: image, "`transform` has the arguments (*, image)"),
    ],
)
def test_other_values_are_rejected_with_a_remedy(value, text):
    with pytest.raises(TypeError, match=re.escape(text)) as caught:
        as_transform(value)
    assert "`transform(image, *, key=None, index=None)`" in str(caught.value)


def coin(image):
    return image if np.random.rand() < 0.5 else -image


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (np.asarray, "fails: TracerArrayConversionError"),
        (torchvision.transforms.RandomHorizontalFlip(), "belong in the dataset"),
        (lambda image: image.mean(), "returns float32[]"),
        (lambda image: image[0], "returns float32[12, 12, 2]"),
        (lambda image: None, "returns None"),
        (lambda image: {"image": image}, "returns {'image': 'float32[2, 12, 12, 2]'}"),
        (lambda image: image - image.mean(), "from the other images of its batch"),
        (lambda image: (image - image.min(axis=0)), "mean(axis=(1, 2, 3), keepdims=True)"),
        (lambda image: (image + image[::-1]) / 2, "from the other images of its batch"),
        (lambda image: image * np.random.rand(), "traces to another program each time"),
        (lambda image: image + random.random(), "traces to another program each time"),
        (lambda image: image + torch.rand(12, 1, 1).numpy(), "another program each time"),
        (coin, "traces to another program each time"),
        (lambda image, key=None, index=None: image if key is None else image[:, :8],
         "[8, 12, 2] in training and [12, 12, 2] in evaluation"),
    ],
)  # fmt: skip
def test_functions_that_cannot_be_compiled_are_rejected(function, text):
    state = np.random.get_state()[1].copy()
    with pytest.raises(ValueError, match=r"`transform` \(.*\), for images float32\[2") as caught:
        as_transform(function).check((12, 12, 2), np.float32)
    assert text in str(caught.value)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((8, 8, 1), np.uint8), ((32, 32, 3), np.float32), ((20, 30, 3), np.float32)],
)
@pytest.mark.parametrize(
    ("function", "moves"),
    [
        (lambda image: image * 2.0, False),
        (lambda image: (image - image.mean()) / image.std(), False),
        (lambda image: image.at[:, :3, :3].set(0), False),
        (lambda image: image.at[:, 2:, 2:].set(0), False),
        (lambda image: (image / 200.0) ** 3, False),
        (brighter, False),
        (blurred, False),
        (mirrored, True),
        (lambda image: image[:, ::-1], True),
        (lambda image: image[:, :, ::-1], True),
        (lambda image: image[:, ::-1, ::-1], True),
        (lambda image: jnp.roll(image, 3, axis=1), True),
        (lambda image: jnp.roll(image, 3, axis=2), True),
        (lambda image: image[:, :-1], True),
        (
            lambda image: jax.image.resize(image, (len(image), 5, 5, image.shape[-1]), "linear"),
            True,
        ),
    ],
)
def test_functions_are_tried_for_whether_they_move_pixels(function, moves, shape, dtype):
    text = as_transform(function).moving(shape, dtype)
    assert (text is not None) == moves, text


def test_a_transposed_image_has_moved_pixels():
    assert as_transform(lambda image: image.swapaxes(1, 2)).moving((16, 16, 3), np.uint8)


def test_a_function_trains_like_the_same_image_transform(tmp_path):
    """The same as the `ImageTransform` that it stands for, with the dashboard on."""
    losses = []
    for transform in (ImageTransform(std=0.5), lambda image: image / 127.5):
        data = DataModule(tiny_arrays(), tiny_arrays(num=20), batch_size=16, transform=transform)
        trainer = Trainer(Dense(), data, max_epochs=1, log_dir=tmp_path, progress_bar=False)
        losses.append([trainer.fit()[0]["val/loss"], *trainer.predict(tiny_arrays(num=3)[0])[:, 0]])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_a_function_may_reduce_over_each_image_and_draw_for_each():
    def function(image, *, key=None, index=None):
        image = image - image.mean(axis=(1, 2, 3), keepdims=True)
        if key is None:
            return image
        return image * jax.random.uniform(key, (len(image), 1, 1, 1))

    assert as_transform(function).check((6, 6, 2), "float32") == (6, 6, 2)
    assert as_transform(function).check((6, 6, 2), "uint8") == (6, 6, 2)
