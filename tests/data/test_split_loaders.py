import numpy as np
import pytest

from nnx_alexnet.data.padding import Padding
from nnx_alexnet.data.split_loaders import split_loaders


def split_of(num):
    return np.arange(num, dtype=np.float32)[:, None], np.zeros(num, np.int32)


def loaders_of(train, val=None, test=None, **arguments):
    given = {
        "names": ("image", "label"), "padding": Padding(), "batch_size": 4, "drop_last": True,
        "num_workers": 0, "on_bad_sample": "raise", "place": None,
    }  # fmt: skip
    return split_loaders(train, val, test, **{**given, **arguments})


def test_only_train_is_shuffled_and_loses_an_incomplete_batch():
    loaders = loaders_of(split_of(10), split_of(10), split_of(6))
    assert {name: loader.num_batches for name, loader in loaders.items()} == {
        "train": 2, "val": 3, "test": 2,
    }  # fmt: skip
    orders = [
        np.concatenate([batch["image"][:, 0] for batch in loader.batches(epoch=1)]).tolist()
        for loader in loaders.values()
    ]
    assert orders[1:] == [[*range(10)], [*range(6)]]
    assert orders[0] != sorted(orders[0])
    assert len(set(orders[0])) == 8


def test_several_validation_sets_are_between_train_and_test():
    sets = {"clean": split_of(4), "shifted": split_of(5)}
    loaders = loaders_of(split_of(8), sets, split_of(3), drop_last=False)
    assert [*loaders] == ["train", "val/clean", "val/shifted", "test"]
    assert [loader.argument for loader in loaders.values()] == [*loaders]
    assert [loader.num_examples for loader in loaders.values()] == [8, 4, 5, 3]


def test_one_iterator_cannot_be_two_splits():
    batches = iter([split_of(4)])
    with pytest.raises(ValueError, match="`train` and `val` are the same list_iterator"):
        loaders_of(batches, batches)


def test_arrays_have_no_cache(tmp_path):
    with pytest.raises(ValueError, match="`cache` is for map-style datasets"):
        loaders_of(split_of(8), place=tmp_path)
    assert [*tmp_path.iterdir()] == []
