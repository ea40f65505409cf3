"""Images, masks, boxes and keypoints that move together, against NumPy and torchvision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv
from torchvision.tv_tensors import BoundingBoxes

from nnx_alexnet.data import ImageTransform
from nnx_alexnet.data.geometry import draw_geometry, draw_resized_crop, ten_crops, unit_scaled

KEY = jax.random.key(1)
FIELDS = {"masks": ("mask_", "label"), "boxes": ("boxes",), "keypoints": ("points",)}
PLAIN = {"image_size": None, "translate": 0.0, "crop": 1.0, "flip": False}


def geometry_of(sides, num=6, key=None, **arguments):
    index = jnp.arange(num, dtype=jnp.int32)
    return draw_geometry((num, *sides, 1), key=key, index=index, **PLAIN | arguments)


# ---- Against NumPy -------------------------------------------------------------------------------


def sampled(geometry, axis, start):
    """Returns the positions of the output's pixel centres in the mirrored image, in float64."""
    centres = np.arange(geometry.size[axis]) + 0.5
    return centres * geometry.region[axis] / geometry.size[axis] + start


def flipped(geometry, planes):
    return [
        plane[:, ::-1] if geometry.mirrored is not None and geometry.mirrored[number] else plane
        for number, plane in enumerate(planes)
    ]


def mask_by_numpy(geometry, masks, fill):
    """The masks, and which pixels of them lie between two pixels of the image."""
    results, ties = [], []
    for plane, start in zip(flipped(geometry, masks), geometry.start, strict=True):
        places = [sampled(geometry, axis, float(start[axis])) for axis in (0, 1)]
        result = np.full(geometry.size, fill, plane.dtype)
        for i, row in enumerate(np.floor(places[0]).astype(int)):
            for j, column in enumerate(np.floor(places[1]).astype(int)):
                if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                    result[i, j] = plane[row, column]
        results.append(result)
        ties.append(np.logical_or.outer(*(abs(each - np.rint(each)) < 1e-4 for each in places)))
    return np.stack(results), np.stack(ties)


def weights(geometry, axis, start):
    """The share of each pixel of the image in each pixel of the result: a triangle around it."""
    side, scale = geometry.sides[axis], geometry.size[axis] / geometry.region[axis]
    places = sampled(geometry, axis, start)
    distance = np.abs(places[:, None] - 0.5 - np.arange(side)) * min(scale, 1)
    shares = np.maximum(0, 1 - distance)
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-9)
    return np.where(((places >= 0) & (places <= side))[:, None], shares, 0)


def image_by_numpy(geometry, images):
    return np.stack(
        [
            weights(geometry, 0, start[0]) @ plane @ weights(geometry, 1, start[1]).T
            for plane, start in zip(
                flipped(geometry, images), np.asarray(geometry.start, np.float64), strict=True
            )
        ]
    )


def points_by_numpy(geometry, points):
    results = []
    for number, own in enumerate(np.asarray(points, np.float64)):
        x, y = own[:, 0], own[:, 1]
        if geometry.mirrored is not None and geometry.mirrored[number]:
            x = geometry.sides[1] - x
        top, left = np.asarray(geometry.start[number], np.float64)
        (height, width), region = geometry.size, geometry.region
        results.append(
            np.stack([(x - left) * width / region[1], (y - top) * height / region[0]], axis=-1)
        )
    return np.stack(results)


def boxes_by_numpy(geometry, boxes):
    corners = [points_by_numpy(geometry, boxes[..., at]) for at in ([0, 1], [2, 3])]
    low, high = np.minimum(*corners), np.maximum(*corners)
    largest = np.array(geometry.size[::-1])
    return np.concatenate([np.clip(low, 0, largest), np.clip(high, 0, largest)], axis=-1)


# Sides of the images, and arguments; together they resample or cut, enlarge or shrink.
CASES = {
    "mirrored": ((6, 5), {"flip": True}),
    "translated": ((7, 9), {"translate": 0.3}),
    "cut": ((8, 8), {"image_size": 6, "crop": 0.75, "translate": 0.2}),
    "cut in part": ((5, 12), {"crop": 0.45, "translate": 0.1, "flip": True}),
    "enlarged": ((6, 9), {"image_size": 13, "crop": 0.8, "translate": 0.2, "flip": True}),
    "reduced": ((12, 9), {"image_size": 5, "crop": 0.9, "translate": 0.2, "flip": True}),
}
NUM = 12


