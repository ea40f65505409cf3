import dataclasses
import hashlib
import itertools
import logging
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import tiny_arrays
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from worker_datasets import Noisy

from nnx_alexnet.data import DataModule, ImageTransform, array_source, as_data_module
from nnx_alexnet.data.iterable_source import IterableSource
from nnx_alexnet.data.sources import ArraySource, MapSource, as_source


def first(source):
    return source.take(np.array([0]), seed=0, epoch=0)


def test_arrays_become_uint8_or_float32_images_and_int32_labels():
    labels = np.array([3, 1], np.int64)
    rows = first(ArraySource(np.ones((2, 4, 4, 1), np.float64), labels))
    assert rows.image.dtype == np.float32
    assert rows.label.dtype == np.int32
    assert first(ArraySource(np.ones((2, 4), np.uint8), labels)).image.dtype == np.uint8


@pytest.mark.parametrize("shape", [(4,), (4, 7), (4, 2, 3)])
def test_float_labels_of_any_trailing_shape_become_float32(shape):
    source = ArraySource(np.zeros((4, 8)), np.zeros(shape))
    assert source.element_spec()["label"] == (shape[1:], np.dtype(np.float32))
    assert source.labels() is None


ZEROS = np.zeros((3, 4))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((0, 4)), np.zeros(0, int), "`train` is empty"),
        (ZEROS, np.zeros(2, int), "3 images and 2 labels.*Each split is one tuple"),
        (ZEROS, np.array([0, 1, 2**40]), f"label {2**40}, which does not fit"),
        (ZEROS, np.zeros((3, 1), int), re.escape("Pass labels[:, 0]")),
        (np.zeros(3), np.zeros(3, int), "both need a first axis over examples"),
        (np.zeros(3, int), ZEROS, "both need a first axis .*They look swapped"),
        (ZEROS, np.array(list("abc")), r"labels of dtype <U1.*return_inverse=True.*class_names="),
        (ZEROS, pd.Series(list("abc")), r"labels of dtype .*return_inverse=True"),
        (ZEROS, np.array([1, None, 2], object), "labels of dtype object.*holds None at position 1"),
        (ZEROS, np.array([0, "b", 2], object), "labels of dtype object.*holds 'b' at position 1"),
        (ZEROS, np.array([{"boxes": [1]}] * 3, object), "dtype object.*holds {'boxes'"),
        (ZEROS, np.zeros(3, np.complex64), r"np.stack\(\[labels.real, labels.imag\]"),
        (ZEROS, np.zeros(3, ml_dtypes.bfloat16), r"bfloat16.*labels.astype\(np.float32\) keeps"),
        (ZEROS, np.ma.masked_equal([0, 1, 2], 1), "masked array, whose mask would be lost"),
    ],
)
def test_unusable_arrays_are_errors_at_construction(images, labels, message):
    with pytest.raises(ValueError, match=message):
        DataModule((images, labels), batch_size=1)


# What is advised for a dtype, and which values it makes of the largest ones that there are.
DTYPES = {
    np.float16: ("images.astype(np.float32)", [1.5, -2.0]),
    ml_dtypes.bfloat16: ("images.astype(np.float32)", [1.5, -2.0]),
    np.longdouble: ("images.astype(np.float32)", [1.5, -2.0]),
    np.uint16: ("images.astype(np.float32) / 65535", [65535, 1000]),
    np.uint32: ("images.astype(np.float32) / 4294967295", [2**32 - 1, 2**30]),
    np.int8: ("images.astype(np.float32) / 255", [127, -128]),
    np.int16: ("images.astype(np.float32) / 255", [1000, -1000]),
    np.int32: ("images.astype(np.float32) / 255", [255, 0]),
    np.int64: ("images.astype(np.float32) / 255", [255, 0]),
    bool: ("images.astype(np.float32)", [True, False]),
    np.complex64: ("np.stack([images.real, images.imag], axis=-1)", [1 + 2j, 3 - 1j]),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_an_image_dtype_that_is_refused_is_named_with_a_remedy_that_keeps_all_values(dtype):
    advice, values = DTYPES[dtype]
    images = np.array(values).astype(dtype).reshape(2, 1)
    name = np.dtype(dtype).name
    with pytest.raises(ValueError, match=rf"`train` has dtype {name}; .*{re.escape(advice)}"):
        DataModule((images, np.zeros(2, int)), batch_size=1)
    with pytest.raises(ValueError, match=rf"`train\[0\]` has dtype {name}; .*np.float32|np.stack"):
        DataModule([(images[0], 0)], batch_size=1)
    mended = eval(advice, {"images": images, "np": np})
    kept = DataModule((mended, np.zeros(2, int)), batch_size=1).train.arrays()["image"]
    assert len(np.unique(kept, axis=0)) == 2  # as many values as before
    scale = float(advice.partition(" / ")[2] or 1)
    restored = kept * scale if kept.shape == images.shape else kept[..., 0] + 1j * kept[..., 1]
    np.testing.assert_allclose(restored, images.astype(restored.dtype), rtol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.array([["a.jpg"], ["b.jpg"]]),
            "holds .*'a.jpg'.*Read image files in a dataset's __getitem__",
        ),
        (np.array([[Path("a.jpg")], [None]]), r"holds PosixPath\('a.jpg'\).*load_data\("),
        (torch.zeros((2, 3), dtype=torch.bfloat16), r"dtype torch.bfloat16 .*\.float\(\) keeps"),
        (
            torch.zeros((2, 3)).to_sparse(),
            r"sparse_coo, which .*: give its \.to_dense\(\)",
        ),
        (np.array(["2020-01-01", "2020-01-02"], "M8[D]")[:, None], "dtype datetime64"),
        (pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}), "dtype object.*holds 'x'"),
    ],
)
def test_images_that_are_no_numbers_are_refused_with_what_to_do(images, message):
    with pytest.raises(ValueError, match=message):
        DataModule((images, np.zeros(2, int)), batch_size=1)


