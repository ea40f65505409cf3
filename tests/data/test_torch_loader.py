import multiprocessing

import numpy as np
import pytest
import torch
from data_helpers import (
    Epochs,
    ExamplesOfEpochs,
    IndexedExamples,
    batches_of,
    labels_of,
    sizes_of,
    torch_loader_with,
)
from worker_datasets import Stripes

from nnx_alexnet.data import Loader, torch_loader
from nnx_alexnet.data.sources import IterableSource
from nnx_alexnet.data.torch_loader import (
    announced_length,
    check_torch_workers,
    map_dataset_of,
)


@pytest.mark.parametrize("peeks", [False, True])
@pytest.mark.parametrize("where", ["sampler", "sampler of the batch sampler"])
def test_set_epoch_reaches_the_sampler_before_each_pass(where, peeks):
    sampler = Epochs()
    loader = Loader(IterableSource(torch_loader_with(where, sampler)))
    for epoch in (0, 1, 2, 5):
        assert not peeks or loader.batch_size == 4
        assert labels_of(loader, epoch) == np.roll(np.arange(6), epoch).tolist()
    assert sampler.told == [0, 1, 2, 5]


def test_set_epoch_reaches_batch_samplers_datasets_and_iterables():
    class BatchSampler(Epochs):
        def __iter__(self):
            return iter([[self.told[-1], 0], [1]])

    sampler = BatchSampler()
    loader = Loader(
        IterableSource(torch.utils.data.DataLoader(IndexedExamples(), batch_sampler=sampler))
    )
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


@pytest.mark.parametrize(
    ("method", "num_workers", "is_rejected"),
    [
        ("spawn", 2, True), ("forkserver", 1, True), ("fork", 2, False), ("spawn", 0, False),
    ],
)  # fmt: skip
def test_loaders_whose_workers_import_the_script_are_checked(
    monkeypatch, method, num_workers, is_rejected
):
    context = multiprocessing.get_context(method) if num_workers else None
    loader = torch.utils.data.DataLoader(
        Stripes(), num_workers=num_workers, multiprocessing_context=context
    )
    monkeypatch.setattr(
        torch_loader, "check_main_guard", lambda num: pytest.fail("checked", pytrace=False)
    )
    if is_rejected:
        with pytest.raises(pytest.fail.Exception, match="checked"):
            check_torch_workers(loader)
        with pytest.raises(pytest.fail.Exception, match="checked"):
            IterableSource(loader).element_spec()  # before its workers start
    else:
        check_torch_workers(loader)
    check_torch_workers([1, 2])


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([])

    def __len__(self):
        return 10


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({"batch_size": 4}, 3),
        ({"batch_size": 4, "drop_last": True}, 2),
        ({"batch_size": 5}, 2),
        ({"batch_size": None}, 10),
    ],
)
@pytest.mark.parametrize("dataset", [Stream(), Stripes()], ids=["stream", "map"])
def test_the_announced_length_is_that_of_torch(dataset, options, length):
    if isinstance(dataset, Stripes):
        dataset = torch.utils.data.Subset(dataset, range(10))
    assert announced_length(torch.utils.data.DataLoader(dataset, **options)) == length
    assert len(torch.utils.data.DataLoader(dataset, **options)) == length


def test_only_map_style_datasets_of_torch_loaders_are_found():
    stripes = Stripes()
    assert map_dataset_of(torch.utils.data.DataLoader(stripes)) is stripes
    assert map_dataset_of(torch.utils.data.DataLoader(Stream())) is None
    assert map_dataset_of(stripes) is None