@functools.cache
def compiled(case, is_training):
    """Moves fields; returns the geometry too, with its numbers as arrays."""
    sides, arguments = CASES[case]

    def moved(key, fields):
        geometry = geometry_of(sides, NUM, key if is_training else None, **arguments)
        result = {
            "image": geometry.images(fields["image"][..., None])[..., 0],
            "mask": geometry.masks(fields["mask"], 250),
            "points": geometry.keypoints(fields["points"]),
            "boxes": geometry.boxes(fields["boxes"]),
        }
        return (geometry.start, geometry.mirrored), result

    return jax.jit(moved)


def moved_fields(case, is_training, seed, **fields):
    """Returns the geometry, random fields and the fields after it."""
    sides, arguments = CASES[case]
    random = np.random.default_rng(seed)
    height, width = sides
    corners = np.sort(random.uniform(-0.5, 1.5, (NUM, 3, 2, 2)) * (width, height), axis=2)
    fields = {
        "image": random.random((NUM, *sides)).astype(np.float32),
        "mask": random.integers(1, 200, (NUM, *sides)).astype(np.uint8),
        "points": random.uniform(-2, 12, (NUM, 3, 2)).astype(np.float32),
        "boxes": corners.reshape(NUM, 3, 4).astype(np.float32),
    } | fields
    drawn, result = compiled(case, is_training)(jax.random.key(seed), fields)
    start, mirrored = jax.tree.map(np.asarray, drawn)
    geometry = geometry_of(sides, NUM, **arguments)._replace(start=start, mirrored=mirrored)
    return geometry, fields, jax.tree.map(np.asarray, result)


DRAWN = {
    "case": st.sampled_from(sorted(CASES)),
    "is_training": st.booleans(),
    "seed": st.integers(0, 2**31 - 1),
}


@given(**DRAWN)
@settings(deadline=None, max_examples=25)
def test_fields_move_as_numpy_computes(case, is_training, seed):
    geometry, fields, moved = moved_fields(case, is_training, seed)
    expected, is_tie = mask_by_numpy(geometry, fields["mask"], 250)
    np.testing.assert_array_equal(moved["mask"][~is_tie], expected[~is_tie])
    assert is_tie.mean() < 0.5
    for name, by_numpy in (
        ("points", points_by_numpy), ("boxes", boxes_by_numpy), ("image", image_by_numpy)
    ):  # fmt: skip
        np.testing.assert_allclose(moved[name], by_numpy(geometry, fields[name]), atol=1e-4)


# ---- Positions -----------------------------------------------------------------------------------


@given(**DRAWN)
@settings(deadline=None, max_examples=25)
def test_a_box_surrounds_the_pixels_that_it_surrounded(case, is_training, seed):
    """A pixel of the mask belongs to the object exactly if its centre is in the box."""
    (height, width), random = CASES[case][0], np.random.default_rng(seed)
    masks, boxes = np.zeros((NUM, height, width), np.uint8), np.zeros((NUM, 3, 4), np.float32)
    for mask, (box, *_) in zip(masks, boxes, strict=True):
        left, top = random.integers(0, (width, height))
        right, bottom = random.integers((left, top), (width, height)) + 1
        mask[top:bottom, left:right] = 1
        box[:] = left, top, right, bottom
    geometry, _, moved = moved_fields(case, is_training, seed, mask=masks, boxes=boxes)
    y, x = (np.arange(size) + 0.5 for size in geometry.size)
    for mask, (box, *_) in zip(moved["mask"], moved["boxes"], strict=True):
        x_min, y_min, x_max, y_max = box
        assert 0 <= x_min <= x_max <= geometry.size[1]
        assert 0 <= y_min <= y_max <= geometry.size[0]
        inside = np.outer((y > y_min) & (y < y_max), (x > x_min) & (x < x_max))
        is_tie = np.logical_or.outer(
            np.minimum(abs(y - y_min), abs(y - y_max)) < 1e-3,
            np.minimum(abs(x - x_min), abs(x - x_max)) < 1e-3,
        )
        np.testing.assert_array_equal((mask == 1)[~is_tie], inside[~is_tie])


