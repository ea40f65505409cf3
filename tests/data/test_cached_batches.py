import threading

import numpy as np
import pytest
from data_helpers import messages, same
from worker_datasets import Stripes

from nnx_alexnet.data import DataModule


def module(folder=None, *, num_workers=0, dataset=None, **options):
    cache = False if folder is None else folder
    dataset = Stripes() if dataset is None else dataset
    options |= {"batch_size": 10, "num_workers": num_workers, "cache": cache}
    return DataModule(dataset, **options).train


class Counted(Stripes):
    """Stripes that count how often they are read; one of them may be damaged."""

    def __init__(self, damaged=None):
        self.damaged, self.reads = damaged, []

    def __getitem__(self, index):
        self.reads.append(index)
        if index == self.damaged:
            raise ValueError("no such picture")
        return super().__getitem__(index)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_equal_those_without_a_cache_from_any_start(tmp_path, num_workers):
    plain, loader = module(), module(tmp_path, num_workers=num_workers)
    try:
        for epoch in range(3):
            start = 2 * epoch
            batches = loader.batches(epoch=epoch, seed=3, start=start)
            assert same(batches, plain.batches(epoch=epoch, seed=3, start=start))
        padded = {"multiple": 4, "part": lambda size: slice(size // 2, size)}
        assert same(loader.batches(**padded), plain.batches(**padded))
    finally:
        loader.close()


def test_workers_read_each_example_once_and_are_not_started_again(tmp_path):
    first = module(tmp_path, num_workers=2, dataset=Counted(), drop_last=False)
    list(first.batches())
    (journal,) = tmp_path.glob("*/journal")
    first.close()
    assert journal.stat().st_size == 64 * 32
    dataset = Counted()
    second = module(tmp_path, num_workers=2, dataset=dataset)
    dataset.reads.clear()
    assert same(second.batches(epoch=2), module().batches(epoch=2))
    assert dataset.reads == []
    assert second._batches._workers._processes == []


def test_a_damaged_record_is_read_from_the_dataset_again(tmp_path):
    dataset = Counted()
    loader = module(tmp_path, dataset=dataset)
    for epoch in range(2):
        list(loader.batches(epoch=epoch))
    (records,) = tmp_path.glob("*/records")
    bits = bytearray(records.read_bytes())
    bits[5 * 68 : 5 * 68 + 68] = bytes(68)  # 64 pixels and a label
    records.write_bytes(bits)
    again = Counted()
    loader = module(tmp_path, dataset=again)
    again.reads.clear()
    for epoch in range(2):
        assert same(loader.batches(epoch=epoch), module().batches(epoch=epoch))
    assert len(again.reads) == 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_examples_are_replaced_and_reported_by_each_run(tmp_path, warnings, num_workers):
    options = {"on_bad_sample": "skip", "dataset": Counted(damaged=9)}
    plain = module(**options)
    expected = [[*plain.batches(epoch=epoch)] for epoch in range(2)]
    for number in range(2):
        loader = module(tmp_path, num_workers=num_workers, **options)
        warnings.clear()
        for epoch in range(2):
            assert same(loader.batches(epoch=epoch), expected[epoch])
        loader.close()
        (message,) = messages(warnings)
        assert "`train`[9] cannot be read, another example stands in for it" in message, number
        with pytest.raises(ValueError, match=r"`train`\[9\] cannot be read"):
            list(loader.in_order().batches(skips=False))
    with pytest.raises(ValueError, match="no such picture"):
        list(module(tmp_path, dataset=Counted(damaged=9)).batches())


def test_readers_end_with_an_abandoned_epoch(tmp_path):
    loader = module(tmp_path)
    for epoch in range(2):
        list(loader.batches(epoch=epoch))
    batches = loader.batches(epoch=2)
    next(batches)
    assert any("nnx-alexnet-cache" in thread.name for thread in threading.enumerate())
    batches.close()
    assert not any("nnx-alexnet-cache" in thread.name for thread in threading.enumerate())


def test_a_reader_ends_while_a_filler_is_open_and_after_it_is_closed(tmp_path):
    loader, other = (module(tmp_path, drop_last=False) for _ in range(2))
    filler, found = loader.fill_cache(), []
    assert next(filler) == 32  # of 64
    for epoch in range(2):
        batches = other.batches(epoch=epoch)
        reader = threading.Thread(target=found.extend, args=(batches,), daemon=True)
        reader.start()
        reader.join(10)
        assert not reader.is_alive()
        assert same(found[-7:], module(drop_last=False).batches(epoch=epoch))
        filler.close()
    assert sum(loader.fill_cache()) == 0, "the reader has added the rest"


def test_a_cache_that_is_removed_during_an_epoch_changes_no_batch(tmp_path):
    loader, plain = module(tmp_path), module()
    found = []
    for number, batch in enumerate(loader.batches()):
        found.append(batch)
        if number == 2:
            for path in tmp_path.glob("*/*"):
                path.unlink()
    assert same(found, plain.batches())
    assert np.array_equal(
        next(loader.batches(epoch=1))["image"], next(plain.batches(epoch=1))["image"]
    )
