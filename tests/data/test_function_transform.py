"""A user's own function as the transform."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Dense, tiny_arrays

from nnx_alexnet import Trainer
from nnx_alexnet.data import DataModule, ImageTransform
from nnx_alexnet.data.composition import DefaultTransform, as_transform

KEY = jax.random.key(0)
SPEC = {"x": jax.ShapeDtypeStruct((3,), np.float32), "label": jax.ShapeDtypeStruct((), np.int32)}


def batch():
    return {
        "x": np.arange(6, dtype=np.float32).reshape(2, 3),
        "label": np.array([4, 5], np.int32),
        "mask": np.ones(2, bool),
        "index": np.array([7, 8], np.int32),
    }


def noisy(batch, key=None):
    if key is None:
        return batch
    draw = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))
    return {**batch, "x": batch["x"] + draw(batch["index"])[:, None]}


class Callable:
    """A callable object that cannot be hashed."""

    __hash__ = None

    def __call__(self, batch, *, key=None):
        return {**batch, "x": batch["x"] * 2}


def scaled(batch, scale):
    return {**batch, "x": batch["x"] * scale}


def same(batch):
    return batch


@pytest.mark.parametrize(
    ("function", "takes_key"),
    [
        (noisy, True),
        (lambda batch, **_: batch, True),
        (lambda batch, key: batch, True),
        (lambda batch, *, key: batch, True),
        (Callable(), True),
        (jax.jit(noisy), True),
        (same, False),
        (lambda x, scale=2.0: scaled(x, scale), False),
        (functools.partial(scaled, scale=2.0), False),
        (jax.jit(same), False),
    ],
)
def test_a_function_is_called_by_its_signature(function, takes_key):
    transform = as_transform(function)
    assert transform.takes_key == takes_key
    assert transform.check(SPEC) == SPEC
    given, absent = ({"key": KEY}, {"key": None}) if takes_key else ({}, {})
    expected = function(batch(), **given), function(batch(), **absent)
    for got, want in zip((transform(batch(), KEY), transform(batch())), expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, got, want)
    assert json.loads(json.dumps(transform.describe())) == transform.describe()


def test_an_image_transform_and_none_are_accepted():
    transform = ImageTransform(9, flip=True)
    assert as_transform(transform) is transform
    assert as_transform(None) == DefaultTransform()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "`transform` (=0.5) must be an ImageTransform, a function, an augmentation"),
        (ImageTransform, "must be an ImageTransform, a function, an augmentation"),
        ("flip", "must be an ImageTransform, a function, an augmentation"),
        (lambda: 0, "`transform` has the arguments ()"),
        (lambda batch, label: batch, "`transform` has the arguments (batch, label)"),
        (lambda *, batch: batch, "`transform` has the arguments (*, batch)"),
        (
            lambda image, *, key=None, index=None: image,
            "(image, *, key=None, index=None), but the indices of the examples are batch['index']",
        ),
        (lambda image, key, index: image, "the indices of the examples are batch['index']"),
    ],
)
def test_other_values_are_rejected_with_a_remedy(value, text):
    with pytest.raises(TypeError, match=re.escape(text)) as caught:
        as_transform(value)
    assert "`transform(batch, key=None)`" in str(caught.value)


def test_the_shapes_after_the_transform_are_those_of_its_result():
    def function(batch, key=None):
        pair = jnp.stack([batch["x"], batch["x"]], axis=1)
        return {"views": {"first": pair, "label": batch["label"]}}

    assert as_transform(function).check(SPEC) == {
        "views": {
            "first": jax.ShapeDtypeStruct((2, 3), np.float32),
            "label": jax.ShapeDtypeStruct((), np.int32),
        }
    }


def test_a_function_may_change_the_dict_that_it_receives():
    def function(batch):
        batch["x"] = 2 * batch.pop("x")
        batch["nested"] = {"y": batch["x"]}
        return batch

    result = as_transform(function).check(SPEC)
    assert sorted(result) == ["label", "nested", "x"]


def test_a_function_trains_like_the_same_image_transform(tmp_path):
    """The same as the `ImageTransform` that it stands for, with the dashboard on."""

    def halved(batch):
        return {**batch, "image": batch["image"] / 127.5}

    losses = []
    for transform in (ImageTransform(std=0.5), halved):
        data = DataModule(tiny_arrays(), tiny_arrays(num=20), batch_size=16, transform=transform)
        trainer = Trainer(Dense(), data, max_epochs=1, log_dir=tmp_path, progress_bar=False)
        losses.append([trainer.fit()[0]["val/loss"], *trainer.predict(tiny_arrays(num=3)[0])[:, 0]])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_fields_that_a_function_adds_and_drops_reach_the_task(tmp_path):
    """A batch without `label` trains, if the transform makes one."""

    def labelled(batch):
        return {"image": batch["image"] / 255, "label": batch["label"] // 2}

    images, labels = tiny_arrays(num=64)
    runs = []
    for split, transform in (((images, labels), labelled), ((images, labels // 2), None)):
        data = DataModule(split, batch_size=16, transform=transform)
        trainer = Trainer(Dense(), data, max_epochs=1, log_dir=None, progress_bar=False)
        runs.append(trainer.fit()[0]["train/loss"])
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)