def test_a_list_of_classes_is_an_array():
    arrays = DataModule((ZEROS, [2, 0, 1]), batch_size=1).train.arrays()
    assert arrays["label"].tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match=r"labels of dtype object.*holds None at position 0"):
        DataModule((ZEROS, [None, 0, 1]), batch_size=1)
    with pytest.raises(ValueError, match="`train` is a list that cannot be converted to one array"):
        DataModule((ZEROS, [[1], [1, 2], [3]]), batch_size=1)


def test_a_frame_of_numbers_and_a_series_of_classes_are_arrays():
    frame = pd.DataFrame({"a": [0.5, 1.5], "b": [2.0, 3.0]})
    arrays = DataModule((frame, pd.Series([1, 0])), batch_size=1).train.arrays()
    assert arrays["image"].tolist() == [[0.5, 2.0], [1.5, 3.0]]
    assert arrays["label"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("mode", "advice"),
    [
        ("RGBA", r"image.convert\('RGB'\)"),
        ("P", r"image.convert\('RGB'\)"),
        ("1", r"image.convert\('L'\)"),
        ("I;16", r"np.asarray\(image, np.float32\)\[..., None\], scaled"),
        ("F", r"np.asarray\(image, np.float32\)\[..., None\], scaled"),
    ],
)
def test_pil_images_of_other_modes_are_an_error_naming_the_example_and_what_keeps_it(mode, advice):
    with pytest.raises(
        ValueError, match=rf"`train\[0\]` is a PIL image of mode '{mode}'.*{advice}"
    ):
        DataModule(Examples(lambda index: (Image.new(mode, (4, 4)), 0)), batch_size=1)


X, Y = tiny_arrays(num=8)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (
            {"image": X, "label": Y},
            "is a dict; .*Pass the two arrays of the mapping .*keys are 'image', 'label'",
        ),
        ({}, "is a dict; expected"),
        (X, r"one array of shape \(8, 8, 8, 1\) \(ndarray\)"),
        (pd.DataFrame({"a": [1.0]}), r"one array of shape \(1, 1\) \(DataFrame\)"),
        ([X, Y], r"is a list of two arrays; .*as a tuple: \(images, labels\)"),
        ((X.tolist(), Y.tolist()), r"tuple of \(list, list\).*np.asarray makes an array of a list"),
        ((X, None), r"tuple of \(ndarray, NoneType\)"),
        ((X, Y, Y), r"tuple of \(ndarray, ndarray, ndarray\)"),
        ((X,), r"tuple of \(ndarray\)"),
        ("images/", r"is a str; .*load_data\(\"folder\", root=...\)"),
        (Path("images"), r"is a PosixPath; .*load_data\(\"folder\", root=...\)"),
        (None, "is a NoneType; expected"),
        (TensorDataset, "is a TensorDataset; .*Pass an instance of the class"),
        ([1, 2, 3], "gave a int; expected"),
        ([[0.0, 1.0, 2.0]], "gave a list of length 3; expected"),
        ([], "`train` is empty"),
    ],
)
def test_a_split_of_another_form_is_named_with_what_works(split, message):
    with pytest.raises(ValueError, match=f"`train` .*{message}|^{message}"):
        DataModule(split, batch_size=4)


def test_a_generator_of_single_examples_says_how_to_make_batches():
    with pytest.raises(ValueError, match=r"`train` has images of shape .*DataLoader"):
        _ = DataModule((x, y) for x, y in zip(X, Y, strict=True)).batch_size


def test_one_iterator_cannot_be_two_splits():
    generator = iter([(X, Y)] * 4)
    with pytest.raises(ValueError, match="`train` and `val` are the same list_iterator"):
        DataModule(generator, generator)
    batches = [(X, Y)]
    assert DataModule(batches, batches).val.batch_size == 8


# ---- Transforms that move pixels ----------------------------------------------------------------


