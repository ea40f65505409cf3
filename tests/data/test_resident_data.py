"""Whether the train split stays on the device."""

import jax
import numpy as np
import pytest
from helpers import tiny_arrays
from worker_datasets import Stripes

from nnx_alexnet import DataModule
from nnx_alexnet.data.resident_data import stays_on_device
from nnx_alexnet.devices import Placement


def test_keeping_data_on_the_device_that_are_no_arrays_is_refused():
    batches = [tiny_arrays(num=8)]
    with pytest.raises(ValueError, match=r"`keep_on_device` \(=True\) needs a train split of arr"):
        DataModule(batches, keep_on_device=True)
    with pytest.raises(ValueError, match=r"`keep_on_device` \(='yes'\)"):
        DataModule(tiny_arrays(num=8), batch_size=4, keep_on_device="yes")


def test_arrays_that_take_much_of_the_device_are_sent_batch_by_batch(monkeypatch):
    data = DataModule(tiny_arrays(num=16), batch_size=8)
    assert data.stays_on_device()
    size = sum(array.nbytes for array in data.train.arrays().values())
    monkeypatch.setattr("nnx_alexnet.data.resident_data.device_memory", lambda: 4 * size - 1)
    assert not data.stays_on_device()
    assert DataModule(tiny_arrays(num=16), batch_size=8, keep_on_device=True).stays_on_device()


class Labelled(Stripes):
    targets = tuple(index % 4 for index in range(64))


def test_a_cached_split_stays_on_the_device_once_it_is_nearly_complete(tmp_path, monkeypatch):
    def module(**options):
        return DataModule(Labelled(), batch_size=12, cache=tmp_path, **options)

    def train():
        return module().train

    assert not module().stays_on_device()  # nothing is there yet
    loader = train()
    list(loader.batches())  # all but an incomplete last batch
    assert not module(keep_on_device=False).stays_on_device()
    assert module().stays_on_device()
    arrays = module().on_device(Placement().replicated)
    images, labels = zip(*[Stripes()[index] for index in range(64)], strict=True)
    assert np.array_equal(arrays["image"], images)
    assert arrays["label"].tolist() == list(labels)
    assert len(train().cached.missing()) == 0
    size = 64 * (64 + 4)
    monkeypatch.setattr("nnx_alexnet.data.resident_data.device_memory", lambda: 4 * size - 1)
    assert not stays_on_device(train(), "auto")
    assert stays_on_device(train(), True)
    monkeypatch.setattr("nnx_alexnet.data.resident_data.device_memory", lambda: 4 * size)
    assert stays_on_device(train(), "auto")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert not stays_on_device(train(), "auto")


def test_unknown_labels_keep_a_cached_split_off_the_device(tmp_path):
    data = DataModule(Stripes(), batch_size=12, cache=tmp_path)
    data.fill_cache()
    assert not stays_on_device(data.train, "auto")
    with pytest.raises(ValueError, match=r"or one with `cache` whose labels are known"):
        DataModule(Stripes(), batch_size=12, cache=tmp_path, keep_on_device=True)


def test_hooks_read_the_examples_of_a_cached_batch_together(tmp_path, monkeypatch):
    loader = DataModule(Labelled(), batch_size=12, cache=tmp_path).train
    take, taken = loader.source.take, []

    def note(indices, **options):
        taken.append(indices.tolist())
        return take(indices, **options)

    monkeypatch.setattr(loader.source, "take", note)
    batch = loader.complete(next(loader.batches(reads=False)))
    assert [*batch] == ["image", "label", "mask", "index"]
    assert taken == []
    assert batch["label"].tolist() == [index % 4 for index in batch["index"]]
    assert batch["image"][:, 0, 0, 0].tolist() == [3 * index % 256 for index in batch["index"]]
    assert taken == [batch["index"].tolist()]
