import math
import re

import pytest

from nnx_alexnet.data import ImageTransform
from nnx_alexnet.data.transform_arguments import fill_value, key_names, whole_number


def test_names_of_keys_become_a_tuple():
    assert key_names("masks", ["label", "depth"]) == ("label", "depth")
    assert key_names("boxes", ()) == ()
    assert hash(ImageTransform(masks=["label"])) == hash(ImageTransform(masks=("label",)))


@pytest.mark.parametrize("value", ["label", b"label", None, 3, ("label", 1), [None]])
def test_names_of_another_type_are_rejected(value):
    message = f"`masks` (={value!r}) must be a tuple of keys, such as ('label',)."
    with pytest.raises(TypeError, match=re.escape(message)):
        ImageTransform(masks=value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"masks": ("image",)}, "'image' is the image itself"),
        ({"boxes": ("index",)}, "'index' is added to each batch"),
        ({"keypoints": ("label", "mask")}, "'mask' is added to each batch"),
        ({"masks": ("a", "b"), "boxes": ("c", "a")}, "must name each key once, but 'a' occurs"),
        ({"masks": ("a", "a")}, "must name each key once, but 'a' occurs twice"),
    ],
)
def test_names_that_cannot_move_with_the_image_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ImageTransform(**arguments)


def test_values_outside_of_masks_are_finite_numbers():
    assert repr(fill_value("mask_fill", 255.0)) == "255"
    assert fill_value("mask_fill", -0.5) == -0.5
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"`mask_fill`.*finite"):
            ImageTransform(mask_fill=value)
    for value in ("0", None, True):
        with pytest.raises(TypeError, match=r"`mask_fill`.*must be a number"):
            ImageTransform(mask_fill=value)


def test_numbers_with_a_fraction_are_no_sides():
    assert whole_number("image_size", 7) == 7
    with pytest.raises(TypeError, match=r"`image_size` \(=7.0\) must be a whole number"):
        whole_number("image_size", 7.0)
