import threading

import numpy as np
import pytest
import torch
from data_helpers import (
    Epochs,
    ExamplesOfEpochs,
    batches_of,
    labels_of,
    messages,
    sizes_of,
    torch_loader_with,
)
from helpers import tiny_arrays
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from nnx_alexnet.data import DataModule, Loader
from nnx_alexnet.data.sources import IterableSource, as_source


def test_a_generator_of_single_examples_is_rejected_with_a_remedy():
    with pytest.raises(ValueError, match=r"`train` has a `label` of shape \(\).*DataLoader"):
        _ = DataModule((x, y) for x, y in zip(*tiny_arrays(num=8), strict=True)).batch_size


def test_two_threads_each_get_all_batches_of_an_iterable():
    batches = [tiny_arrays(num=2) for _ in range(50)]
    source = IterableSource(batches)
    assert source.batch_size == 2  # a pass is open, which only one of them may take
    barrier, counts = threading.Barrier(2), []

    def read():
        barrier.wait()
        counts.append(len(list(source.batches())))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [50, 50]


def test_nchw_batches_are_transposed_and_reported_once(warnings):
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
    loader = DataLoader(TensorDataset(images, torch.tensor([1.0, 2.0])), batch_size=1)
    warnings.set_level("INFO", logger="nnx_alexnet")
    rows = list(IterableSource(loader, argument="train").batches())
    assert [record.getMessage() for record in warnings.records] == [
        "`image`: torch images [1, 3, 4, 5] are NCHW, transposed to NHWC."
    ]
    got = np.concatenate([row.fields["image"] for row in rows])
    np.testing.assert_array_equal(got, images.numpy().transpose(0, 2, 3, 1))
    assert type(rows[0].fields["label"]) is np.ndarray


def test_an_exhausted_generator_is_rejected_with_a_remedy():
    images, labels = tiny_arrays(num=4)
    source = IterableSource(((images, labels) for _ in range(2)), argument="train")
    assert source.batch_size == 4
    assert len(list(source.batches())) == 2  # looking at the first batch did not lose it
    with pytest.raises(
        ValueError, match=r"a generator.*Pass a list of batches, a torch DataLoader"
    ):
        list(source.batches())


def test_an_iterable_whose_second_pass_is_empty_is_rejected():
    class Once:
        def __init__(self):
            self.batches = iter([tiny_arrays(num=4)])

        def __iter__(self):
            return iter(list(self.batches))

    source = IterableSource(Once())
    assert len(list(source.batches())) == 1
    with pytest.raises(ValueError, match="has none left for another pass"):
        list(source.batches())


def test_an_empty_iterable_is_rejected():
    with pytest.raises(ValueError, match="`val` is empty"):
        IterableSource([], argument="val").element_spec()


def test_batches_that_differ_from_the_first_are_rejected():
    images, labels = tiny_arrays(num=4)
    good, other = (images, labels), (images.astype(np.float32), labels)
    with pytest.raises(
        ValueError,
        match=r"Batch 1 .*`image` is float32\[8, 8, 1\] instead of uint8\[8, 8, 1\].*Only the num",
    ):
        list(IterableSource([good, other]).batches())

    class Changes:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter([good if self.passes == 1 else other])

    source = IterableSource(Changes())
    assert len(list(source.batches())) == 1
    with pytest.raises(ValueError, match=r"Batch 0 .*Only the number of examples may differ"):
        list(source.batches())


def test_an_iterable_of_single_examples_needs_a_torch_loader():
    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.zeros(1, 4, 4), 3

        def __len__(self):
            return 1

    with pytest.raises(ValueError, match=r"single examples, pass torch\.utils\.data\.DataLoader"):
        as_source(Stream(), argument="train")
    assert as_source(DataLoader(Stream(), batch_size=1), argument="train").batch_size == 1


