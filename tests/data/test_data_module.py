import hashlib

import numpy as np
import pytest
from helpers import tiny_arrays

from nnx_alexnet.data import DataModule, ImageTransform, as_data_module

X, Y = tiny_arrays(num=8)


def test_images_and_labels_as_train_and_val_are_rejected():
    images, labels = tiny_arrays()
    with pytest.raises(ValueError, match=r"looks like \(images, labels\)"):
        as_data_module((images, labels))
    with pytest.raises(ValueError, match=r"`train` is one array of shape \(64, 8, 8, 1\)"):
        DataModule(images, labels)
    with pytest.raises(ValueError, match=r"DataModule\(train, val, test\)"):
        DataModule(((images, labels), (images, labels)))


@pytest.mark.parametrize("data", [3, (1,), {"train": 1}])
def test_data_of_an_unknown_form_are_rejected(data):
    with pytest.raises(ValueError, match="`data` is a"):
        as_data_module(data)
    with pytest.raises(ValueError, match="`train`"):
        DataModule(data)


def test_a_data_module_knows_classes_shape_and_splits():
    train, val = tiny_arrays(num=64), tiny_arrays(num=20, seed=1)
    data = as_data_module((train, val))
    assert (data.num_classes, data.image_shape, data.test) == (4, (8, 8, 1), None)
    named = DataModule(train, batch_size=8, class_names=("a", "b", "c", "d", "e"))
    assert named.num_classes == 5
    assert DataModule(train, transform=ImageTransform(6)).image_shape == (6, 6, 1)
    assert as_data_module(data) is data
    assert named.describe() == {
        "name": "data",
        "batch_size": 8,
        "drop_last": True,
        "fields": {"image": "uint8[8, 8, 1]", "label": "int32[]"},
        "examples": {"train": 64},
        "labels": hashlib.sha256(train[1].tobytes()).hexdigest(),
        "image": [8, 8, 1],
        "padding": {},
        "transform": ImageTransform().describe(),
        "num_classes": 5,
        "class_names": ["a", "b", "c", "d", "e"],
    }


def test_names_and_shapes_must_fit_all_splits():
    train = tiny_arrays(num=64)
    with pytest.raises(ValueError, match="3 names, but the label 3 occurs in `train`"):
        DataModule(train, class_names=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"`val` has `image` uint8\[9, 9, 1\]"):
        DataModule(train, tiny_arrays(size=9))
    assert DataModule(train, tiny_arrays(size=9), transform=ImageTransform(8)).val is not None


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"drop_last": "no"}, r"`drop_last` \(='no'\) must be True or False"),
        ({"class_names": "ab"}, r"`class_names` \(='ab'\) must be one name for each class"),
    ],
)
def test_arguments_of_another_type_are_rejected(arguments, match):
    with pytest.raises(TypeError, match=match):
        DataModule((np.zeros((64, 8), np.float32), np.zeros(64, np.int32)), **arguments)


@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_batch_size_must_be_a_positive_integer(value):
    with pytest.raises(ValueError, match="`batch_size`"):
        DataModule(tiny_arrays(), batch_size=value)
