import numpy as np
import pytest
from data_helpers import array_loader, same
from hypothesis import given, settings
from hypothesis import strategies as st

from nnx_alexnet.data import Loader
from nnx_alexnet.data.sources import MapSource

SIZES = {"num": st.integers(1, 40), "batch_size": st.integers(1, 12), "seed": st.integers(0, 2**31)}


@given(**SIZES, epoch=st.integers(0, 5))
@settings(deadline=None)
def test_each_example_occurs_once_per_epoch(num, batch_size, seed, epoch):
    loader = array_loader(num, batch_size, shuffle=True)
    batches = list(loader.batches(seed=seed, epoch=epoch))
    seen = np.concatenate([batch["index"][batch["mask"]] for batch in batches])
    assert sorted(seen.tolist()) == list(range(num))
    assert len(batches) == loader.num_batches
    for batch in batches:
        np.testing.assert_array_equal(batch["image"][:, 0], batch["index"])
        np.testing.assert_array_equal(batch["label"], batch["index"])


@given(num=st.integers(1, 40), batch_size=st.integers(1, 12))
def test_examples_left_out_by_drop_last_are_counted(num, batch_size):
    assert array_loader(num, batch_size).num_left_out == 0
    if batch_size <= num:
        loader = array_loader(num, batch_size, drop_last=True)
        assert loader.num_left_out == num - batch_size * loader.num_batches


@given(**SIZES, start=st.integers(0, 6))
@settings(deadline=None)
def test_start_yields_the_tail_of_the_epoch(num, batch_size, seed, start):
    loader = array_loader(num, batch_size, shuffle=True)
    whole = list(loader.batches(seed=seed, epoch=1))
    assert same(loader.batches(seed=seed, epoch=1, start=start), whole[start:])


@given(num=st.integers(1, 40), batch_size=st.integers(1, 12))
@settings(deadline=None)
def test_drop_last_leaves_only_full_batches(num, batch_size):
    if batch_size > num:
        with pytest.raises(ValueError, match=rf"`batch_size` \(={batch_size}\) is larger"):
            array_loader(num, batch_size, drop_last=True)
        return
    loader = array_loader(num, batch_size, shuffle=True, drop_last=True)
    batches = list(loader.batches())
    assert len(batches) == loader.num_batches == num // batch_size
    assert all(batch["mask"].all() for batch in batches)


def test_the_order_is_a_function_of_seed_and_epoch():
    def indices(**key):
        return [b["index"].tolist() for b in array_loader(50, 10, shuffle=True).batches(**key)]

    assert indices(seed=1, epoch=2) == indices(seed=1, epoch=2)
    orders = [indices(seed=s, epoch=e) for s in range(3) for e in range(3)]
    assert all(orders.count(order) == 1 for order in orders)


def test_the_order_is_the_same_in_every_version():
    (batch,) = array_loader(8, 8, shuffle=True).batches(seed=0, epoch=0)
    assert batch["index"].tolist() == [3, 6, 4, 0, 7, 5, 2, 1]


def test_an_unshuffled_split_is_in_order_in_each_epoch():
    loader = array_loader(10, 5)
    assert [b["index"].tolist() for b in loader.batches(epoch=3)] == [[*range(5)], [*range(5, 10)]]


def test_start_reads_no_skipped_example():
    reads = []

    class Recording:
        def __len__(self):
            return 12

        def __getitem__(self, index):
            reads.append(index)
            return np.zeros((2, 2, 1)), index

    loader = Loader(MapSource(Recording()), batch_size=4)
    reads.clear()
    list(loader.batches(start=2))
    assert reads == [8, 9, 10, 11]