def split_with_labels(kind):
    """Images of 8x8 with labels of a kind, as arrays."""
    classes = (X[..., 0] > 120).astype(np.int32)
    labels = {
        "mask": classes,
        "float mask": classes.astype(np.float32),
        "mask with a channel": classes[..., None].astype(np.uint8),
        "one-hot mask": np.eye(2, dtype=np.float32)[classes],
        "half resolution": classes[:, ::2, ::2],
        "double resolution": classes.repeat(2, 1).repeat(2, 2),
        "the image itself": X.astype(np.float32),
        "keypoints": np.zeros((8, 5, 2), np.float32),
        "boxes": np.zeros((8, 1, 4), np.float32),
        "classes": Y,
        "soft labels": np.eye(4, dtype=np.float32)[Y],
        "flat mask": classes.reshape(8, 64),
    }[kind]
    return X, labels


WITH_AXES = (
    "mask", "float mask", "mask with a channel", "one-hot mask", "half resolution",
    "double resolution", "the image itself", "keypoints", "boxes",
)  # fmt: skip
MOVES = [
    ({"flip": True}, "flip=True"),
    ({"translate": 0.2}, "translate=0.2"),
    ({"crop": 0.9}, "crop=0.9"),
    ({"image_size": 6}, "image_size=6"),
    (lambda image: image[:, :, ::-1], "moves pixels to other places"),
]


def as_transform_of(how):
    return ImageTransform(**how) if isinstance(how, dict) else how


@pytest.mark.parametrize("how", [how for how, _ in MOVES], ids=[text for _, text in MOVES])
@pytest.mark.parametrize("kind", WITH_AXES)
def test_a_transform_that_moves_pixels_is_refused_where_labels_have_axes(kind, how):
    split = split_with_labels(kind)
    label = re.escape(str(split[1].shape[1:]))
    text = re.escape({str(h): t for h, t in MOVES}[str(how)])
    message = rf"`train` has labels of shape {label} for images .*\(.*{text}.*\).*__getitem__"
    with pytest.raises(ValueError, match=message):
        DataModule(split, batch_size=4, transform=as_transform_of(how))
    dataset = Examples(lambda index: (split[0][index], split[1][index]))
    with pytest.raises(ValueError, match=message):
        DataModule(dataset, batch_size=4, transform=as_transform_of(how))
    with pytest.raises(ValueError, match="`val`"):
        DataModule([split], split, transform=as_transform_of(how))


@pytest.mark.parametrize("how", [how for how, _ in MOVES], ids=[text for _, text in MOVES])
@pytest.mark.parametrize("kind", ["classes", "soft labels", "flat mask"])
def test_labels_of_one_axis_or_none_stay_free_of_it(kind, how):
    data = DataModule(split_with_labels(kind), batch_size=4, transform=as_transform_of(how))
    assert data.train.num_batches == 2


@pytest.mark.parametrize("kind", WITH_AXES)
@pytest.mark.parametrize(
    "transform", [None, ImageTransform(8, mean=0.5, std=0.2), lambda image: image / 255.0]
)
def test_labels_with_axes_are_taken_where_pixels_stay(kind, transform):
    split = split_with_labels(kind)
    data = DataModule(split, split, batch_size=4, transform=transform)
    assert data.val.element_spec()["label"][0] == split[1].shape[1:]


def test_images_without_two_sides_have_no_geometry():
    series = np.zeros((8, 16), np.float32), np.zeros((8, 16, 3), np.float32)
    assert DataModule(series, batch_size=4, transform=ImageTransform(flip=True)).train


def test_masks_that_are_pil_images_are_labels_with_axes():
    dataset = Examples(lambda index: (Image.new("RGB", (6, 4)), Image.new("L", (6, 4), 1)))
    assert DataModule(dataset, batch_size=2).train.element_spec()["label"][0] == (4, 6)
    with pytest.raises(ValueError, match=r"labels of shape \(4, 6\)"):
        DataModule(dataset, batch_size=2, transform=ImageTransform(flip=True))


# ---- Two scales ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [255.0, 2.0, -1.0])
def test_bytes_in_one_split_and_other_floats_in_another_are_reported(warnings, scale):
    floats = (X / 255 * scale).astype(np.float32), Y
    DataModule((X, Y), floats, batch_size=4).unlabelled(floats[0])
    DataModule(floats, test=[*zip(X, Y, strict=True)], batch_size=4)
    said = [r.getMessage() for r in warnings.records if "two scales" in r.getMessage()]
    pairs = [re.match(r"`(\w+)` has float32 images from .* and `(\w+)` has uint8", t) for t in said]
    assert [pair.groups() for pair in pairs] == [
        ("val", "train"), ("images", "train"), ("train", "test")
    ]  # fmt: skip


def test_bytes_and_floats_of_the_scale_that_they_become_go_together(warnings):
    floats = (X / 255).astype(np.float32), Y
    data = DataModule((X, Y), floats, batch_size=4)
    assert data.val.element_spec()["image"][1] == np.float32
    assert data.unlabelled(floats[0]).num_examples == 8
    assert not any(r.levelname == "WARNING" for r in warnings.records)


