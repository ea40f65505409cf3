"""Batches of the examples of a stream."""

import numpy as np
import pytest
import torch

from nnx_alexnet.data import DataModule
from nnx_alexnet.data.example_batches import ExampleBatches
from nnx_alexnet.data.padding import Padding


class Counter:
    """An iterator of numbers that reports how many it has yielded."""

    def __init__(self):
        self.number = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.number += 1
        if self.number > 7:
            raise StopIteration
        return {"x": self.number, "y": (np.full(2, self.number),)}

    def get_state(self):
        return self.number

    def set_state(self, number):
        self.number = number


def test_examples_are_stacked_and_the_last_batch_may_be_dropped():
    batches = [*ExampleBatches(Counter(), batch_size=3)]
    assert [batch["x"].tolist() for batch in batches] == [[1, 2, 3], [4, 5, 6], [7]]
    assert batches[0]["y"][0].tolist() == [[1, 1], [2, 2], [3, 3]]
    assert len([*ExampleBatches(Counter(), batch_size=3, drop_last=True)]) == 2


def test_the_state_is_that_after_the_newest_batch():
    iterator = iter(ExampleBatches(Counter(), batch_size=2))
    next(iterator)
    assert iterator.get_state() == 2
    iterator.set_state(5)
    assert next(iterator)["x"].tolist() == [6, 7]


def test_methods_that_the_examples_lack_are_missing():
    batches = ExampleBatches([1, 2], batch_size=1)
    assert not any(hasattr(batches, name) for name in ("set_epoch", "state_dict", "get_state"))
    assert not hasattr(iter(batches), "get_state")


def test_examples_of_different_shapes_are_an_error_with_both():
    batches = ExampleBatches([{"x": np.zeros(2)}, {"x": np.zeros(3)}], "train", batch_size=2)
    message = r"`train` yields examples of the shapes \{'x': \(2,\)\} and \{'x': \(3,\)\}"
    with pytest.raises(ValueError, match=message):
        next(iter(batches))


def test_sequences_are_padded_to_a_length_that_holds_all_of_a_batch():
    examples = [{"tokens": [1] * length, "label": length} for length in (1, 2, 5)]
    padding = Padding({"tokens": (3, 6)})
    first, second = ExampleBatches(examples, batch_size=2, padding=padding)
    assert first["tokens"].tolist() == [[1, 0, 0], [1, 1, 0]]
    assert first["label"].tolist() == [1, 2]
    assert second["tokens"].tolist() == [[1] * 5 + [0]]


def test_images_that_are_tensors_of_torch_become_nhwc():
    examples = [{"image": torch.full((3, 4, 5), float(number))} for number in range(2)]
    batches = ExampleBatches(examples, batch_size=2)
    image = next(DataModule(batches).train.batches())["image"]
    assert image.shape == (2, 4, 5, 3)
    assert image[1].max() == image[1].min() == 1


def test_tensors_of_different_shapes_are_an_error_with_both():
    batches = ExampleBatches([torch.zeros(2), torch.zeros(3)], "train", batch_size=2)
    with pytest.raises(ValueError, match="`train` yields examples of the shapes"):
        next(iter(batches))


def test_closing_the_batches_closes_the_examples():
    examples = iter([1, 2])
    assert not hasattr(iter(ExampleBatches(examples, batch_size=1)), "close")
    examples = (number for number in (1, 2))
    batches = iter(ExampleBatches(examples, batch_size=1))
    batches.close()
    assert [*examples] == []


def test_a_prediction_from_a_training_stream_leaves_out_no_example():
    stream = ExampleBatches([{"x": number} for number in range(5)], batch_size=2, drop_last=True)
    train = DataModule(stream).train
    found = [batch["x"].tolist() for batch in train.in_order().batches()]
    assert found == [[0, 1], [2, 3], [4]]
    assert [batch["x"].tolist() for batch in train.batches()] == found[:2]
