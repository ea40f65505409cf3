"""Tests that a dict of validation sets is distinguished from a single validation split."""

import numpy as np
import pandas
import pytest
from data_helpers import Examples
from helpers import tiny_arrays

from nnx_alexnet.data import DataModule
from nnx_alexnet.data.limited import limited_data
from nnx_alexnet.data.validation_sets import validation_sets

X, Y = tiny_arrays(num=8)
PAIR = (X, Y)
DICT = {"image": X, "label": Y}


def unused():
    raise AssertionError("the fields of train were not needed")


@pytest.mark.parametrize(
    "second", [Examples(lambda index: (X[index], Y[index])), iter([PAIR]), Examples(dict)]
)
def test_a_dict_with_a_dataset_or_an_iterable_contains_sets(second):
    found = validation_sets({"clean": PAIR, "shifted": second}, unused)
    assert [*found] == ["val/clean", "val/shifted"]
    assert found["val/shifted"] is second


@pytest.mark.parametrize("val", [DICT, {"tokens": [[1, 2], [3, 4]]}, PAIR, [DICT], X])
def test_a_dict_with_an_array_is_one_split_as_other_forms_are(val):
    assert validation_sets(val, unused) == {"val": val}
    assert validation_sets(None, unused) == {}


@pytest.mark.parametrize("value", [PAIR, DICT, [DICT, DICT], pandas.DataFrame({"x": [1.0]})])
def test_the_fields_of_train_decide_where_each_value_may_be_a_split(value):
    val = {"one": value, "two": value}
    assert [*validation_sets(val, lambda: ["image", "label"])] == ["val/one", "val/two"]
    assert validation_sets(val, lambda: ["one", "two", "three"]) == {"val": val}
    with pytest.raises(ValueError, match="may be one split or several sets: its key 'one'"):
        validation_sets(val, lambda: ["one", "label"])


def test_arrays_beside_datasets_are_refused():
    with pytest.raises(ValueError, match="'shifted' is a Examples, and 'clean' is an array"):
        validation_sets({"clean": X, "shifted": Examples(dict)}, unused)


@pytest.mark.parametrize("name", ["a/b", "", "two words", 3, "-x"])
def test_a_name_that_cannot_be_part_of_a_metric_is_refused(name):
    with pytest.raises(ValueError, match="a set with the name"):
        validation_sets({name: PAIR}, lambda: ())


def test_data_with_sets_describe_and_check_each_of_them():
    val = {"clean": tiny_arrays(num=8), "shifted": tiny_arrays(num=6, seed=1)}
    data = DataModule(tiny_arrays(num=8), val, batch_size=2)
    assert data.val is data.val_sets["val/clean"]
    assert data.describe()["examples"] == {"train": 8, "val/clean": 8, "val/shifted": 6}
    digests = data.sample_digests()
    assert [*digests] == ["train", "val/clean", "val/shifted"]
    assert len({*digests.values()}) == 2, "train and clean have the same examples"
    assert "val/shifted: 6 examples" in repr(data)
    limited = limited_data(data, limit_batches={"val": 2})
    assert [loader.num_batches for loader in limited.val_sets.values()] == [2, 2]
    overfit = limited_data(data, overfit_batches=1)
    assert overfit.val_sets == dict.fromkeys(["val/clean", "val/shifted"], overfit.train)
    assert [*next(data.folds(2)).val_sets] == ["val"]
    with pytest.raises(ValueError, match=r"`val/shifted` has `image` uint8\[9, 9, 1\]"):
        DataModule(PAIR, {"clean": PAIR, "shifted": tiny_arrays(size=9)}, batch_size=2)
    nested = {"views": (X, X), "label": (Y, Y)}
    assert [*DataModule(nested, nested, batch_size=2).val_sets] == ["val"]
    iterator = iter([PAIR])
    with pytest.raises(ValueError, match="`val/a` and `val/b` are the same"):
        DataModule(PAIR, {"a": iterator, "b": iterator}, batch_size=2)


def test_the_fields_of_an_iterable_train_split_are_those_of_its_first_batch():
    data = DataModule(iter([PAIR]), {"clean": PAIR})
    assert [*data.val_sets] == ["val/clean"]
    np.testing.assert_array_equal(next(data.train.batches())["image"], X)