# ---- Images to predict --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (DataLoader([(x, 0) for x in X]), TypeError, "is a DataLoader; .*test split.*predict()"),
        (TensorDataset(torch.zeros(2, 1)), TypeError, "is a TensorDataset; .*test split"),
        ((X, Y), TypeError, "is a tuple; .*Pass only the images"),
        ([*X], TypeError, r"is a list; .*np.stack\(images\)"),
        ({"image": X}, TypeError, "is a dict; expected one array"),
        ("images/", TypeError, "is a str; expected one array"),
        (Image.new("L", (8, 8)), TypeError, "is a Image; expected one array"),
        (7, TypeError, "is a int; expected one array"),
        (X[0], ValueError, r"has the shape \(8, 8, 1\); .*single image: pass images\[None\]"),
        (torch.zeros(1, 8, 8), ValueError, r"has the shape .*single image: pass images\[None\]"),
        (
            X[..., 0],
            ValueError,
            r"has the shape \(8, 8, 8\); .*images\[..., None\] adds the channel axis",
        ),
        (
            X[0, 0],
            ValueError,
            r"has the shape \(8, 1\); expected one array of images.*\[N, 8, 8, 1\]",
        ),
        (np.float32(1), ValueError, r"has the shape \(\); expected one array"),
        (X[:0], ValueError, "`images` is empty"),
        (X.astype(np.uint16), ValueError, "`images` has dtype uint16; .* / 65535"),
        (np.zeros((2, 9, 9, 1), np.uint8), ValueError, r"has images of shape \(9, 9, 1\), after"),
        (np.zeros((2, 8, 8, 3), np.uint8), ValueError, r"has images of shape \(8, 8, 3\), after"),
    ],
)
def test_what_predict_cannot_take_is_named_with_what_works(images, error, message):
    data = DataModule((X, Y), batch_size=4)
    with pytest.raises(error, match=f"`images` {message}|^{message}"):
        data.unlabelled(images)


@pytest.mark.parametrize(
    "images", [X, jnp.asarray(X), torch.from_numpy(X.transpose(0, 3, 1, 2)), X / 255]
)
def test_images_of_any_array_are_predicted(images):
    loader = DataModule((X, Y), batch_size=4).unlabelled(images)
    assert np.concatenate([b["image"] for b in loader.batches()]).shape == X.shape


def test_images_and_labels_in_the_place_of_train_and_val_are_an_error():
    images, labels = tiny_arrays()
    with pytest.raises(ValueError, match=r"looks like \(images, labels\)"):
        as_data_module((images, labels))
    with pytest.raises(ValueError, match=r"`train` is one array of shape \(64, 8, 8, 1\)"):
        DataModule(images, labels)
    with pytest.raises(ValueError, match=r"DataModule\(train, val, test\)"):
        DataModule(((images, labels), (images, labels)))


@pytest.mark.parametrize("data", [[1, 2], 3, (1,), {"train": 1}])
def test_data_of_an_unknown_form_is_an_error(data):
    with pytest.raises(ValueError, match="`data` is a"):
        as_data_module(data)
    with pytest.raises(ValueError, match="`train`"):
        DataModule(data)


class Examples(torch.utils.data.Dataset):
    """A map-style dataset of whatever `make` returns."""

    def __init__(self, make, num=4):
        self.make, self.num, self.reads = make, num, 0

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        self.reads += 1
        return self.make(index)


@pytest.mark.parametrize(
    ("image", "shape"),
    [
        (Image.new("L", (5, 4)), (4, 5, 1)),
        (Image.new("RGB", (5, 4)), (4, 5, 3)),
        (torch.zeros(3, 4, 5), (4, 5, 3)),
        (torch.zeros(13, 4, 5), (4, 5, 13)),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), (5, 3, 4)),
        (torch.zeros(7, 5, 3), (7, 5, 3)),
        (np.zeros((4, 5, 1)), (4, 5, 1)),
        (torch.zeros(6), (6,)),
    ],
)
def test_an_example_image_becomes_a_numpy_array_in_hwc(image, shape):
    source = MapSource(Examples(lambda index: (image, index)))
    rows = first(source)
    assert type(rows.image) is np.ndarray
    assert rows.image.shape == (1, *shape)
    assert source.element_spec()["image"] == (shape, rows.image.dtype)


def test_a_torch_image_keeps_its_pixels_when_its_axes_move():
    image = torch.arange(24, dtype=torch.uint8).reshape(3, 2, 4)
    rows = first(MapSource([(image, 0)]))
    for channel in range(3):
        np.testing.assert_array_equal(rows.image[0, :, :, channel], image[channel].numpy())


@pytest.mark.parametrize("label", [2, np.int64(2), torch.tensor(2), True])
def test_integer_labels_of_any_kind_become_int32(label):
    rows = first(MapSource(Examples(lambda index: {"image": np.zeros((2, 2, 1)), "label": label})))
    assert rows.label.tolist() == [int(label)]
    assert rows.label.dtype == np.int32