@pytest.mark.parametrize(
    "arguments",
    [
        {"flip": True}, {"translate": 0.3}, {"crop": 0.5}, {"image_size": 36},
        {"image_size": 36, "translate": 0.2, "crop": 0.75, "flip": True},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("key", [None, KEY])
def test_a_bright_pixel_is_where_its_keypoint_and_its_mask_are(arguments, key):
    rows, columns = np.divmod(np.arange(144), 12)  # one image for each pixel
    images, points = np.zeros((144, 12, 12, 1), np.uint8), np.zeros((144, 1, 2), np.float32)
    images[np.arange(144), rows, columns] = 255
    points[:, 0] = np.stack([columns + 0.5, rows + 0.5], axis=-1)
    transform = ImageTransform(**arguments, masks=("label",), keypoints=("points",))
    batch = {"image": images, "label": images[..., 0] > 0, "points": points,
             "index": np.arange(144, dtype=np.int32)}  # fmt: skip
    result = jax.tree.map(np.asarray, jax.jit(transform)(batch, key))
    size = result["image"].shape[1]
    places = np.arange(size) + 0.5
    reach = size / 12 / arguments.get("crop", 1)  # of a pixel of the image
    # Pixels at the edge of an image are continued beyond it.
    is_inner = (abs(rows - 5.5) < 5) & (abs(columns - 5.5) < 5)
    seen = 0
    for image, mask, ((x, y),) in zip(
        result["image"][is_inner, ..., 0],
        result["label"][is_inner],
        result["points"][is_inner],
        strict=True,
    ):
        if not (reach <= x <= size - reach and reach <= y <= size - reach):
            continue  # it may be cut off
        seen += 1
        for weight in (image, mask.astype(np.float32)):
            centre = [(weight.sum(axis) * places).sum() / weight.sum() for axis in (0, 1)]
            np.testing.assert_allclose(centre, [x, y], atol=0.51 if weight is not image else 0.1)
    assert seen >= 9


# ---- Against torchvision ------------------------------------------------------------


def tv_boxes(boxes, sides):
    return BoundingBoxes(torch.tensor(boxes), format="XYXY", canvas_size=sides)


BOXES = np.array([[1, 2, 4, 5], [0, 0, 10, 8], [2.5, 1, 3, 7.5], [8, 6, 10, 8]], np.float32)


def test_mirrored_boxes_are_those_of_torchvision():
    geometry = geometry_of((8, 10), num=1)._replace(mirrored=jnp.ones(1, bool))
    expected = tv.horizontal_flip(tv_boxes(BOXES, (8, 10))).numpy()
    np.testing.assert_array_equal(geometry.boxes(jnp.asarray(BOXES)[None])[0], expected)


def test_cropped_and_resized_boxes_are_those_of_torchvision():
    geometry = geometry_of((8, 10), num=1, crop=0.5, image_size=12)
    assert geometry.start.tolist() == [[2, 2.5]]
    geometry = geometry._replace(start=jnp.array([[2.0, 3.0]]))  # torchvision cuts whole pixels
    cropped = tv.crop(tv_boxes(BOXES, (8, 10)), top=2, left=3, height=4, width=5)
    expected = tv.resize(cropped, [12, 12]).numpy()
    got = geometry.boxes(jnp.asarray(BOXES)[None])[0]
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("sides", [(8, 8), (20, 12), (7, 30)])
@pytest.mark.parametrize("size", [3, 6, 8, 14])
def test_resized_masks_are_those_of_torchvision(sides, size):
    masks = np.random.default_rng(0).integers(0, 255, (6, *sides)).astype(np.uint8)
    got = geometry_of(sides, image_size=size).masks(jnp.asarray(masks), 0)
    expected = tv.resize(
        torch.tensor(masks)[:, None], [size, size],
        interpolation=tv.InterpolationMode.NEAREST_EXACT,
    )[:, 0]  # fmt: skip
    np.testing.assert_array_equal(got, expected.numpy())


# ---- Dtypes and details ------------------------------------------------------------


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int32, np.float16, jnp.bfloat16])
@pytest.mark.parametrize("image_size", [None, 9])
def test_masks_keep_dtype_and_channels(dtype, image_size):
    geometry = geometry_of((6, 6), num=4, key=KEY, image_size=image_size, translate=0.4)
    planes = jnp.ones((4, 6, 6, 2), dtype)
    moved = geometry.masks(planes, 0)
    assert (moved.dtype, moved.shape[-1]) == (planes.dtype, 2)
    assert {*np.unique(np.asarray(moved, np.float32))} == {0, 1}
    np.testing.assert_array_equal(moved[..., 0], geometry.masks(planes[..., 0], 0))


