"""The fields that an `ImageTransform` moves, and those that it refuses to leave where they are."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Dense, tiny_arrays

from nnx_alexnet import Trainer
from nnx_alexnet.data import DataModule, ImageTransform


def structs(**fields):
    return {k: jax.ShapeDtypeStruct(shape, dtype) for k, (shape, dtype) in fields.items()}


IMAGE = ((8, 10, 3), np.uint8)
MASK, BOXES, POINTS = ((8, 10), np.int32), ((5, 4), np.float32), ((7, 2), np.float32)
MOVING = {"flip": True}


def test_declared_fields_are_resized_with_the_image():
    transform = ImageTransform(6, masks=("label", "depth"), boxes=("boxes",), keypoints=("points",))
    spec = structs(
        image=IMAGE, label=((8, 10), np.uint8), depth=((8, 10, 2), jnp.bfloat16), boxes=BOXES,
        points=POINTS, kind=((), np.int32),
    )  # fmt: skip
    assert transform.check(spec) == structs(
        image=((6, 6, 3), np.float32), label=((6, 6), np.uint8), depth=((6, 6, 2), jnp.bfloat16),
        boxes=BOXES, points=POINTS, kind=((), np.int32),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "dtype", "remedy"),
    [
        ((8, 10), np.int32, r"the height and width of the image.*masks=\('label',\)"),
        ((8, 10, 4), np.float32, r"the height and width of the image.*masks=\('label',\)"),
        ((4, 5), np.int32, r"several axes.*masks=\('label',\)"),
        ((5, 4), np.float32, r"several axes.*boxes=\('label',\)"),
        ((7, 2), np.float32, r"several axes.*keypoints=\('label',\)"),
    ],
)
def test_labels_with_axes_must_be_declared_if_pixels_move(field, dtype, remedy):
    spec = structs(image=IMAGE, label=(field, dtype))
    for arguments in (MOVING, {"translate": 0.1}, {"crop": 0.5}, {"image_size": 8}):
        text = re.escape(f"{[*field]}")
        with pytest.raises(ValueError, match=rf"but not `label`: \w+{text} has {remedy}"):
            ImageTransform(**arguments).check(spec)
    assert ImageTransform(mean=0.5).check(spec)["label"] == spec["label"]


def test_other_fields_of_the_size_of_the_image_must_be_declared():
    spec = structs(image=IMAGE, label=MASK, depth=((8, 10, 1), np.float32))
    with pytest.raises(ValueError, match=r"but not `depth`: .*masks=\('depth',\)"):
        ImageTransform(**MOVING, masks=("label",)).check(spec)
    for shape in ((1, 8, 10), (2, 8, 10, 3)):
        with pytest.raises(ValueError, match="but not `depth`"):
            ImageTransform(**MOVING).check(structs(image=IMAGE, depth=(shape, np.float32)))
    nested = {**structs(image=IMAGE), "targets": structs(depth=((8, 10), np.float32))}
    with pytest.raises(ValueError, match="but not `targets/depth`"):
        ImageTransform(**MOVING).check(nested)


@pytest.mark.parametrize(
    "fields",
    [
        {"label": ((), np.int32)}, {"label": ((8,), np.float32)}, {"tokens": ((8, 9), np.int32)},
        {"label": ((5, 3), np.float32), "boxes": BOXES},
    ],
)  # fmt: skip
def test_fields_that_do_not_belong_to_the_image_stay(fields):
    spec = structs(image=((8, 10, 3), np.float32), **fields)
    declared = {"boxes": ("boxes",)} if "boxes" in fields else {}
    assert ImageTransform(**MOVING, **declared).check(spec) == spec


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"masks": ("masks",)}, "'masks', but the batch has the keys 'image', 'label', 'nested'"),
        ({"masks": ("label",)}, "`label` is float32[5, 4] for images [8, 10, 3]; expected [H, W]"),
        ({"keypoints": ("label",)}, "`label` is float32[5, 4] for images [8, 10, 3]; expected [N,"),
        ({"boxes": ("whole",)}, "`whole` is int32[5, 4] for images [8, 10, 3]; expected [N, 4]"),
        ({"boxes": ("whole",)}, ".astype(np.float32) converts it"),
        ({"keypoints": ("visible",)}, "Pass the visibility of the points as a field of its own"),
        ({"masks": ("first",)}, "mask.transpose(1, 2, 0) moves the first axis"),
        ({"masks": ("nested",)}, "`nested` is not one array"),
    ],
)
def test_declared_fields_of_another_form_are_rejected(declared, message):
    spec = structs(
        image=IMAGE,
        label=BOXES,
        whole=((5, 4), np.int32),
        visible=((7, 3), np.float32),
        first=((1, 8, 10), np.uint8),
    ) | {"nested": structs(mask=MASK)}
    if "but the batch has" in message:
        spec = {name: spec[name] for name in ("image", "label", "nested")}
    with pytest.raises(ValueError, match=re.escape(message)):
        ImageTransform(**declared).check(spec)


def test_fields_of_images_without_height_and_width_are_rejected():
    spec = structs(image=((8, 3), np.float32), label=((8, 3), np.int32))
    with pytest.raises(ValueError, match=r"cannot move with images of shape \(8, 3\)"):
        ImageTransform(masks=("label",)).check(spec)


@pytest.mark.parametrize(
    ("dtype", "fill", "is_possible"),
    [
        (np.uint8, 255, True), (np.uint8, -1, False), (np.uint8, 0.5, False), (bool, 1, True),
        (bool, 2, False), (np.float32, -0.5, True), (jnp.bfloat16, 7, True), (np.int8, 128, False),
    ],
)  # fmt: skip
def test_the_value_outside_must_be_one_of_the_mask(dtype, fill, is_possible):
    transform = ImageTransform(**MOVING, masks=("label",), mask_fill=fill)
    spec = structs(image=IMAGE, label=((8, 10), dtype))
    if is_possible:
        assert transform.check(spec)["label"] == spec["label"]
        return
    with pytest.raises(ValueError, match=rf"`mask_fill` \(={fill}\) is not a value of .* `label`"):
        transform.check(spec)


def test_data_without_images_are_rejected_with_their_keys():
    with pytest.raises(ValueError, match="has the keys 'tokens', 'label': it has no `image`"):
        ImageTransform().check(structs(tokens=((9,), np.int32), label=((), np.int32)))
    with pytest.raises(ValueError, match="`image` is not one array"):
        ImageTransform().check({"image": structs(left=IMAGE, right=IMAGE)})


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [
        ("uint16", "images.astype(np.float32) / 65535"),
        ("int32", "images.astype(np.float32) / 2147483647"),
        ("int8", "images.astype(np.float32) / 127"),
        ("bool", "images.astype(np.float32) converts them"),
        ("complex64", "np.stack([images.real, images.imag]"),
    ],
)
def test_images_of_an_unknown_scale_are_rejected(dtype, remedy):
    spec = structs(image=((8, 8, 1), np.dtype(dtype)))
    with pytest.raises(ValueError, match=rf"`image` has dtype {dtype}.*{re.escape(remedy)}"):
        ImageTransform().check(spec)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, jnp.bfloat16, np.float32])
def test_images_of_other_dtypes_become_float32(dtype):
    spec = structs(image=((8, 8, 1), dtype))
    assert ImageTransform(6).check(spec) == structs(image=((6, 6, 1), np.float32))


def test_data_to_predict_from_need_no_declared_fields():
    images, _ = tiny_arrays(num=32)
    masks = (images[..., 0] > 127).astype(np.int32)
    transform = ImageTransform(flip=True, masks=("label",))
    assert transform.check(structs(image=((8, 8, 1), np.uint8)), may_lack_fields=True)
    with pytest.raises(ValueError, match=r"`train`: `masks`.* names 'other'"):
        DataModule(
            (images, masks), batch_size=16, transform=ImageTransform(flip=True, masks=("other",))
        )
    data = DataModule((images, masks), batch_size=16, transform=transform)
    trainer = Trainer(Dense(), data, log_dir=None, progress_bar=False)
    assert len(trainer.predict(images[:5])) == 5
