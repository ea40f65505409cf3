import numpy as np
import pytest
import torch

from nnx_alexnet.data.examples import as_rows, evenly_spaced


@pytest.mark.parametrize(
    ("num", "most", "expected"),
    [(1, 4, [0]), (3, 4, [0, 1, 2]), (4, 4, [0, 1, 2, 3]), (10, 4, [0, 3, 6, 9]), (9, 2, [0, 8])],
)
def test_evenly_spaced_indices_include_both_ends(num, most, expected):
    assert evenly_spaced(num, most).tolist() == expected


def test_nchw_tensors_become_nhwc_arrays_and_are_reported():
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
    reports = []
    rows = as_rows(images, torch.tensor([1, 2]), None, "train", reports.append)
    np.testing.assert_array_equal(rows.image, images.numpy().transpose(0, 2, 3, 1))
    assert rows.image.flags.c_contiguous
    (report,) = reports
    assert "[2, 3, 4, 5]" in report


def test_numpy_images_are_not_transposed():
    images = np.zeros((2, 3, 4, 5), np.uint8)
    assert as_rows(images, np.zeros(2, int), None, "train", pytest.fail).image.shape == images.shape


def test_a_mask_of_another_length_is_rejected():
    with pytest.raises(ValueError, match=r"mask of shape \(3,\); expected \(2,\)"):
        as_rows(np.zeros((2, 4)), np.zeros(2, int), [1, 0, 1], "val", pytest.fail)


def test_a_mask_of_numbers_becomes_bool():
    rows = as_rows(np.zeros((2, 4)), np.zeros(2, int), [1, 0], "val", pytest.fail)
    assert rows.mask.dtype == bool
    assert rows.mask.tolist() == [True, False]
