"""Pipelines of Grain as splits."""

import itertools

import numpy as np
import pytest
import torch

from nnx_alexnet.data import DataModule
from nnx_alexnet.data.adapters import adapted
from nnx_alexnet.data.example_batches import ExampleBatches
from nnx_alexnet.data.grain_pipelines import GrainBatches, GrainExamples, yields_batches

grain = pytest.importorskip("grain")

EXAMPLES = [{"x": np.full(2, i, np.float32), "label": i % 3} for i in range(10)]


def source():
    return grain.MapDataset.source(EXAMPLES)


def noisy(dataset):
    return dataset.seed(3).random_map(lambda row, rng: {"noise": rng.integers(1000)})


def loader(*operations):
    sampler = grain.samplers.IndexSampler(
        10, shuffle=True, num_epochs=1, seed=1, shard_options=grain.sharding.NoSharding()
    )
    return grain.DataLoader(data_source=EXAMPLES, sampler=sampler, operations=operations)


def labels(batches):
    return [batch["label"].tolist() for batch in batches]


def test_examples_are_read_by_index():
    rows = adapted(source(), argument="train")
    assert isinstance(rows, GrainExamples)
    assert len(rows) == 10
    assert rows[4]["x"].tolist() == [4, 4]


def test_random_parts_draw_anew_in_each_epoch_as_after_repeat():
    rows = adapted(noisy(source()), argument="train")
    repeated = noisy(source()).repeat(3)
    for epoch in (0, 2, 1):
        rows.set_epoch(epoch)
        expected = [repeated[10 * epoch + i]["noise"] for i in range(10)]
        assert [rows[i]["noise"] for i in range(10)] == expected


def test_batches_are_those_of_grain_in_each_epoch():
    dataset = source().seed(1).shuffle().batch(4).map(lambda batch: batch)
    batches = adapted(dataset, argument="train")
    assert isinstance(batches, GrainBatches)
    assert len(batches) == 3
    expected = labels(source().seed(1).shuffle().repeat(2, reseed_each_epoch=True)[10:].batch(4))
    assert labels(batches) == labels(dataset)
    batches.set_epoch(1)
    assert labels(batches) == expected


def test_the_iterator_of_batches_has_the_state_of_grain():
    batches = adapted(source().batch(4), argument="train")
    batches.set_epoch(2)
    iterator = iter(batches)
    next(iterator)
    state = iterator.get_state()
    rest = labels(iterator)
    again = iter(batches)
    again.set_state(state)
    assert labels(again) == rest
    assert len(rest) == 2


def test_streams_of_examples_are_put_into_batches():
    stream = adapted(source().to_iter_dataset(), argument="train", batch_size=4, drop_last=True)
    assert labels(stream) == [[0, 1, 2, 0], [1, 2, 0, 1]]
    assert labels(adapted(source().to_iter_dataset().batch(5), argument="train")) == [
        [0, 1, 2, 0, 1], [2, 0, 1, 2, 0],
    ]  # fmt: skip


def test_sequences_of_a_stream_are_padded():
    sequences = [{"tokens": np.ones(1 + i % 4, np.int32)} for i in range(8)]
    stream = grain.MapDataset.source(sequences).to_iter_dataset()
    data = DataModule(stream, batch_size=4, pad_to={"tokens": 5})
    assert [batch["tokens"].sum(axis=1).tolist() for batch in data.train.batches()] == [
        [1, 2, 3, 4]
    ] * 2


def test_steps_after_a_batch_leave_it_a_batch():
    batched = source().to_iter_dataset().batch(2)
    assert yields_batches(batched.map(lambda batch: batch).filter(lambda batch: True))
    workers = grain.multiprocessing.MultiprocessingOptions(num_workers=2)
    assert yields_batches(batched.mp_prefetch(workers))
    assert not yields_batches(source().to_iter_dataset().mp_prefetch(workers))
    assert not yields_batches(source().map(lambda row: row))

    class Rows(grain.experimental.FlatMapTransform):
        max_fan_out = 2

        def flat_map(self, batch):
            return [{"label": label} for label in batch["label"]]

    assert not yields_batches(grain.experimental.FlatMapIterDataset(batched, Rows()))


def test_a_data_loader_without_batches_gets_them():
    batches = adapted(loader(), argument="train", batch_size=4)
    assert isinstance(batches, ExampleBatches)
    iterator = iter(batches)
    next(iterator)
    state, rest = iterator.get_state(), labels(iterator)
    again = iter(batches)
    again.set_state(state)
    assert [len(batch) for batch in rest] == [4, 2]
    assert labels(again) == rest


def test_a_data_loader_with_batches_is_taken_as_it_is():
    batched = loader(grain.transforms.Batch(4))
    assert adapted(batched, argument="train") is batched


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: data.repeat(), "infinite grain.MapDataset.*leave out repeat"),
        (lambda data: data.batch(2).repeat(), "infinite grain.MapDataset"),
        (lambda data: data.filter(lambda row: True).map(lambda row: row), "to_iter_dataset"),
    ],
)
def test_datasets_without_an_element_per_index_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        adapted(make(source()), argument="train")


def test_splits_of_grain_work_in_a_data_module():
    data = DataModule(source(), source().to_iter_dataset(), source().batch(5), batch_size=5)
    found = itertools.chain(*labels(data.train.batches(epoch=1)))
    assert sorted(found) == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert labels(data.val.batches()) == labels(data.test.batches())
    assert next(data.test.batches())["x"].dtype == np.float32


def test_streams_and_rows_of_tensors_give_the_same_images():
    rows = grain.MapDataset.source([{"image": torch.full((3, 4, 5), i)} for i in range(4)])
    batches = [
        next(DataModule(rows, each, batch_size=4).val.batches())
        for each in (rows, rows.to_iter_dataset())
    ]
    assert batches[0]["image"].shape == batches[1]["image"].shape == (4, 4, 5, 3)
    assert batches[0]["image"].tolist() == batches[1]["image"].tolist()
