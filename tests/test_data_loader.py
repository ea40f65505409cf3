import numpy as np
import pytest
import torch
from helpers import tiny_arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from worker_datasets import Noisy

from nnx_alexnet.data import DataModule, Loader
from nnx_alexnet.data.iterable import IterableSource
from nnx_alexnet.data.sources import ArraySource, MapSource

SIZES = {"num": st.integers(1, 40), "batch_size": st.integers(1, 12), "seed": st.integers(0, 2**31)}


def array_loader(num, batch_size, **options):
    images = np.arange(num, dtype=np.float32)[:, None]
    return Loader(ArraySource(images, np.arange(num)), batch_size=batch_size, **options)


def same(first, second):
    first, second = list(first), list(second)
    return len(first) == len(second) and all(
        x.keys() == y.keys() and all(np.array_equal(x[key], y[key]) for key in x)
        for x, y in zip(first, second, strict=True)
    )


@given(**SIZES, epoch=st.integers(0, 5))
@settings(deadline=None)
def test_each_example_comes_exactly_once_an_epoch(num, batch_size, seed, epoch):
    loader = array_loader(num, batch_size, shuffle=True)
    batches = list(loader.batches(seed=seed, epoch=epoch))
    seen = np.concatenate([batch["index"][batch["mask"]] for batch in batches])
    assert sorted(seen.tolist()) == list(range(num))
    assert len(batches) == loader.num_batches
    for batch in batches:
        np.testing.assert_array_equal(batch["image"][:, 0], batch["index"])
        np.testing.assert_array_equal(batch["label"], batch["index"])


@given(**SIZES)
@settings(deadline=None)
def test_the_last_batch_is_padded_with_its_own_rows_and_masked(num, batch_size, seed):
    *_, last = array_loader(num, batch_size).batches(seed=seed)
    real = num % batch_size or batch_size
    assert last["mask"].tolist() == [True] * real + [False] * (batch_size - real)
    assert last["index"].tolist() == [num - real + i % real for i in range(batch_size)]
    dtypes = {key: value.dtype for key, value in last.items()}
    assert dtypes == {"image": np.float32, "label": np.int32, "mask": bool, "index": np.int32}


@given(**SIZES, start=st.integers(0, 6))
@settings(deadline=None)
def test_a_start_gives_the_tail_of_the_epoch(num, batch_size, seed, start):
    loader = array_loader(num, batch_size, shuffle=True)
    whole = list(loader.batches(seed=seed, epoch=1))
    assert same(loader.batches(seed=seed, epoch=1, start=start), whole[start:])


@given(num=st.integers(1, 40), batch_size=st.integers(1, 12))
@settings(deadline=None)
def test_dropping_the_last_batch_leaves_full_ones_only(num, batch_size):
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


def test_the_order_never_changes_between_versions():
    (batch,) = array_loader(8, 8, shuffle=True).batches(seed=0, epoch=0)
    assert batch["index"].tolist() == [3, 6, 4, 0, 7, 5, 2, 1]


def test_an_unshuffled_split_is_in_order_in_each_epoch():
    loader = array_loader(10, 5)
    assert [b["index"].tolist() for b in loader.batches(epoch=3)] == [[*range(5)], [*range(5, 10)]]


@pytest.mark.parametrize("argument", ["epoch", "seed", "start"])
def test_a_negative_argument_is_an_error(argument):
    with pytest.raises(ValueError, match=rf"`{argument}` \(=-1\)"):
        array_loader(4, 2).batches(**{argument: -1})


@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_a_batch_size_that_is_no_positive_integer_is_an_error(value):
    with pytest.raises(ValueError, match="`batch_size`"):
        DataModule(tiny_arrays(), batch_size=value)


def test_a_start_reads_no_skipped_example():
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


def batches_of(sizes):
    images, labels = tiny_arrays(num=sum(sizes))
    cuts = np.cumsum(sizes)[:-1]
    return list(zip(np.split(images, cuts), np.split(labels, cuts), strict=True))


def test_ragged_batches_of_an_iterable_are_padded_or_dropped():
    source = IterableSource(batches_of([4, 4, 3]))
    padded = list(Loader(source).batches())
    assert [batch["mask"].sum() for batch in padded] == [4, 4, 3]
    assert padded[2]["index"].tolist() == [8, 9, 10, 8]
    dropping = Loader(source, drop_last=True)
    assert len(list(dropping.batches())) == dropping.num_batches == 2
    assert not dropping.indexable
    assert (dropping.batch_size, dropping.num_examples) == (4, None)


def test_the_mask_of_an_iterable_is_kept():
    images, labels = tiny_arrays(num=4)
    mask = np.array([1, 0, 1, 1])
    batches = [{"image": images, "label": labels, "mask": mask}]
    (batch,) = Loader(IterableSource(batches)).batches()
    assert batch["mask"].tolist() == [True, False, True, True]


def test_a_start_in_an_iterable_gives_its_tail():
    loader = Loader(IterableSource(batches_of([4, 4, 3])))
    assert same(loader.batches(start=1), list(loader.batches())[1:])


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("torch_drops", [False, True])
def test_the_number_of_batches_of_a_torch_loader_is_exact(drop_last, torch_drops):
    dataset = torch.utils.data.TensorDataset(torch.zeros(10, 1, 4, 4), torch.zeros(10).long())
    torch_loader = torch.utils.data.DataLoader(dataset, batch_size=4, drop_last=torch_drops)
    loader = Loader(IterableSource(torch_loader), drop_last=drop_last)
    assert loader.num_batches == len(list(loader.batches()))


def test_the_number_of_batches_of_a_generator_is_unknown():
    generator = (batch for batch in batches_of([4]))
    assert Loader(IterableSource(generator)).num_batches is None


def test_workers_give_the_same_bytes_also_after_a_break_and_end_with_close():
    own = Loader(MapSource(Noisy()), batch_size=4, shuffle=True)
    loader = Loader(MapSource(Noisy()), batch_size=4, shuffle=True, num_workers=2)
    try:
        assert same(loader.batches(seed=1), own.batches(seed=1))
        abandoned = loader.batches(seed=1, epoch=1)
        next(abandoned)
        assert same(loader.batches(seed=1, epoch=2, start=3), own.batches(seed=1, epoch=2, start=3))
        with pytest.raises(RuntimeError, match="ended by a later one"):
            next(abandoned)
        processes = list(loader._workers._iterator._workers)
        assert all(process.is_alive() for process in processes)
    finally:
        loader.close()
    assert not any(process.is_alive() for process in processes)


def test_an_error_in_a_worker_arrives_as_it_was_raised():
    loader = Loader(MapSource(Noisy(damaged=9)), batch_size=4, num_workers=1)
    try:
        batches = loader.batches()
        assert next(batches)["index"].tolist() == [0, 1, 2, 3]
        next(batches)
        with pytest.raises(KeyError) as caught:
            next(batches)
        assert caught.value.args == ("example 9 is damaged",)
        assert "worker_datasets.py" in caught.value.__notes__[0]
        assert next(loader.batches(start=3))["index"].tolist() == [12, 13, 14, 15]
    finally:
        loader.close()


def test_a_dataset_that_cannot_be_sent_to_workers_says_so():
    dataset = Noisy()
    dataset.transform = lambda image: image
    loader = Loader(MapSource(dataset), batch_size=4, num_workers=1)
    with pytest.raises(ValueError, match=r"sent to workers: .*lambda.* or num_workers=0"):
        next(loader.batches())