def test_padding_among_the_boxes_stays_padding():
    geometry = geometry_of((6, 6), num=8, key=KEY, image_size=9, translate=0.4, flip=True)
    boxes = jnp.broadcast_to(jnp.array([[jnp.nan] * 4, [0.0] * 4, [9, 9, 12, 12]]), (8, 3, 4))
    unknown, empty, outside = np.moveaxis(np.asarray(geometry.boxes(boxes)), 1, 0)
    assert np.isnan(unknown).all()
    for box in (empty, outside[np.asarray(~geometry.mirrored)]):
        assert (((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])) <= 1e-4).all()


def test_boxes_and_points_keep_their_dtype():
    geometry = geometry_of((6, 6), num=1, image_size=12)
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
        box = geometry.boxes(jnp.array([[[1, 2, 3, 4]]], dtype))
        assert (box.dtype, box.tolist()) == (dtype, [[[2, 4, 6, 8]]])
        assert geometry.keypoints(jnp.ones((1, 1, 2), dtype)).dtype == dtype


def test_images_become_float32_on_the_scale_of_0_to_1():
    assert unit_scaled(jnp.array([255, 51], jnp.uint8)).tolist() == pytest.approx([1, 0.2])
    half = unit_scaled(jnp.array([3.0, 0.5], jnp.bfloat16))
    assert (half.dtype, half.tolist()) == (jnp.float32, [3.0, 0.5])


SCENES = np.random.default_rng(5).random((3, 20, 30, 3), dtype=np.float32)


@pytest.mark.parametrize("side", [8, 25])
def test_resized_crop_is_that_of_torchvision(side):
    geometry = draw_resized_crop(
        SCENES.shape, image_size=side, scale=(0.1, 1.0), ratio=(0.75, 1.3), flip=True,
        key=jax.random.key(1), index=jnp.arange(3),
    )  # fmt: skip
    found = geometry.images(jnp.asarray(SCENES))
    for number, image in enumerate(torch.tensor(SCENES).permute(0, 3, 1, 2)):
        mirrored = tv.hflip(image) if geometry.mirrored[number] else image
        top, left = map(int, geometry.start[number])
        height, width = map(int, geometry.region[number])
        wanted = tv.resized_crop(mirrored, top, left, height, width, [side, side], antialias=True)
        np.testing.assert_allclose(found[number], wanted.permute(1, 2, 0), atol=1e-5)


def test_resized_crop_moves_fields_with_the_image():
    rows, columns = np.mgrid[:20, :30].astype(np.float32)
    ramps = np.stack([np.stack([rows, columns], -1)] * 8)
    geometry = draw_resized_crop(
        ramps.shape, image_size=16, scale=(0.2, 0.6), ratio=(0.75, 1.3), flip=True,
        key=jax.random.key(2), index=jnp.arange(8),
    )  # fmt: skip
    # The point (14.5, 9.5) is the centre of the pixel in row 9 and column 14.
    points = geometry.keypoints(jnp.full((8, 1, 2), jnp.array([14.5, 9.5])))
    boxes = geometry.boxes(jnp.full((8, 1, 4), jnp.array([14.0, 9.0, 15.0, 10.0])))
    masks = np.asarray(geometry.masks(jnp.asarray(ramps), -1))
    for number in range(8):
        x, y = np.asarray(points[number, 0])
        if 0.5 < x < 15.5 and 0.5 < y < 15.5:
            assert masks[number, int(y), int(x)].tolist() == [9.0, 14.0]
            middle = (boxes[number, 0, :2] + boxes[number, 0, 2:]) / 2
            np.testing.assert_allclose(middle, (x, y), atol=0.5)


def test_ten_crops_are_those_of_torchvision():
    crops = ten_crops((3, 20, 20, 3), image_size=None, crop=0.8)
    found = [crop.images(jnp.asarray(SCENES[:, :, :20])) for crop in crops]
    wanted = tv.ten_crop(torch.tensor(SCENES[:, :, :20]).permute(0, 3, 1, 2), [16, 16])
    for one, two in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, two.permute(0, 2, 3, 1))