def test_examples_of_differing_shape_are_an_error_naming_index_and_both_shapes():
    source = MapSource(Examples(lambda i: (np.zeros((4 + i // 3, 4, 1)), 0)), argument="train")
    message = "`train`[3] has image of shape (5, 4, 1) and dtype float32, "
    message += "`train`[0] has shape (4, 4, 1)"
    with pytest.raises(ValueError, match=re.escape(message)):
        source.take(np.arange(4), seed=0, epoch=0)


# ---- Labels that are known without reading all examples ---------------------------------------


def pair(index):
    return np.zeros((2, 2, 1)), index % 5


def dataset_with(make=pair, num=200, **attributes):
    dataset = Examples(make, num)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


CLASSES = [index % 5 for index in range(200)]


@pytest.mark.parametrize("name", ["targets", "labels"])
@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, torch.tensor, pd.Series, lambda x: np.array(x, np.uint8)]
)
def test_an_attribute_that_agrees_with_a_sample_holds_the_labels(name, kind):
    dataset = dataset_with(**{name: kind(CLASSES)})
    source = MapSource(dataset)
    labels = source.labels()
    assert labels.dtype == np.int32
    assert labels.tolist() == CLASSES
    assert dataset.reads <= 1 + 2 * 16 + 5
    reads = dataset.reads
    assert source.labels() is labels
    assert dataset.reads == reads  # once is enough


class Wrapper(torch.utils.data.Dataset):
    """Passes on every attribute of a dataset, and changes its labels."""

    def __init__(self, dataset, change):
        self.dataset, self.change = dataset, change

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        image, label = self.dataset[index]
        return image, self.change(label)


@pytest.mark.parametrize(
    "change",
    [
        lambda label: label + 1,
        lambda label: int(label == 3),
        lambda label: 7 if label == 4 else label,  # one class of five
        float,
        lambda label: np.eye(5, dtype=np.float32)[label] * 0.9 + 0.02,
        lambda label: np.full(3, label),
    ],
)
@pytest.mark.parametrize("part", [False, True])
def test_an_attribute_that_disagrees_with_the_examples_is_not_used(change, part):
    dataset = Wrapper(dataset_with(targets=np.array(CLASSES)), change)
    dataset = Subset(dataset, range(50, 150)) if part else dataset
    source = MapSource(dataset)
    assert source.labels() is None
    rows = source.take(np.array([4]), seed=0, epoch=0)
    assert rows.label.tolist() == [np.asarray(change(4)).tolist()]  # 4 and 54 are of one class


def test_a_rare_class_that_is_renamed_is_found():
    labels = [9 if index == 150 else index % 2 for index in range(1000)]

    def make(index):
        return np.zeros((2, 2, 1)), min(labels[index], 2)

    assert MapSource(dataset_with(make, 1000, targets=labels)).labels() is None


def test_the_parts_of_a_dataset_have_its_labels_and_their_order():
    dataset = dataset_with(targets=CLASSES)
    part = Subset(Subset(dataset, range(100, 200)), [3, 1, 4, 1])
    assert MapSource(part).labels().tolist() == [3, 1, 4, 1]
    negative = Subset(dataset, [-1, 0])
    assert MapSource(negative).labels().tolist() == [4, 0]


class Mixed(torch.utils.data.ConcatDataset):
    targets = CLASSES  # of its first part alone


class Fails:
    """A dataset whose attribute cannot be read."""

    def __len__(self):
        return 200

    def __getitem__(self, index):
        return pair(index)

    @property
    def targets(self):
        raise RuntimeError("not now")


@pytest.mark.parametrize(
    "dataset",
    [
        dataset_with(targets=list("abcde") * 40),
        dataset_with(targets=[float(x) for x in CLASSES]),
        dataset_with(targets=CLASSES[:-1]),
        dataset_with(targets=[[x] for x in CLASSES]),
        dataset_with(targets=lambda: CLASSES),
        dataset_with(targets=[[1], [1, 2]]),
        dataset_with(targets=CLASSES, target_transform=lambda label: label),
        dataset_with(targets={"a": 1}),
        Mixed([dataset_with(), dataset_with(lambda i: (np.zeros((2, 2, 1)), 9))]),
        Subset(dataset_with(labels=None), [1, 2]),
        Fails(),
    ],
)
def test_an_attribute_that_holds_no_class_of_each_example_is_not_used(dataset):
    assert MapSource(dataset).labels() is None


def test_examples_that_cannot_be_read_say_nothing_of_the_labels():
    def make(index):
        if index % 3 == 1:
            raise OSError("damaged")
        return pair(index)

    source = MapSource(dataset_with(make, targets=CLASSES), on_bad_sample="skip")
    assert source.labels().tolist() == CLASSES
    assert source.digest() is None


@pytest.mark.parametrize("kind", ["global", "numpy", "python", "torch", "legacy"])
def test_reading_a_sample_leaves_every_generator_where_it_was(kind):
    generators = {
        "numpy": np.random.default_rng(5), "python": random.Random(5),
        "torch": torch.Generator().manual_seed(5), "legacy": np.random.RandomState(5),
    }  # fmt: skip
    draws = {
        "global": lambda: np.random.rand() + random.random() + torch.rand(()).item(),
        "numpy": generators["numpy"].random,
        "python": generators["python"].random,
        "torch": lambda: torch.rand((), generator=generators["torch"]).item(),
        "legacy": generators["legacy"].rand,
    }

    def make(index):
        return np.full((2, 2, 1), draws[kind]()), index % 5

    dataset = dataset_with(make, targets=CLASSES, transforms=[generators.get(kind)])
    source = MapSource(Subset(dataset, range(200)))  # reads example 0
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert source.labels() is not None
    source.digest()
    after = draws[kind]()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    if kind == "torch":
        generators["torch"].manual_seed(5)
    elif kind == "legacy":
        generators["legacy"].seed(5)
    elif kind == "python":
        generators["python"].seed(5)
    elif kind == "numpy":
        generators["numpy"].bit_generator.state = np.random.default_rng(5).bit_generator.state
    if kind != "global":
        draws[kind]()  # example 0
    assert after == draws[kind]()


# ---- Digests -----------------------------------------------------------------------------------


def digest_of(split, **options):
    return DataModule(split, batch_size=1, **options).train.sample_digest()


def test_arrays_of_any_one_bit_more_have_another_digest():
    images, labels = tiny_arrays(num=8)
    first = digest_of((images, labels))
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert digest_of((images.copy(), labels.astype(np.int64))) == first
    assert digest_of((np.asfortranarray(images), labels)) == first
    for index in (0, 5):
        changed, others = images.copy(), labels.copy()
        changed[index, 3, 3, 0] ^= 1
        others[index] ^= 1
        assert digest_of((changed, labels)) != first
        assert digest_of((images, others)) != first
    assert digest_of((images[::-1], labels)) != first
    assert digest_of((images.reshape(8, 4, 16, 1), labels)) != first
    assert digest_of((images.astype(np.float32), labels)) != first


def test_of_large_arrays_evenly_spaced_rows_are_digested(monkeypatch):
    monkeypatch.setattr(array_source, "_WHOLE_BYTES", 2000)
    images, labels = np.zeros((1000, 5), np.uint8), np.zeros(1000, np.int32)
    first = digest_of((images, labels))
    for changed_row, is_seen in ((0, True), (1, False), (999, True)):
        changed = images.copy()
        changed[changed_row] = 1
        assert (digest_of((changed, labels)) != first) == is_seen
    assert digest_of((images[:-1], labels[:-1])) != first


def noisy(index):
    return np.full((2, 2, 1), np.random.rand() + torch.rand(()).item() + random.random()), index


def test_the_digest_of_a_dataset_is_the_same_whatever_the_state_of_the_generators():
    first = digest_of(Examples(noisy, 40))
    np.random.rand(3), torch.rand(3), random.random()
    assert digest_of(Examples(noisy, 40)) == first
    assert digest_of(Examples(noisy, 40), num_workers=2) == first
    assert digest_of(Examples(noisy, 41)) != first
    assert digest_of(Examples(lambda i: (noisy(i)[0], i + (i == 39)), 40)) != first


def test_a_digest_is_the_same_in_another_process():
    program = (
        "import numpy as np; from worker_datasets import Noisy\n"
        "from nnx_alexnet.data import DataModule\n"
        "np.random.rand(7)\n"
        "print(DataModule(Noisy(), batch_size=4).train.sample_digest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [DataModule(Noisy(), batch_size=4).train.sample_digest()]


def test_examples_that_differ_at_each_reading_and_iterables_have_no_digest():
    counter = itertools.count()
    assert digest_of(Examples(lambda i: (np.full((2, 2, 1), 1.0 * next(counter)), i))) is None
    generator = np.random.default_rng(0)
    dataset = Examples(lambda i: (np.full((2, 2, 1), generator.random()), i % 2))
    dataset.generator, dataset.targets = generator, [0, 1, 0, 1]  # which is restored
    data = DataModule(dataset, batch_size=1)
    assert data.train.labels() is not None
    assert data.train.sample_digest() is None
    assert digest_of(iter([tiny_arrays(num=4)])) is None


def test_a_dataset_that_fills_one_buffer_again_and_again_gives_each_example_its_own():
    buffer = np.zeros((2, 2, 1), np.float32)

    def make(index):
        buffer[:] = index
        return buffer, index

    rows = MapSource(Examples(make)).take(np.array([2, 0, 3]), seed=0, epoch=0)
    assert rows.image[:, 0, 0, 0].tolist() == [2, 0, 3]


# ---- Random draws of a dataset ------------------------------------------------------------------


def test_a_dataset_with_its_own_random_transform_repeats_itself_and_leaves_the_generators_alone():
    def make(index):
        noise = torch.rand(1).item() + np.random.rand()
        return np.full((2, 2, 1), noise), index

    source = MapSource(Examples(make))
    state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    some = source.take(np.array([2, 1]), seed=0, epoch=0)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert torch.equal(torch.get_rng_state(), torch_state)
    again = source.take(np.array([1]), seed=0, epoch=0)
    np.testing.assert_array_equal(some.image[1], again.image[0])
    assert not np.array_equal(some.image[0], some.image[1])
    assert not np.array_equal(again.image, source.take(np.array([1]), seed=0, epoch=1).image)


def test_two_threads_read_the_examples_that_each_would_read_alone():
    """They share the global generators, which are seeded for each example."""

    def make(index):
        first = np.random.rand()
        time.sleep(1e-4)  # leaves the other thread its turn
        return np.full((2, 2, 1), first + np.random.rand() + torch.rand(()).item()), index

    def read(seed, found):
        source = MapSource(Examples(make, 20))
        images = [source.take(np.arange(20), seed=seed, epoch=epoch).image for epoch in range(3)]
        found[seed] = np.concatenate(images)

    alone, together = {}, {}
    for seed in (1, 2):
        read(seed, alone)
    state = np.random.get_state()[1].copy()
    threads = [threading.Thread(target=read, args=(seed, together)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        np.testing.assert_array_equal(together[seed], alone[seed])
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_two_threads_that_share_an_iterable_each_get_all_of_its_batches():
    batches = [tiny_arrays(num=2) for _ in range(50)]
    source = IterableSource(batches)
    assert source.batch_size == 2  # a pass is open, which only one of them may take
    barrier, counts = threading.Barrier(2), []

    def read():
        barrier.wait()
        counts.append(len(list(source.batches())))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [50, 50]


def test_a_list_is_read_as_examples_or_as_batches_by_what_it_holds():
    images, labels = tiny_arrays(num=4)
    assert isinstance(as_source(list(zip(images, labels, strict=True)), argument="x"), MapSource)
    assert isinstance(as_source([(images, labels)], argument="x"), IterableSource)
    assert isinstance(as_source([{"image": images, "label": labels}], argument="x"), IterableSource)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ((8, 8, 1), (8, 8)),
        ((8, 8, 3), (8, 8, 3)),
        ((3, 8, 8), (3, 8, 8)),
        ((1, 8, 8), (1,)),
        ((3, 8, 8), (3,)),
        ((32, 10, 3), (32, 10)),
    ],
)
def test_a_list_that_may_be_examples_or_batches_is_refused(image, label):
    pair = np.zeros(image, np.float32), np.zeros(label, np.float32)
    with pytest.raises(ValueError, match=r"`train` is a list of images .* may be examples or batc"):
        DataModule([pair, pair], batch_size=2)
    images, labels = (np.stack([array, array]) for array in pair)
    assert DataModule((images, labels), batch_size=2).train.num_examples == 2
    assert not DataModule(iter([pair])).train.indexable


@pytest.mark.parametrize(
    ("image", "label", "dtype", "is_batch"),
    [
        ((8, 8, 8, 1), (8, 8, 8), np.float32, True),
        ((16, 28, 28), (16,), np.int32, True),
        ((1, 28, 28), (1,), np.int32, True),
        ((16, 10, 3), (16,), np.float32, True),
        ((16, 10, 5), (16, 10), np.float32, True),
        ((16, 5), (16, 4), np.float32, True),
        ((16, 5), (16,), np.float32, True),
        ((8, 8, 1), (4, 4), np.float32, False),
        ((3, 8, 8), (8, 8), np.float32, False),
        ((8, 8, 1), (10,), np.float32, False),
        ((8, 8, 1), (), np.int32, False),
    ],
)
def test_a_list_whose_shapes_say_what_it_holds_is_taken_as_that(image, label, dtype, is_batch):
    pair = np.zeros(image, np.float32), np.zeros(label, dtype)
    assert DataModule([pair, pair], batch_size=1).train.indexable != is_batch


def test_torch_batches_in_nchw_are_turned_to_nhwc_and_that_is_said_once(caplog, monkeypatch):
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
    loader = DataLoader(TensorDataset(images, torch.tensor([1, 2])), batch_size=1)
    monkeypatch.setattr(logging.getLogger("nnx_alexnet"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="nnx_alexnet"):
        rows = list(IterableSource(loader, argument="train").batches())
    assert [record.message for record in caplog.records] == [
        "`train`: torch images [1, 3, 4, 5] are taken as NCHW, turned to NHWC."
    ]
    got = np.concatenate([row.image for row in rows])
    np.testing.assert_array_equal(got, images.numpy().transpose(0, 2, 3, 1))
    assert type(rows[0].label) is np.ndarray


def test_a_generator_that_is_exhausted_says_what_to_pass_instead():
    images, labels = tiny_arrays(num=4)
    source = IterableSource(((images, labels) for _ in range(2)), argument="train")
    assert source.batch_size == 4
    assert len(list(source.batches())) == 2  # looking at the first batch did not lose it
    with pytest.raises(
        ValueError, match=r"a generator.*Pass a list of batches, a torch DataLoader"
    ):
        list(source.batches())


def test_an_iterable_whose_second_pass_is_empty_is_an_error():
    class Once:
        def __init__(self):
            self.batches = iter([tiny_arrays(num=4)])

        def __iter__(self):
            return iter(list(self.batches))

    source = IterableSource(Once())
    assert len(list(source.batches())) == 1
    with pytest.raises(ValueError, match="has none left for another pass"):
        list(source.batches())


def test_an_empty_iterable_is_an_error():
    with pytest.raises(ValueError, match="`val` is empty"):
        IterableSource([], argument="val").element_spec()


def test_batches_that_do_not_fit_to_the_first_are_an_error():
    images, labels = tiny_arrays(num=4)
    good, other = (images, labels), (images.astype(np.float32), labels)
    with pytest.raises(ValueError, match=r"Batch 1 .*float32\[4, 8, 8, 1\].*all must be alike"):
        list(IterableSource([good, other]).batches())

    class Changes:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter([good if self.passes == 1 else other])

    source = IterableSource(Changes())
    assert len(list(source.batches())) == 1
    with pytest.raises(ValueError, match=r"Batch 0 .*all must be alike"):
        list(source.batches())


def test_an_iterable_of_single_examples_is_an_error_that_names_the_torch_loader():
    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.zeros(1, 4, 4), 3

        def __len__(self):
            return 1

    with pytest.raises(ValueError, match=r"put into batches by torch\.utils\.data\.DataLoader"):
        as_source(Stream(), argument="train").element_spec()


def test_a_wrong_item_is_an_error_that_says_the_form():
    with pytest.raises(ValueError, match="a tuple of length 3; expected"):
        IterableSource([(1, 2, 3)]).element_spec()
    with pytest.raises(ValueError, match=r"keys \['pixels'\]"):
        MapSource(Examples(lambda index: {"pixels": 1}))


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
        "examples": {"train": 64},
        "labels": hashlib.sha256(train[1].tobytes()).hexdigest(),
        "image": [8, 8, 1],
        "transform": dataclasses.asdict(ImageTransform()),
        "num_classes": 5,
        "class_names": ["a", "b", "c", "d", "e"],
    }


def test_a_data_module_checks_names_and_shapes_against_each_other():
    train = tiny_arrays(num=64)
    with pytest.raises(ValueError, match="3 names, but the label 3 occurs in `train`"):
        DataModule(train, class_names=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"`val` has images of shape \(9, 9, 1\)"):
        DataModule(train, tiny_arrays(size=9))
    assert DataModule(train, tiny_arrays(size=9), transform=ImageTransform(8)).val is not None


def test_unlabelled_images_get_labels_of_the_train_splits_kind():
    images, _ = tiny_arrays(num=8)
    data = DataModule((images, np.zeros((8, 3))), batch_size=4)
    (batch,) = data.unlabelled(images[:3]).batches(multiple=1)
    assert batch["label"].shape == (4, 3)
    assert batch["mask"].tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("low", "high", "is_said"), [(0, 255, True), (0, 1, False), (-9, 200, False)]
)
def test_floats_that_look_like_bytes_are_said_to_stay_as_they_are(warnings, low, high, is_said):
    images = np.linspace(low, high, 4 * 6 * 6, dtype=np.float32).reshape(4, 6, 6, 1)
    ArraySource(images, np.zeros(4, np.int32), argument="train")
    said = [record.getMessage() for record in warnings.records if record.levelname == "WARNING"]
    assert bool(said) == is_said
    assert all("`train` has floating-point images from 0 to 255" in each for each in said)


@pytest.mark.parametrize("form", ["list", "loader", "shuffled"])
def test_batches_of_a_list_and_of_a_data_loader_can_be_told_apart(form):
    def digest(images):
        labels = np.zeros(64, np.int32)
        if form == "list":
            batches = [(images[i : i + 16], labels[i : i + 16]) for i in range(0, 64, 16)]
            return DataModule(batches).train.sample_digest()
        dataset = torch.utils.data.TensorDataset(torch.tensor(images), torch.tensor(labels))
        loader = torch.utils.data.DataLoader(dataset, batch_size=16, shuffle=form == "shuffled")
        return DataModule(loader).train.sample_digest()

    images = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    assert digest(images) is not None
    assert digest(images) == digest(images.copy())
    assert digest(images) != digest(images + 1)


def test_what_only_a_pass_would_read_has_no_digest():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([(torch.zeros(4), 0)] * 8)

    raw = [{"x": np.zeros(4, np.float32), "y": 0}] * 8

    def collate(examples):
        return np.stack([each["x"] for each in examples]), np.array([e["y"] for e in examples])

    for loader in (
        torch.utils.data.DataLoader(Stream(), batch_size=4),
        torch.utils.data.DataLoader(raw, batch_size=4, collate_fn=collate),
    ):
        assert DataModule(loader).train.sample_digest() is None


def test_an_error_of_a_dataset_tells_which_example_was_read():
    def make(index):
        if index == 2:
            raise OSError("truncated")
        return pair(index)

    source = MapSource(dataset_with(make), argument="val")
    with pytest.raises(OSError, match="truncated") as caught:
        source.take(np.arange(4), seed=0, epoch=0)
    assert caught.value.__notes__ == ["Raised while `val`[2] was read."]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"drop_last": "no"}, r"`drop_last` \(='no'\) must be True or False"),
        ({"class_names": "ab"}, r"`class_names` \(='ab'\) must be one name for each class"),
    ],
)
def test_an_argument_of_another_type_is_refused(arguments, match):
    with pytest.raises(TypeError, match=match):
        DataModule((np.zeros((64, 8), np.float32), np.zeros(64, np.int32)), **arguments)
