import numpy as np
import pytest
import torch
from data_helpers import Examples, first_example
from PIL import Image

from nnx_alexnet.data import DataModule
from nnx_alexnet.data.convert import is_leaf
from nnx_alexnet.data.sources import MapSource


@pytest.mark.parametrize(
    ("mode", "advice"),
    [
        ("RGBA", r"image.convert\('RGB'\)"),
        ("P", r"image.convert\('RGB'\).*np.asarray\(image\)"),
        ("1", r"image.convert\('L'\)"),
        ("I;16", r"np.asarray\(image, np.float32\)\[..., None\], scaled"),
        ("F", r"np.asarray\(image, np.float32\)\[..., None\], scaled"),
    ],
)
def test_pil_images_of_other_modes_are_rejected_with_a_remedy(mode, advice):
    with pytest.raises(
        ValueError, match=rf"`train\[0\]\['image'\]` is a PIL image of mode '{mode}'.*{advice}"
    ):
        DataModule(Examples(lambda index: (Image.new(mode, (4, 4)), 0)), batch_size=1)


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
def test_example_images_become_numpy_arrays_in_hwc(image, shape):
    source = MapSource(Examples(lambda index: (image, index)))
    images = first_example(source).fields["image"]
    assert type(images) is np.ndarray
    assert images.shape == (1, *shape)
    spec = source.element_spec()["image"]
    assert (spec.shape, spec.dtype) == (shape, images.dtype)


def test_torch_images_are_transposed_to_hwc():
    image = torch.arange(24, dtype=torch.uint8).reshape(3, 2, 4)
    fields = first_example(MapSource([{"image": (image, image), "other": image}])).fields
    for view in fields["image"]:
        for channel in range(3):
            np.testing.assert_array_equal(view[0, :, :, channel], image[channel].numpy())
    np.testing.assert_array_equal(fields["other"][0], image.numpy())  # not called an image


@pytest.mark.parametrize(
    ("label", "dtype"),
    [(2, "int32"), (np.int64(2), "int32"), (torch.tensor(2), "int32"), (True, "bool"), (2.5, "f4")],
)
def test_numbers_of_examples_become_arrays(label, dtype):
    rows = first_example(MapSource(Examples(lambda index: {"x": [1, 2], "label": label})))
    assert rows.fields["label"].tolist() == [label]
    assert rows.fields["label"].dtype == dtype
    assert rows.fields["x"].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2.5, True], True),
        ([[1, 2], [3, 4]], True),
        ([np.float32(1), np.array(2)], True),
        (["a", "b"], True),
        ([], True),
        (np.zeros(3), True),
        ([np.zeros(3), np.zeros(3)], False),
        ([torch.zeros(3)], False),
        ([{"a": 1}], False),
        ({"a": 1}, False),
        ((Image.new("L", (2, 2)), 1), False),
    ],
)
def test_lists_of_numbers_are_arrays_and_lists_of_arrays_are_trees(value, expected):
    assert is_leaf(value) == expected


def test_bytes_in_another_order_become_those_of_the_machine():
    values = np.array([1, 2], ">i4")
    for split in ({"x": values}, iter([{"x": values}]), [{"x": value} for value in values]):
        batch = next(DataModule(split, batch_size=2).train.batches())
        assert batch["x"].dtype == np.dtype("=i4")
        assert sorted(batch["x"].tolist()) == [1, 2]


def test_a_long_double_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"longdouble|float128.*astype\(np.float64\)"):
        DataModule({"x": np.ones(3, np.longdouble)}, batch_size=1)
