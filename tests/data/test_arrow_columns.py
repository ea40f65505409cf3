"""Columns of Arrow tables as arrays."""

import numpy as np
import pytest

from nnx_alexnet.data.arrow_columns import column_values

pyarrow = pytest.importorskip("pyarrow")


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int64", "float16", "float32"])
def test_numbers_keep_their_dtype(dtype):
    values = np.array([0, 1, 1], dtype)
    found = column_values(pyarrow.array(values), "x")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)


def test_nested_lists_of_one_length_become_axes():
    values = np.arange(24, dtype=np.int16).reshape(4, 2, 3)
    kind = pyarrow.list_(pyarrow.large_list(pyarrow.int16()))
    found = column_values(pyarrow.array(values.tolist(), kind), "x")
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, values)


def test_lists_of_a_fixed_size_become_an_axis():
    column = pyarrow.array([[1, 2], [3, 4]], pyarrow.list_(pyarrow.int8(), 2))
    assert column_values(column, "x").tolist() == [[1, 2], [3, 4]]


def test_rows_in_the_middle_of_a_column_are_read():
    column = pyarrow.chunked_array([[[1, 2], [3, 4]], [[5, 6]]])
    assert column_values(column.slice(1, 2), "x").tolist() == [[3, 4], [5, 6]]


def test_structs_become_dicts():
    found = column_values(pyarrow.array([{"a": 1, "b": [2.0]}, {"a": 3, "b": [4.0]}]), "x")
    assert {name: value.tolist() for name, value in found.items()} == {
        "a": [1, 3], "b": [[2.0], [4.0]],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, None], "x has 1 missing values"),
        ([[1, None], [2, 3]], "x has 1 missing values"),
        ([[1], [2, 3, 4]], "x has lists of 1 and of 3 values; pad them with `pad_to`"),
        (["a", "b"], "x contains string, which are not numbers"),
        ([[{"a": 1}], [{"a": 2}]], "x has lists of structs"),
    ],
)
def test_columns_that_are_no_arrays_are_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        column_values(pyarrow.array(values), "x")
