import numpy as np
import pytest
from data_helpers import dataset_with
from sklearn.model_selection import StratifiedKFold

from nnx_alexnet import DataModule


def module(num=30, **options):
    images = np.arange(num, dtype=np.float32)[:, None]
    return DataModule((images, np.arange(num) % 3), batch_size=5, **options)


def rows(loader):
    return sorted(int(row) for batch in loader.in_order().batches() for row in batch["image"][:, 0])


def test_folds_hold_out_each_example_once_as_scikit_learn_does():
    images = np.zeros((30, 1))
    splitter = StratifiedKFold(5, shuffle=True, random_state=7)
    expected = list(splitter.split(images, np.arange(30) % 3))
    found = list(module().folds(5, seed=7))
    assert [rows(fold.val) for fold in found] == [sorted(held.tolist()) for _, held in expected]
    assert [rows(fold.train) for fold in found] == [sorted(rest.tolist()) for rest, _ in expected]


def test_each_fold_has_equal_shares_of_the_classes():
    for fold in module().folds(5):
        assert np.bincount(fold.val.labels()).tolist() == [2, 2, 2]
        assert np.bincount(fold.train.labels()).tolist() == [8, 8, 8]


def test_folds_keep_the_test_split_and_the_order_of_training():
    images = np.arange(6, dtype=np.float32)[:, None]
    data = module(test=(images, np.zeros(6, np.int32)))
    fold = next(data.folds(2))
    assert fold.test is data.test
    orders = [np.concatenate([b["index"] for b in fold.train.batches(epoch=e)]) for e in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(15))
    assert orders[0].tolist() != orders[1].tolist()


def test_folds_of_a_map_style_dataset_read_its_own_examples():
    classes = [index % 5 for index in range(20)]
    dataset = dataset_with(
        lambda index: (np.full((2, 2, 1), index), index % 5), 20, targets=classes
    )
    data = DataModule(dataset, batch_size=4)
    held = []
    for fold in data.folds(4):
        images = [batch["image"] for batch in fold.val.batches()]
        found = np.concatenate(images)[:, 0, 0, 0].tolist()
        assert fold.val.labels().tolist() == [value % 5 for value in found]
        held += found
    assert sorted(held) == list(range(20))


@pytest.mark.parametrize(
    ("num", "message"), [(1, "must be an integer of at least 2"), (31, "at most the number of")]
)
def test_folds_refuse_an_impossible_number(num, message):
    with pytest.raises(ValueError, match=message):
        module().folds(num)


def test_folds_refuse_an_iterable():
    data = DataModule(iter_of_batches())
    with pytest.raises(ValueError, match="cannot be divided into folds"):
        data.folds(2)


def iter_of_batches():
    class Batches:
        def __iter__(self):
            yield np.zeros((4, 2), np.float32), np.zeros(4, np.int32)

    return Batches()
