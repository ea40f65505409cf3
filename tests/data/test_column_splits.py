"""The columns of splits: names, and which rows are held out."""

from pathlib import Path

import numpy as np
import pytest

from nnx_alexnet.data.column_splits import ArrayRows, array_splits, new_names, statistics
from nnx_alexnet.data.dataset_splits import DatasetRequest


def request(**arguments):
    given = {"name": "npz:x", "root": Path(), "image_size": 8, "seed": 0, "augment": True}
    return DatasetRequest(**given, download=False, **arguments)


def test_columns_are_chosen_and_renamed_by_their_own_names():
    assert new_names("abc", request()) == {"a": "a", "b": "b", "c": "c"}
    chosen = request(columns=("c", "a"), rename={"a": "image"})
    assert new_names("abc", chosen) == {"a": "image", "c": "c"}
    assert new_names("ab", request(rename={"a": "b", "b": "a"})) == {"a": "b", "b": "a"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": ("d",)}, r"`columns` \(='d'\) is unknown"),
        ({"rename": {"d": "x"}}, r"`rename` \(='d'\) is unknown"),
        ({"rename": {"a": "b"}}, "two columns the name 'b'"),
    ],
)
def test_names_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        new_names("abc", request(**arguments))


def test_rows_of_arrays_are_read_one_at_a_time():
    rows = ArrayRows({"x": np.arange(12).reshape(6, 2), "label": np.arange(6)}, np.array([5, 2]))
    assert len(rows) == 2
    assert rows[1]["x"].tolist() == [4, 5]
    assert rows.targets.tolist() == [5, 2]
    assert ArrayRows({"x": np.arange(3)}, np.array([0])).targets is None


def test_a_validation_split_of_the_data_is_used():
    splits = {"train": {"x": np.arange(20)}, "val": {"x": np.arange(3)}}
    found = array_splits(splits, request())
    assert (len(found.train["x"]), len(found.val["x"]), found.test) == (20, 3, None)


def test_images_are_described_by_their_channels():
    images = np.zeros((4, 3, 3, 2), np.uint8)
    images[..., 1] = 255
    assert statistics(images) == ((0.0, 1.0), (1.0, 1.0))
    assert statistics(np.array([1.0, 3.0], np.float32).reshape(2, 1, 1, 1)) == ((2.0,), (1.0,))
    assert statistics(images[0]) == statistics(None) == (None, None)
