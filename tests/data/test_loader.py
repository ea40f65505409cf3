import multiprocessing

import numpy as np
import pytest
import torch
from helpers import tiny_arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from worker_datasets import Noisy, TellsEpoch

from nnx_alexnet.data import DataModule, Loader
from nnx_alexnet.data.iterable_source import IterableSource
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


@given(**SIZES, multiple=st.integers(1, 5))
@settings(deadline=None)
def test_a_measurement_pads_with_the_rows_of_the_batch_itself(num, batch_size, seed, multiple):
    *_, last = array_loader(num, batch_size).batches(seed=seed, multiple=multiple)
    real = num % batch_size or batch_size
    size = -(-batch_size // multiple) * multiple
    assert last["mask"].tolist() == [True] * real + [False] * (size - real)
    assert last["index"].tolist() == [num - real + i % real for i in range(size)]
    dtypes = {key: value.dtype for key, value in last.items()}
    assert dtypes == {"image": np.float32, "label": np.int32, "mask": bool, "index": np.int32}


@given(**SIZES, parts=st.integers(1, 4))
@settings(deadline=None)
def test_without_padding_the_last_batch_is_smaller_and_its_parts_make_it_whole(
    num, batch_size, seed, parts
):
    def part(number):
        def rows(size):
            share, rest = divmod(size, parts)
            return None if rest else slice(number * share, (number + 1) * share)

        return rows

    loader = array_loader(num, batch_size, shuffle=True)
    whole = list(loader.batches(seed=seed))
    assert all(batch["mask"].all() for batch in whole)
    assert [len(batch["index"]) for batch in whole] == [
        min(batch_size, num - first) for first in range(0, num, batch_size)
    ]
    read = [list(loader.batches(seed=seed, part=part(number))) for number in range(parts)]
    for number, batch in enumerate(whole):
        if len(batch["index"]) % parts:  # each process reads all of it
            assert all(same([each[number]], [batch]) for each in read)
        else:
            joined = np.concatenate([each[number]["index"] for each in read])
            np.testing.assert_array_equal(joined, batch["index"])
        assert loader.count(number, read[0][number]) == len(batch["index"])


@given(num=st.integers(1, 40), batch_size=st.integers(1, 12))
def test_what_drop_last_leaves_out_is_counted(num, batch_size):
    assert array_loader(num, batch_size).num_left_out == 0
    if batch_size <= num:
        loader = array_loader(num, batch_size, drop_last=True)
        assert loader.num_left_out == num - batch_size * loader.num_batches


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


def sizes_of(batches):
    return [len(batch["mask"]) for batch in batches]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("sizes", [[4, 4, 3], [3, 8, 5, 1], [16, 8, 8, 16, 5], [1, 1, 40]])
def test_no_batch_of_an_iterable_is_dropped_whatever_its_size(sizes, drop_last):
    loader = Loader(IterableSource(batches_of(sizes)), drop_last=drop_last)
    for _ in range(2):
        batches = list(loader.batches())
        assert sizes_of(batches) == sizes
        seen = np.concatenate([batch["index"] for batch in batches])
        np.testing.assert_array_equal(seen, np.arange(sum(sizes)))
        images = np.concatenate([batch["image"] for batch in batches])
        np.testing.assert_array_equal(images, tiny_arrays(num=sum(sizes))[0])
    assert loader.num_batches == len(sizes)
    assert (loader.indexable, loader.drop_last, loader.num_examples) == (False, False, None)
    assert (loader.batch_size, loader.num_left_out) == (sizes[0], 0)


@pytest.mark.parametrize(("multiple", "padded"), [(1, [4, 4, 7, 4]), (4, [4, 4, 8, 4])])
def test_a_measurement_pads_an_iterable_to_its_first_batch_but_for_larger_ones(multiple, padded):
    sizes = [4, 2, 7, 1]
    batches = list(Loader(IterableSource(batches_of(sizes))).batches(multiple=multiple))
    assert sizes_of(batches) == padded
    assert [batch["mask"].sum() for batch in batches] == sizes
    assert all(batch["mask"][:size].all() for batch, size in zip(batches, sizes, strict=True))
    assert batches[1]["index"].tolist() == [4, 5, 4, 5]


def masked_batches():
    images, labels = tiny_arrays(num=12)
    masks = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    return [
        {"image": images[i : i + 4], "label": labels[i : i + 4], "mask": mask}
        for i, mask in zip(range(0, 12, 4), masks, strict=True)
    ]


def test_rows_that_the_mask_of_an_iterable_leaves_out_are_no_part_of_a_training_batch():
    given_batches = masked_batches()
    loader = Loader(IterableSource(given_batches))
    assert loader.num_batches == 2  # of the second nothing is left
    first, second = loader.batches()
    np.testing.assert_array_equal(first["image"], given_batches[0]["image"][[0, 2, 3]])
    np.testing.assert_array_equal(first["label"], given_batches[0]["label"][[0, 2, 3]])
    assert first["mask"].tolist() == [True] * 3
    assert (first["index"].tolist(), second["index"].tolist()) == ([0, 1, 2], [3, 4, 5, 6])
    assert loader.num_batches == 2


def test_the_mask_of_an_iterable_is_kept_in_a_measurement():
    loader = Loader(IterableSource(masked_batches()))
    masks = [batch["mask"].tolist() for batch in loader.batches(multiple=1)]
    assert masks == [[True, False, True, True], [True] * 4]


def test_batches_without_any_row_are_skipped_and_not_counted():
    images, labels = tiny_arrays(num=8)
    empty = (images[:0], labels[:0])
    batches = [empty, (images[:4], labels[:4]), empty, (images[4:], labels[4:]), empty]
    loader = Loader(IterableSource(batches))
    assert (loader.batch_size, loader.num_batches) == (4, 2)
    for options in ({}, {"multiple": 1}):
        assert sizes_of(loader.batches(**options)) == [4, 4]
    assert loader.num_batches == 2


def test_an_iterable_whose_masks_leave_out_everything_is_an_error():
    (_, batch, _) = masked_batches()
    with pytest.raises(ValueError, match="`train` gave batches, but their masks exclude every"):
        list(Loader(IterableSource([batch]), argument="train").batches())


def test_a_start_in_an_iterable_gives_its_tail():
    loader = Loader(IterableSource(batches_of([4, 4, 3])))
    assert same(loader.batches(start=1), list(loader.batches())[1:])


class Counting(torch.utils.data.IterableDataset):
    """Examples, with whatever length it claims; None claims nothing."""

    def __init__(self, num, claimed=None):
        self.num, self.claimed = num, claimed

    def __iter__(self):
        images, labels = tiny_arrays(num=self.num)
        return zip(images.transpose(0, 3, 1, 2), labels, strict=True)

    def __len__(self):
        if self.claimed is None:
            raise TypeError("it has no length")
        return self.claimed


class NoLength:
    """A batch sampler, which need not know how many batches it makes."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


DATASET = torch.utils.data.TensorDataset(torch.zeros(10, 1, 4, 4), torch.zeros(10).long())
SAMPLER = [[0, 1, 2], [3], [4, 5, 6, 7, 8, 9]]


@pytest.mark.parametrize(
    ("dataset", "options", "known", "num"),
    [
        (DATASET, {"batch_size": 4}, 3, 3),
        (DATASET, {"batch_size": 4, "drop_last": True}, 2, 2),
        (DATASET, {"batch_size": 5}, 2, 2),
        (DATASET, {"batch_size": 64}, 1, 1),
        (DATASET, {"batch_sampler": SAMPLER}, 3, 3),
        (DATASET, {"batch_sampler": NoLength(SAMPLER)}, None, 3),
        (Counting(10), {"batch_size": 4}, None, 3),
        (Counting(10, 10), {"batch_size": 4}, 3, 3),
        (Counting(10, 10), {"batch_size": 4, "drop_last": True}, 2, 2),
        (Counting(10, 30), {"batch_size": 4}, 8, 3),
        (Counting(10, 3), {"batch_size": 4}, 1, 3),
        (Counting(10, 0), {"batch_size": 4}, None, 3),
    ],
)
def test_the_number_of_batches_of_a_torch_loader_is_what_it_gives_once_that_was_counted(
    warnings, dataset, options, known, num
):
    torch_loader = torch.utils.data.DataLoader(dataset, **options)
    loader = Loader(IterableSource(torch_loader, argument="train"), drop_last=True)
    assert loader.num_batches == known
    for _ in range(2):
        assert len(list(loader.batches())) == num == loader.num_batches
    said = [r.getMessage() for r in warnings.records if r.levelname == "WARNING"]
    text = f"`train` gave {num} batches in a pass, not {known} as its length"
    assert [message.startswith(text) for message in said] == [True] * (known not in (num, None))


@pytest.mark.parametrize("shards", [False, True])
def test_workers_that_each_give_the_whole_of_a_dataset_are_reported(warnings, shards):
    class TwoWorkers:
        """What a DataLoader gives that has them, without the processes."""

        dataset, num_workers, batch_size, drop_last = Counting(8, 8), 2, 2, False

        def __iter__(self):
            batches = batches_of([2, 2, 2, 2])
            return iter(batches if shards else [batch for batch in batches for _ in range(2)])

    torch_loader = TwoWorkers()
    loader = Loader(IterableSource(torch_loader, argument="train"))
    for _ in range(2):
        assert sum(len(batch["index"]) for batch in loader.batches()) == (8 if shards else 16)
    said = [r.getMessage() for r in warnings.records if r.levelname == "WARNING"]
    if shards:
        assert said == []
    else:
        first, second = said
        assert first.startswith("The first two batches of `train` are identical")
        assert second.startswith("`train` gave 8 batches in a pass, not 4 as its length")
        assert all("get_worker_info() to select its part" in each for each in said)


def test_the_number_of_batches_of_a_generator_is_unknown_until_it_was_counted():
    generator = (batch for batch in batches_of([4, 2]))
    loader = Loader(IterableSource(generator))
    assert loader.num_batches is None
    assert sizes_of(loader.batches()) == [4, 2]
    assert loader.num_batches == 2


def test_a_length_that_changes_from_pass_to_pass_is_that_of_the_newest_and_is_reported_once(
    warnings,
):
    class Growing:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter(batches_of([2] * self.passes))

        def __len__(self):
            raise RuntimeError("nobody knows")

    loader = Loader(IterableSource(Growing(), argument="train"))
    assert loader.num_batches is None
    for number in (1, 2, 3):
        assert len(list(loader.batches())) == number == loader.num_batches
    said = [r.getMessage() for r in warnings.records if r.levelname == "WARNING"]
    assert len(said) == 1
    assert said[0].startswith(
        "`train` gave 2 batches in a pass, not 1 as its length or the previous"
    )


def test_a_pass_that_was_broken_off_counts_nothing():
    class Batches:
        def __iter__(self):
            return iter(batches_of([2, 2, 2]))

        def __len__(self):
            return 5

    loader = Loader(IterableSource(Batches()))
    batches = loader.batches()
    next(batches)
    batches.close()
    assert loader.num_batches == 5


# ---- Epochs ----------------------------------------------------------------------------------


class Epochs:
    """Notes the epochs that it is told, and gives another order in each."""

    def __init__(self, num=6):
        self.num, self.told = num, []

    def set_epoch(self, epoch):
        self.told.append(epoch)

    def __len__(self):
        return self.num

    def __iter__(self):
        return iter(np.roll(np.arange(self.num), self.told[-1]).tolist())


class Examples(torch.utils.data.Dataset):
    """An example's image is its index; with `set_epoch`, 100 times the epoch more."""

    epoch = 0

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return np.full((2, 2, 1), index + 100 * self.epoch, np.float32), index


class ExamplesOfEpochs(Examples):
    def __init__(self):
        self.told = []

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.told.append(epoch)


def labels_of(loader, epoch):
    return np.concatenate([batch["label"] for batch in loader.batches(epoch=epoch)]).tolist()


def torch_loader_with(where, sampler):
    if where == "sampler":
        return torch.utils.data.DataLoader(Examples(), batch_size=4, sampler=sampler)
    batches = torch.utils.data.BatchSampler(sampler, 4, drop_last=False)
    return torch.utils.data.DataLoader(Examples(), batch_sampler=batches)


@pytest.mark.parametrize("peeks", [False, True])
@pytest.mark.parametrize("where", ["sampler", "sampler of the batch sampler"])
def test_a_sampler_is_told_each_epoch_before_its_pass(where, peeks):
    sampler = Epochs()
    loader = Loader(IterableSource(torch_loader_with(where, sampler)))
    for epoch in (0, 1, 2, 5):
        assert not peeks or loader.batch_size == 4
        assert labels_of(loader, epoch) == np.roll(np.arange(6), epoch).tolist()
    assert sampler.told == [0, 1, 2, 5]


def test_a_run_that_is_resumed_does_not_begin_with_the_batch_of_another_epoch():
    sampler = Epochs()
    loader = Loader(IterableSource(torch_loader_with("sampler", sampler)))
    assert loader.batch_size == 4  # looks at the first batch, of epoch 0
    assert labels_of(loader, 3) == [3, 4, 5, 0, 1, 2]
    assert sampler.told == [0, 3]


def test_a_batch_sampler_a_dataset_and_the_iterable_itself_are_told_as_well():
    class BatchSampler(Epochs):
        def __iter__(self):
            return iter([[self.told[-1], 0], [1]])

    sampler = BatchSampler()
    loader = Loader(IterableSource(torch.utils.data.DataLoader(Examples(), batch_sampler=sampler)))
    assert [labels_of(loader, epoch) for epoch in (4, 5)] == [[4, 0, 1], [5, 0, 1]]

    class Stream(torch.utils.data.IterableDataset, ExamplesOfEpochs):
        def __iter__(self):
            return (self[index] for index in range(6))

    inner = Stream()
    loader = Loader(IterableSource(torch.utils.data.DataLoader(inner, batch_size=4)))
    for epoch in (0, 2):
        assert {int(b["image"][0, 0, 0, 0]) for b in loader.batches(epoch=epoch)} == {
            100 * epoch, 100 * epoch + 4
        }  # fmt: skip

    class Batches(Epochs):
        def __iter__(self):
            return iter(batches_of([4 + self.told[-1]]))

    assert [sizes_of(Loader(IterableSource(Batches())).batches(epoch=e)) for e in (0, 3)] == [
        [4], [7]
    ]  # fmt: skip


def test_an_iterable_that_knows_no_epochs_is_not_opened_again_after_a_look():
    class Shared:
        """Each pass goes on with one stream, so that a batch that is thrown away is lost."""

        def __init__(self):
            self.stream = iter(batches_of([2, 2, 2]))

        def __iter__(self):
            return iter(list(self.stream))

    loader = Loader(IterableSource(Shared()))
    assert loader.batch_size == 2
    assert [b["index"].tolist() for b in loader.batches(epoch=7)] == [[0, 1], [2, 3], [4, 5]]


def test_persistent_workers_whose_dataset_wants_the_epoch_are_reported(warnings):
    class Loading:
        dataset, persistent_workers = ExamplesOfEpochs(), True

        def __iter__(self):
            return iter(batches_of([4]))

    list(Loader(IterableSource(Loading(), argument="train")).batches())
    (said,) = [r.getMessage() for r in warnings.records if r.levelname == "WARNING"]
    assert "`train` persist across epochs" in said


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_example_that_cannot_be_read_is_left_out_of_a_measurement_and_of_no_prediction(
    num_workers,
):
    source = MapSource(Noisy(damaged=9), on_bad_sample="skip", argument="test")
    loader = Loader(source, batch_size=8, argument="test", num_workers=num_workers)
    try:
        counted = np.concatenate([b["index"][b["mask"]] for b in loader.batches(multiple=1)])
        assert sorted(counted.tolist()) == [i for i in range(30) if i != 9]
        batches = loader.batches(multiple=1, skips=False)
        assert next(batches)["mask"].all()
        with pytest.raises(ValueError, match=r"`test`\[9\] cannot be read: KeyError.*one row per"):
            next(batches)
    finally:
        loader.close()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_map_style_dataset_is_told_the_epoch_wherever_it_is_read(num_workers):
    loader = Loader(MapSource(TellsEpoch()), batch_size=4, num_workers=num_workers)
    try:
        for epoch in (0, 2, 1):
            values = [b["image"][:, 0, 0, 0].tolist() for b in loader.batches(epoch=epoch)]
            assert values == [[10.0 * epoch + i for i in r] for r in (range(4), range(4, 6))]
    finally:
        loader.close()


def test_two_splits_that_share_a_dataset_each_read_it_at_their_own_epoch():
    dataset = ExamplesOfEpochs()
    train, val = (Loader(MapSource(dataset), batch_size=6) for _ in range(2))
    values = []
    for epoch in (0, 1, 2):
        for loader, own in ((train, epoch), (val, 0)):
            (batch,) = loader.batches(epoch=own)
            values.append(int(batch["image"][0, 0, 0, 0]))
    assert values == [0, 0, 100, 0, 200, 0]


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
        processes = multiprocessing.active_children()
        assert len(processes) == 2
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
        example, place = caught.value.__notes__
        assert example == "Raised while `data`[9] was read."
        assert "worker_datasets.py" in place
        assert next(loader.batches(start=3))["index"].tolist() == [12, 13, 14, 15]
    finally:
        loader.close()


def test_a_dataset_that_cannot_be_sent_to_workers_says_so():
    dataset = Noisy()
    dataset.transform = lambda image: image
    loader = Loader(MapSource(dataset), batch_size=4, num_workers=1)
    with pytest.raises(ValueError, match=r"sent to workers: .*lambda.* or num_workers=0"):
        next(loader.batches())
