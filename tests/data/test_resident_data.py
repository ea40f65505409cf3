"""Whether the train split stays on the device."""

import jax
import numpy as np
import pytest
from helpers import tiny_arrays
from worker_datasets import Stripes

from nnx_alexnet import DataModule
from nnx_alexnet.data.resident_data import resident_arrays
from nnx_alexnet.devices import Placement


def test_keeping_data_on_the_device_that_are_no_arrays_is_refused():
    batches = [tiny_arrays(num=8)]
    with pytest.raises(ValueError, match=r"`keep_on_device` \(=True\) needs a train split of arr"):
        DataModule(batches, keep_on_device=True)
    with pytest.raises(ValueError, match=r"`keep_on_device` \(='yes'\)"):
        DataModule(tiny_arrays(num=8), batch_size=4, keep_on_device="yes")


def test_arrays_that_take_much_of_the_device_are_sent_batch_by_batch(monkeypatch):
    data = DataModule(tiny_arrays(num=16), batch_size=8)
    sharding = Placement().replicated
    assert data.on_device(sharding) is not None
    size = sum(array.nbytes for array in data.train.arrays().values())
    monkeypatch.setattr("nnx_alexnet.data.resident_data.device_memory", lambda: 4 * size - 1)
    assert data.on_device(sharding) is None
    assert (
        DataModule(tiny_arrays(num=16), batch_size=8, keep_on_device=True).on_device(sharding)
        is not None
    )


class Labelled(Stripes):
    targets = tuple(index % 4 for index in range(64))


def test_a_cached_split_stays_on_the_device_once_it_is_nearly_complete(tmp_path, monkeypatch):
    def train(**options):
        return DataModule(Labelled(), batch_size=12, cache=tmp_path, **options).train

    assert resident_arrays(train(), "auto") is None  # nothing is there yet
    loader = train()
    list(loader.batches())  # all but an incomplete last batch
    assert resident_arrays(train(), False) is None
    arrays = resident_arrays(train(), "auto")
    images, labels = zip(*[Stripes()[index] for index in range(64)], strict=True)
    assert np.array_equal(arrays["image"], images)
    assert arrays["label"].tolist() == list(labels)
    assert len(train().cached.missing()) == 0
    size = 64 * (64 + 4)
    monkeypatch.setattr("nnx_alexnet.data.resident_data.device_memory", lambda: 4 * size - 1)
    assert resident_arrays(train(), "auto") is None
    assert resident_arrays(train(), True) is not None
    monkeypatch.setattr("nnx_alexnet.data.resident_data.device_memory", lambda: 4 * size)
    assert resident_arrays(train(), "auto") is not None
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert resident_arrays(train(), "auto") is None


def test_unknown_labels_keep_a_cached_split_off_the_device(tmp_path):
    data = DataModule(Stripes(), batch_size=12, cache=tmp_path)
    data.fill_cache()
    assert resident_arrays(data.train, "auto") is None
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
