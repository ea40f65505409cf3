import itertools

import numpy as np
import pytest
import torch
from helpers import tiny_arrays
from streams import IN_PROCESS, stream_of

from nnx_alexnet.data.adapters import adapted
from nnx_alexnet.data.stream_state import StateRefusedError, Stream


class Counter:
    """An iterator of numbers, whose state is the number of those it gave."""

    def __init__(self, num=6):
        self.num, self.given = num, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.given == self.num:
            raise StopIteration
        self.given += 1
        return self.given

    def get_state(self):
        return {"given": self.given}

    def set_state(self, state):
        self.given = state["given"]


class TorchCounter(Counter):
    """The same with the names that torch uses."""

    get_state = set_state = None

    def state_dict(self):
        return Counter.get_state(self)

    def load_state_dict(self, state):
        Counter.set_state(self, state)


class Iterators:
    """An iterable whose iterators have a state."""

    def __init__(self, kind):
        self.kind = kind

    def __iter__(self):
        return self.kind()


class Loading:
    """An iterable that holds the state of its newest pass, and starts the next one after it."""

    def __init__(self):
        self.place = self.passes = 0

    def __iter__(self):
        first = self.place if self.place < 4 else 0
        self.passes += 1
        for number in range(first, 4):
            self.place = number + 1
            yield 10 * self.passes + number

    def state_dict(self):
        return {"place": self.place, "passes": self.passes}

    def load_state_dict(self, state):
        self.place, self.passes = state["place"], state["passes"]


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (Counter, "Counter.get_state"),
        (TorchCounter, "TorchCounter.state_dict"),
        (lambda: Iterators(Counter), "Counter.get_state"),
        (lambda: Iterators(TorchCounter), "TorchCounter.state_dict"),
    ],
)
def test_a_state_continues_after_the_newest_item(make, kind):
    first = Stream(make())
    assert list(itertools.islice(first.iterator, 2)) == [1, 2]
    state = first.read_state()
    next(first.iterator)
    assert (first.kind, state["state"]) == (kind, {"given": 2})
    assert list(Stream(make(), state=state).iterator) == [3, 4, 5, 6]


def test_an_iterable_that_holds_its_state_gets_it_before_its_iterator_starts():
    first = Stream(Loading())
    assert list(itertools.islice(first.iterator, 3)) == [10, 11, 12]
    assert (first.kind, first.lasts) == ("Loading.state_dict", True)
    second = Stream(Loading(), state=first.read_state())
    assert list(second.iterator) == [23]
    third = Stream(Loading(), state=second.read_state(), is_end=True)
    assert list(third.iterator) == [30, 31, 32, 33]


def test_other_iterables_have_no_state():
    for iterable in ([1, 2], iter([1, 2]), (number for number in (1, 2))):
        stream = Stream(iterable)
        assert (stream.kind, stream.read_state(), stream.lasts) == (None, None, False)
        assert list(stream.iterator) == [1, 2]


def test_a_refused_state_is_reported_with_its_reason():
    state = Stream(Loading()).read_state()
    with pytest.raises(StateRefusedError, match=r"KeyError\('given'\)"):
        Stream(Counter(), state=state)


@pytest.mark.parametrize("content", [object(), NotImplementedError("no state")])
def test_a_state_that_cannot_be_saved_is_refused(content):
    class Stubborn(Counter):
        def get_state(self):
            if isinstance(content, Exception):
                raise content
            return {"inner": content}

    with pytest.raises(ValueError, match=r"`train`: Stubborn.get_state\(\) returns no state"):
        Stream(Stubborn(), argument="train").read_state()


def test_an_iterator_that_was_made_here_is_closed_and_a_given_one_is_not():
    class Closing(Counter):
        is_closed = False

        def close(self):
            self.is_closed = True

    given, made = Stream(Closing()), Stream(Iterators(Closing))
    for stream in (given, made):
        stream.close()
    assert (given.iterator.is_closed, made.iterator.is_closed) == (False, True)


# ---- Libraries ----------------------------------------------------------------------------------


def labels_of(stream, num=None):
    batches = itertools.islice(stream.iterator, num)
    return [list(map(int, item["label"] if isinstance(item, dict) else item[1]))
            for item in batches]  # fmt: skip


def made(name):
    stream = stream_of(name, tiny_arrays(num=22)[0], np.arange(22), 4)
    return adapted(stream, argument="train", batch_size=4)


KINDS = {
    "grain_loader": "DataLoaderIterator.get_state",
    "grain_map": "PrefetchDatasetIterator.get_state",
    "hf_stream": "IterableDataset.state_dict",
    "hf_shuffled": None,  # its state leaves out the shuffle buffer
    "torchdata": "StatefulDataLoader.state_dict",
    "torchdata_generator": "StatefulDataLoader.state_dict",
    "list": None,
    "torch_loader": None,
}


@pytest.mark.parametrize("name", IN_PROCESS)
def test_the_stream_of_a_library_continues_in_this_pass_and_the_next(name):
    stream = Stream(made(name))
    assert stream.kind == KINDS[name]
    if stream.kind is None:
        return
    before = labels_of(stream, 2)
    state = stream.read_state()
    after = labels_of(stream)
    assert sorted(itertools.chain(*before, *after)) == list(range(22))
    torch.manual_seed(5)  # the other process has other seeds
    other = made(name)
    resumed = Stream(other, state=state)
    assert labels_of(resumed) == after
    if stream.lasts and name.startswith("torchdata"):
        last = resumed.read_state()
        following = labels_of(Stream(other))
        assert following != before + after
        assert labels_of(Stream(made(name), state=last, is_end=True)) == following


def test_a_hugging_face_stream_keeps_no_state_for_its_next_pass():
    dataset = made("hf_stream")
    first = Stream(dataset)
    whole = labels_of(first, 2)
    state = first.read_state()
    whole += labels_of(first)
    assert labels_of(Stream(dataset, state=state)) == whole[2:]
    assert labels_of(Stream(dataset)) == whole


def test_two_streams_of_one_hugging_face_dataset_do_not_disturb_each_other():
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_dict({"label": range(12)}).to_iterable_dataset()
    splits = whole.skip(4), whole.take(4)
    train, val = (adapted(split, argument="train", batch_size=2) for split in splits)
    first = Stream(train)
    assert labels_of(first, 1) == [[4, 5]]
    assert labels_of(Stream(val), 1) == [[0, 1]]
    assert labels_of(first, 1) == [[6, 7]]
    assert labels_of(Stream(train, state=first.read_state())) == [[8, 9], [10, 11]]
