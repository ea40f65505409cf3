import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import torch

from nnx_alexnet.data.examples import as_arrays, as_rows, difference, evenly_spaced, unpack


@pytest.mark.parametrize(
    ("num", "most", "expected"),
    [(1, 4, [0]), (3, 4, [0, 1, 2]), (4, 4, [0, 1, 2, 3]), (10, 4, [0, 3, 6, 9]), (9, 2, [0, 8])],
)
def test_evenly_spaced_indices_include_both_ends(num, most, expected):
    assert evenly_spaced(num, most).tolist() == expected


class Named(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass
class Data:
    x: Any
    y: Any


@pytest.mark.parametrize(
    "item", [{"x": 1, "y": [2]}, Named(1, [2]), Data(1, [2]), (1, [2]), [1, [2]]]
)
def test_items_of_every_form_have_names(item):
    assert unpack(item, ("x", "y"), "train") == {"x": 1, "y": [2]}


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((1, 2, 3), r"`train` gave a tuple of length 3; expected .* a tuple \(image, label\)"),
        (3, r"`train` gave a int; .*fields=\("),
        ({0: 1}, "mapping with the key 0; its keys must be names"),
        ({}, "mapping with no keys"),
    ],
)
def test_items_of_another_form_are_rejected(item, message):
    with pytest.raises(ValueError, match=message):
        unpack(item, ("image", "label"), "train")


def test_a_list_of_arrays_is_a_pytree_and_the_error_says_so():
    fields = {"x": [*np.zeros((9, 2))], "label": np.zeros(9)}
    message = (
        r"has 9 of `label`, 2 of `x/0`, .*, \.\.\.; .* If `x` lists examples, pass np\.stack of it"
    )
    with pytest.raises(ValueError, match=message):
        as_arrays(fields, "train")


def test_a_single_value_has_the_only_name():
    assert unpack(3, ("x",), "train") == {"x": 3}


def test_nchw_tensors_become_nhwc_arrays_and_are_reported():
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
    reports = []
    item = {"image": images, "other": images}
    rows = as_rows(item, (), "train", reports.append).fields
    np.testing.assert_array_equal(rows["image"], images.numpy().transpose(0, 2, 3, 1))
    assert rows["image"].flags.c_contiguous
    np.testing.assert_array_equal(rows["other"], images.numpy())
    (report,) = reports
    assert "[2, 3, 4, 5]" in report


def test_numpy_images_are_not_transposed():
    images = np.zeros((2, 3, 4, 5), np.uint8)
    rows = as_rows((images, np.zeros(2, np.int32)), ("image", "label"), "train", pytest.fail)
    assert rows.fields["image"].shape == images.shape


@pytest.mark.parametrize("mask", [[1, 0, 1], np.ones((2, 4, 4))])
def test_a_mask_that_is_not_one_value_per_row_is_rejected(mask):
    shape = np.shape(mask)
    with pytest.raises(ValueError, match=rf"`mask` of shape \({shape[0]}.*expected \(2,\)"):
        as_rows({"x": np.zeros(2), "mask": mask}, (), "val")


def test_a_mask_of_numbers_becomes_bool():
    rows = as_rows({"x": np.zeros((2, 4)), "mask": [1, 0]}, (), "val")
    assert rows.mask.dtype == bool
    assert rows.mask.tolist() == [True, False]
    assert rows.fields.keys() == {"x"}


def spec(**shapes):
    return {name: jax.ShapeDtypeStruct(shape, "int32") for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (spec(x=(3,)), spec(x=(3,)), None),
        (spec(x=(3,)), spec(x=(4,)), "`x` is int32[3] instead of int32[4]"),
        (spec(x=()), spec(x=(), y=()), "the keys are 'x' instead of 'x', 'y'"),
    ],
)
def test_the_first_difference_of_two_specs_is_named(one, other, expected):
    assert difference(one, other) == expected


def test_batches_of_a_memory_mapped_file_get_the_dtype_of_jax(tmp_path):
    values = np.memmap(tmp_path / "values", np.int64, "w+", shape=(4,))
    values[:] = 7
    rows = as_rows({"x": values}, (), "train")
    assert (rows.fields["x"].dtype, rows.fields["x"].tolist()) == ("int32", [7] * 4)
    values[0] = 2**40
    with pytest.raises(ValueError, match=rf"the value {2**40}, which does not fit into int32"):
        as_rows({"x": values}, (), "train")
