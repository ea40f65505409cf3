import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import torch
from data_helpers import digest_of, first_example, messages
from helpers import tiny_arrays

from nnx_alexnet.data import DataModule, array_source
from nnx_alexnet.data.sources import ArraySource


def test_arrays_become_uint8_or_float32_images_and_int32_labels():
    labels = np.array([3, 1], np.int64)
    rows = first_example(ArraySource(np.ones((2, 4, 4, 1), np.float64), labels))
    assert rows.image.dtype == np.float32
    assert rows.label.dtype == np.int32
    assert first_example(ArraySource(np.ones((2, 4), np.uint8), labels)).image.dtype == np.uint8


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
        (
            ZEROS,
            np.array([1, None, 2], object),
            "labels of dtype object.*contains None at position 1",
        ),
        (
            ZEROS,
            np.array([0, "b", 2], object),
            "labels of dtype object.*contains 'b' at position 1",
        ),
        (ZEROS, np.array([{"boxes": [1]}] * 3, object), "dtype object.*contains {'boxes'"),
        (ZEROS, np.zeros(3, np.complex64), r"np.stack\(\[labels.real, labels.imag\]"),
        (ZEROS, np.zeros(3, ml_dtypes.bfloat16), r"bfloat16.*labels.astype\(np.float32\) keeps"),
        (ZEROS, np.ma.masked_equal([0, 1, 2], 1), "masked array, whose mask would be lost"),
    ],
)
def test_unusable_arrays_are_rejected_at_construction(images, labels, message):
    with pytest.raises(ValueError, match=message):
        DataModule((images, labels), batch_size=1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.array([["a.jpg"], ["b.jpg"]]),
            "contains .*'a.jpg'.*Read image files in a dataset's __getitem__",
        ),
        (np.array([[Path("a.jpg")], [None]]), r"contains PosixPath\('a.jpg'\).*load_data\("),
        (torch.zeros((2, 3), dtype=torch.bfloat16), r"dtype torch.bfloat16 .*\.float\(\) keeps"),
        (
            torch.zeros((2, 3)).to_sparse(),
            r"sparse_coo, which .*: give its \.to_dense\(\)",
        ),
        (np.array(["2020-01-01", "2020-01-02"], "M8[D]")[:, None], "dtype datetime64"),
        (pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}), "dtype object.*contains 'x'"),
    ],
)
def test_images_that_are_not_numbers_are_rejected_with_a_remedy(images, message):
    with pytest.raises(ValueError, match=message):
        DataModule((images, np.zeros(2, int)), batch_size=1)


def test_a_list_of_classes_is_accepted():
    arrays = DataModule((ZEROS, [2, 0, 1]), batch_size=1).train.arrays()
    assert arrays["label"].tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match=r"labels of dtype object.*contains None at position 0"):
        DataModule((ZEROS, [None, 0, 1]), batch_size=1)
    with pytest.raises(ValueError, match="`train` is a list that cannot be converted to one array"):
        DataModule((ZEROS, [[1], [1, 2], [3]]), batch_size=1)


def test_pandas_frames_and_series_are_accepted():
    frame = pd.DataFrame({"a": [0.5, 1.5], "b": [2.0, 3.0]})
    arrays = DataModule((frame, pd.Series([1, 0])), batch_size=1).train.arrays()
    assert arrays["image"].tolist() == [[0.5, 2.0], [1.5, 3.0]]
    assert arrays["label"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("low", "high", "is_reported"), [(0, 255, True), (0, 1, False), (-9, 200, False)]
)
def test_floats_that_look_like_bytes_cause_a_warning(warnings, low, high, is_reported):
    images = np.linspace(low, high, 4 * 6 * 6, dtype=np.float32).reshape(4, 6, 6, 1)
    ArraySource(images, np.zeros(4, np.int32), argument="train")
    reported = messages(warnings)
    assert bool(reported) == is_reported
    assert all("`train` has floating-point images from 0 to 255" in each for each in reported)


def test_one_changed_bit_changes_the_digest_of_arrays():
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


def test_large_arrays_are_digested_by_evenly_spaced_rows(monkeypatch):
    monkeypatch.setattr(array_source, "_WHOLE_BYTES", 2000)
    images, labels = np.zeros((1000, 5), np.uint8), np.zeros(1000, np.int32)
    first = digest_of((images, labels))
    for changed_row, is_seen in ((0, True), (1, False), (999, True)):
        changed = images.copy()
        changed[changed_row] = 1
        assert (digest_of((changed, labels)) != first) == is_seen
    assert digest_of((images[:-1], labels[:-1])) != first
