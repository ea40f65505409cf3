"""Whether the train split stays on the device."""

import pytest
from helpers import tiny_arrays

from nnx_alexnet import DataModule
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
    monkeypatch.setattr("nnx_alexnet.data.data_module.device_memory", lambda: 4 * size - 1)
    assert data.on_device(sharding) is None
    assert (
        DataModule(tiny_arrays(num=16), batch_size=8, keep_on_device=True).on_device(sharding)
        is not None
    )
