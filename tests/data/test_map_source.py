import re

import numpy as np
import pytest
import torch
from data_helpers import Examples, ExamplesOfEpochs, dataset_with, pair

from nnx_alexnet.data import Loader
from nnx_alexnet.data.sources import MapSource


def test_examples_of_different_shapes_are_rejected():
    source = MapSource(Examples(lambda i: (np.zeros((4 + i // 3, 4, 1)), 0)), argument="train")
    message = "`train`[3] differs from `train`[0]: `image` is float32[5, 4, 1] instead of "
    message += "float32[4, 4, 1]. All examples must have the same keys, shapes and dtypes"
    with pytest.raises(ValueError, match=re.escape(message)):
        source.take(np.arange(4), seed=0, epoch=0)


def test_a_dataset_may_reuse_one_buffer():
    buffer = np.zeros((2, 2, 1), np.float32)

    def make(index):
        buffer[:] = index
        return buffer, index

    rows = MapSource(Examples(make)).take(np.array([2, 0, 3]), seed=0, epoch=0)
    assert rows.fields["image"][:, 0, 0, 0].tolist() == [2, 0, 3]


def test_random_transforms_repeat_and_restore_the_generators():
    def make(index):
        noise = torch.rand(1).item() + np.random.rand()
        return np.full((2, 2, 1), noise), index

    source = MapSource(Examples(make))
    state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    some = source.take(np.array([2, 1]), seed=0, epoch=0).fields["image"]
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert torch.equal(torch.get_rng_state(), torch_state)
    again = source.take(np.array([1]), seed=0, epoch=0).fields["image"]
    np.testing.assert_array_equal(some[1], again[0])
    assert not np.array_equal(some[0], some[1])
    later = source.take(np.array([1]), seed=0, epoch=1).fields["image"]
    assert not np.array_equal(again, later)


def test_errors_of_a_dataset_name_the_example():
    def make(index):
        if index == 2:
            raise OSError("truncated")
        return pair(index)

    source = MapSource(dataset_with(make), argument="val")
    with pytest.raises(OSError, match="truncated") as caught:
        source.take(np.arange(4), seed=0, epoch=0)
    assert caught.value.__notes__ == ["Raised while `val`[2] was read."]


def test_two_splits_may_share_a_dataset_at_different_epochs():
    dataset = ExamplesOfEpochs()
    train, val = (Loader(MapSource(dataset), batch_size=6) for _ in range(2))
    values = []
    for epoch in (0, 1, 2):
        for loader, own in ((train, epoch), (val, 0)):
            (batch,) = loader.batches(epoch=own)
            values.append(int(batch["image"][0, 0, 0, 0]))
    assert values == [0, 0, 100, 0, 200, 0]
