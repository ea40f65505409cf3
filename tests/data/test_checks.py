import re

import numpy as np
import pytest
from data_helpers import Examples
from helpers import tiny_arrays
from PIL import Image

from nnx_alexnet.data import DataModule, ImageTransform, prediction_loader

X, Y = tiny_arrays(num=8)


def test_one_iterator_cannot_be_two_splits():
    generator = iter([(X, Y)] * 4)
    with pytest.raises(ValueError, match="`train` and `val` are the same list_iterator"):
        DataModule(generator, generator)
    batches = [(X, Y)]
    assert DataModule(batches, batches).val.batch_size == 8


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
    (lambda batch: {**batch, "image": batch["image"][:, :, ::-1]}, "moves pixels of the images"),
]


def as_transform_of(how):
    return ImageTransform(**how) if isinstance(how, dict) else how


@pytest.mark.parametrize("how", [how for how, _ in MOVES], ids=[text for _, text in MOVES])
@pytest.mark.parametrize("kind", WITH_AXES)
def test_transforms_that_move_pixels_are_rejected_for_masks_and_boxes(kind, how):
    split = split_with_labels(kind)
    label = re.escape(str([*split[1].shape[1:]]))
    text = re.escape({str(h): t for h, t in MOVES}[str(how)])
    message = rf"`train`: `transform` .*{text}.*`label`.*{label} has .*axes"
    with pytest.raises(ValueError, match=message):
        DataModule(split, batch_size=4, transform=as_transform_of(how))
    dataset = Examples(lambda index: (split[0][index], split[1][index]))
    with pytest.raises(ValueError, match=message):
        DataModule(dataset, batch_size=4, transform=as_transform_of(how))
    with pytest.raises(ValueError, match="`val`"):
        DataModule([split], split, transform=as_transform_of(how))


@pytest.mark.parametrize("how", [how for how, _ in MOVES], ids=[text for _, text in MOVES])
@pytest.mark.parametrize("kind", ["classes", "soft labels", "flat mask"])
def test_transforms_that_move_pixels_are_accepted_for_classes(kind, how):
    data = DataModule(split_with_labels(kind), batch_size=4, transform=as_transform_of(how))
    assert data.train.num_batches == 2


@pytest.mark.parametrize("kind", WITH_AXES)
@pytest.mark.parametrize(
    "transform",
    [
        None,
        ImageTransform(8, mean=0.5, std=0.2),
        lambda batch: {**batch, "image": batch["image"] / 255.0},
    ],
)
def test_masks_and_boxes_are_accepted_if_no_pixel_moves(kind, transform):
    split = split_with_labels(kind)
    data = DataModule(split, split, batch_size=4, transform=transform)
    assert data.val.element_spec()["label"].shape == split[1].shape[1:]


def test_series_have_no_pixels_to_move():
    series = np.zeros((8, 16), np.float32), np.zeros((8, 16, 3), np.float32)
    assert DataModule(series, batch_size=4, transform=ImageTransform(flip=True)).train


def test_pil_masks_are_labels_with_axes():
    dataset = Examples(lambda index: (Image.new("RGB", (6, 4)), Image.new("L", (6, 4), 1)))
    assert DataModule(dataset, batch_size=2).train.element_spec()["label"].shape == (4, 6)
    with pytest.raises(ValueError, match=r"not `label`: .*\[4, 6\]"):
        DataModule(dataset, batch_size=2, transform=ImageTransform(flip=True))


def test_fields_of_two_splits_have_numbers_of_one_kind():
    floats, integers = np.ones((4, 3), np.float32), np.ones((4, 3), np.uint8)
    with pytest.raises(ValueError, match=r"`val` has `x` uint8\[3\], `train` has `x` float32\[3\]"):
        DataModule({"x": floats}, {"x": integers}, batch_size=2)
    with pytest.raises(ValueError, match=r"`test` has `x/0` float32.*the same dtype in both"):
        DataModule({"x": [integers]}, test={"x": [floats]}, batch_size=2)
    # Other sizes of integers, fields of one split, and labels of two kinds are accepted.
    others = {"x": integers.astype(np.int32), "y": floats, "label": np.eye(4, dtype=np.float32)}
    DataModule({"x": integers, "label": np.arange(4)}, others, batch_size=2)


@pytest.mark.parametrize("scale", [255.0, 2.0, -1.0])
def test_splits_on_two_scales_cause_a_warning(warnings, scale):
    floats = (X / 255 * scale).astype(np.float32), Y
    prediction_loader(DataModule((X, Y), floats, batch_size=4), floats[0])
    DataModule(floats, test=[*zip(X, Y, strict=True)], batch_size=4)
    reported = [r.getMessage() for r in warnings.records if "two scales" in r.getMessage()]
    pairs = [
        re.match(r"`(\w+)` has float32 images from .* and `(\w+)` has uint8", t) for t in reported
    ]
    assert [pair.groups() for pair in pairs] == [
        ("val", "train"), ("data", "train"), ("train", "test")
    ]  # fmt: skip


def test_bytes_and_floats_from_0_to_1_have_the_same_scale(warnings):
    floats = (X / 255).astype(np.float32), Y
    data = DataModule((X, Y), floats, batch_size=4)
    assert data.val.element_spec()["image"].dtype == np.float32
    assert prediction_loader(data, floats[0]).num_examples == 8
    assert not any(r.levelname == "WARNING" for r in warnings.records)