@pytest.mark.parametrize("form", ["list", "loader", "shuffled"])
def test_lists_and_data_loaders_have_digests_of_their_examples(form):
    def digest(images):
        labels = np.zeros(64, np.int32)
        if form == "list":
            batches = [(images[i : i + 16], labels[i : i + 16]) for i in range(0, 64, 16)]
            return DataModule(batches).train.sample_digest()
        dataset = torch.utils.data.TensorDataset(torch.tensor(images), torch.tensor(labels))
        loader = torch.utils.data.DataLoader(dataset, batch_size=16, shuffle=form == "shuffled")
        return DataModule(loader).train.sample_digest()

    images = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    assert digest(images) is not None
    assert digest(images) == digest(images.copy())
    assert digest(images) != digest(images + 1)


def test_streams_have_no_digest():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([(torch.zeros(4), 0)] * 8)

    raw = ["0", "1"] * 4  # no arrays before they are collated

    def collate(examples):
        return np.zeros((len(examples), 4)), np.array(list(map(int, examples)), np.int32)

    for loader in (
        torch.utils.data.DataLoader(Stream(), batch_size=4),
        torch.utils.data.DataLoader(raw, batch_size=4, collate_fn=collate),
    ):
        assert DataModule(loader).train.sample_digest() is None


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
def test_a_counted_pass_replaces_the_announced_length(warnings, dataset, options, known, num):
    torch_loader = torch.utils.data.DataLoader(dataset, **options)
    loader = Loader(IterableSource(torch_loader, argument="train"), drop_last=True)
    assert loader.num_batches == known
    for _ in range(2):
        assert len(list(loader.batches())) == num == loader.num_batches
    reported = messages(warnings)
    text = f"`train` yielded {num} batches in a pass, not {known} as its length"
    assert [message.startswith(text) for message in reported] == [True] * (known not in (num, None))


@pytest.mark.parametrize("shards", [False, True])
def test_workers_that_repeat_the_dataset_cause_warnings(warnings, shards):
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
    reported = messages(warnings)
    if shards:
        assert reported == []
    else:
        first, second = reported
        assert first.startswith("The first two batches of `train` are identical")
        assert second.startswith("`train` yielded 8 batches in a pass, not 4 as its length")
        assert all("get_worker_info() to select its part" in each for each in reported)


def test_a_generator_has_no_length_until_it_was_counted():
    generator = (batch for batch in batches_of([4, 2]))
    loader = Loader(IterableSource(generator))
    assert loader.num_batches is None
    assert sizes_of(loader.batches()) == [4, 2]
    assert loader.num_batches == 2


def test_a_changing_length_is_reported_once(
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
    reported = messages(warnings)
    assert len(reported) == 1
    assert reported[0].startswith(
        "`train` yielded 2 batches in a pass, not 1 as its length or the previous"
    )


def test_an_interrupted_pass_counts_nothing():
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


def test_a_resumed_run_starts_with_a_batch_of_its_epoch():
    sampler = Epochs()
    loader = Loader(IterableSource(torch_loader_with("sampler", sampler)))
    assert loader.batch_size == 4  # looks at the first batch, of epoch 0
    assert labels_of(loader, 3) == [3, 4, 5, 0, 1, 2]
    assert sampler.told == [0, 3]


def test_an_iterable_without_epochs_is_opened_once_per_pass():
    class Shared:
        """Each pass goes on with one stream, so that a batch that is thrown away is lost."""

        def __init__(self):
            self.stream = iter(batches_of([2, 2, 2]))

        def __iter__(self):
            return iter(list(self.stream))

    loader = Loader(IterableSource(Shared()))
    assert loader.batch_size == 2
    assert [b["index"].tolist() for b in loader.batches(epoch=7)] == [[0, 1], [2, 3], [4, 5]]


def test_persistent_workers_that_hide_epochs_cause_a_warning(warnings):
    class Loading:
        dataset, persistent_workers = ExamplesOfEpochs(), True

        def __iter__(self):
            return iter(batches_of([4]))

    list(Loader(IterableSource(Loading(), argument="train")).batches())
    (reported,) = messages(warnings)
    assert "`train` persist across epochs" in reported
