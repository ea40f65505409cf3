import json

import numpy as np
import pytest
from data_helpers import batches_of, same, sizes_of
from helpers import tiny_arrays

from nnx_alexnet.data import Loader
from nnx_alexnet.data.sources import IterableSource


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("sizes", [[4, 4, 3], [3, 8, 5, 1], [16, 8, 8, 16, 5], [1, 1, 40]])
def test_no_batch_of_an_iterable_is_dropped(sizes, drop_last):
    loader = Loader(IterableSource(batches_of(sizes)), drop_last=drop_last)
    for _ in range(2):
        batches = list(loader.batches())
        assert sizes_of(batches) == sizes
        seen = np.concatenate([batch["index"] for batch in batches])
        np.testing.assert_array_equal(seen, np.arange(sum(sizes)))
        images = np.concatenate([batch["image"] for batch in batches])
        np.testing.assert_array_equal(images, tiny_arrays(num=sum(sizes))[0])
    assert loader.num_batches == len(sizes)
    assert (loader.indexable, loader.drop_last, loader.num_examples) == (False, False, None)
    assert (loader.batch_size, loader.num_left_out) == (sizes[0], 0)


def test_batches_without_rows_are_skipped_and_not_counted():
    images, labels = tiny_arrays(num=8)
    empty = (images[:0], labels[:0])
    batches = [empty, (images[:4], labels[:4]), empty, (images[4:], labels[4:]), empty]
    loader = Loader(IterableSource(batches))
    assert (loader.batch_size, loader.num_batches) == (4, 2)
    for options in ({}, {"multiple": 1}):
        assert sizes_of(loader.batches(**options)) == [4, 4]
    assert loader.num_batches == 2


def test_start_yields_the_tail_of_an_iterable():
    loader = Loader(IterableSource(batches_of([4, 4, 3])))
    assert same(loader.batches(start=1), list(loader.batches())[1:])


# ---- Positions ----------------------------------------------------------------------------------


class Stream:
    """Batches whose iterator has a state; `first` is the value of the first example."""

    def __init__(self, sizes=(3, 2, 4, 1), first=0, refuses=False):
        self.sizes, self.first, self.refuses, self.reads = sizes, first, refuses, []

    def __iter__(self):
        return StreamIterator(self)


class StreamIterator:
    def __init__(self, stream):
        self.stream, self.given = stream, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.given >= len(self.stream.sizes):
            raise StopIteration
        start = self.stream.first + sum(self.stream.sizes[: self.given])
        self.stream.reads.append(self.given)
        self.given += 1
        labels = np.arange(start, start + self.stream.sizes[self.given - 1])
        return np.zeros((len(labels), 2), np.float32), labels

    def get_state(self):
        return self.given

    def set_state(self, state):
        if self.stream.refuses:
            raise ValueError("another number of workers")
        self.given = state


class PlainStream(Stream):
    """The same without a state."""

    def __iter__(self):
        iterator = StreamIterator(self)
        return iter(lambda: next(iterator, None), None)


def position_after(step, stream=None, *, epoch=0, read_ahead=0):
    loader = Loader(IterableSource(Stream() if stream is None else stream))
    batches = loader.batches(epoch=epoch, records=True)
    for _ in range(step + read_ahead):
        next(batches)
    return json.loads(json.dumps(loader.stream.position(epoch, step)))


def restored(stream, position, *, epoch=0, step, **options):
    loader = Loader(IterableSource(stream), argument="train")
    can_continue = loader.stream.restore(position, epoch=epoch, step=step, **options)
    return can_continue, loader.batches(
        epoch=epoch, start=step if can_continue else 0, records=True
    )


def contents(batches):
    return [(batch["label"].tolist(), batch["index"].tolist()) for batch in batches]


WHOLE = [([0, 1, 2], [0, 1, 2]), ([3, 4], [3, 4]), ([5, 6, 7, 8], [5, 6, 7, 8]), ([9], [9])]


@pytest.mark.parametrize("kind", [Stream, PlainStream])
@pytest.mark.parametrize("read_ahead", [0, 1])
@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_a_position_continues_with_the_next_batch(kind, step, read_ahead):
    position = position_after(step, kind(), read_ahead=read_ahead)
    can_continue, batches = restored(kind(), position, step=step)
    assert can_continue
    assert contents(batches) == WHOLE[step:]


def test_a_state_spares_reading_the_epoch_again():
    stream = Stream()
    _, batches = restored(stream, position_after(3, Stream()), step=3)
    list(batches)
    # The batch before the position is compared with that of the saved run. The very first
    # reading tells the form of the batches.
    assert stream.reads in ([0, 2, 3], [0, 1, 2, 3])


def test_a_resumed_pass_has_positions_of_its_own():
    loader = Loader(IterableSource(Stream()))
    assert loader.stream.restore(position_after(1), epoch=0, step=1)
    batches = loader.batches(start=1, records=True)
    next(batches)
    loader.stream.forget_before(0, 2)
    assert contents(restored(Stream(), loader.stream.position(0, 2), step=2)[1]) == WHOLE[2:]


def test_an_epoch_that_has_ended_ends_again_and_the_next_begins():
    position = position_after(4)
    loader = Loader(IterableSource(Stream()))
    assert loader.stream.restore(position, epoch=0, step=4)
    assert contents(loader.batches(start=4, records=True)) == []
    assert loader.num_batches == 4
    assert contents(loader.batches(epoch=1, records=True)) == WHOLE


def test_empty_and_masked_batches_do_not_count():
    class Masked:
        def __iter__(self):
            for labels, mask in (([], []), ([0, 1], [1, 0]), ([2], [0]), ([3, 4], [1, 1])):
                image = np.zeros((len(labels), 2), np.float32)
                label = np.array(labels, np.int32)
                yield {"image": image, "label": label, "mask": np.array(mask, bool)}

    position = position_after(1, Masked())
    _, batches = restored(Masked(), position, step=1)
    assert contents(batches) == [([3, 4], [1, 2])]


@pytest.mark.parametrize("step", [2, 3])
def test_a_stream_that_gives_other_batches_is_refused_unless_accepted(step):
    position = position_after(step)
    with pytest.raises(
        ValueError, match=rf"`train` cannot continue .* after batch {step} of epoch 1: its batch .*"
        r"differs from that of the saved run.*accept=\[\"stream\"\]",
    ):  # fmt: skip
        restored(Stream(first=100), position, step=step)
    can_continue, batches = restored(Stream(first=100), position, step=step, accepts_other=True)
    assert can_continue
    assert [labels[0] for labels, _ in contents(batches)] == [100, 103, 105, 109][step:]


def test_an_iterable_without_a_state_starts_again_if_it_gives_other_batches(warnings):
    position = position_after(2, PlainStream())
    can_continue, batches = restored(PlainStream(first=100), position, step=2)
    assert not can_continue
    assert len(contents(batches)) == 4
    assert "differs from that of the saved run. Epoch 1 starts again" in warnings.text


def test_a_state_that_is_refused_is_replaced_by_reading_again(warnings):
    position = position_after(3)
    can_continue, batches = restored(Stream(refuses=True), position, step=3)
    assert can_continue
    assert contents(batches) == WHOLE[3:]
    with pytest.raises(
        ValueError, match=r"does not accept its saved state \(ValueError\('another "
    ):
        restored(Stream(first=1, refuses=True), position, step=3)


def test_a_stream_that_ends_early_is_refused():
    with pytest.raises(ValueError, match=r"`train` cannot continue .* it yields only [23] batches"):
        restored(Stream(sizes=(3, 2)), position_after(4), step=4)


def test_another_kind_of_iterable_starts_the_epoch_again():
    position = position_after(2)
    can_continue, batches = restored(PlainStream(), position, step=2)
    assert not can_continue
    assert contents(batches) == WHOLE
    assert restored(PlainStream(), position_after(0), step=0)[0]
    assert [restored(Stream(), None, step=step)[0] for step in (0, 2)] == [True, False]


def test_a_state_that_no_checkpoint_can_hold_is_refused_before_training():
    class Odd(StreamIterator):
        def get_state(self):
            return object()

    class OddStream(Stream):
        def __iter__(self):
            return Odd(self)

    loader = Loader(IterableSource(OddStream(), argument="train"))
    with pytest.raises(ValueError, match=r"`train`: Odd.get_state\(\) returns no state"):
        loader.stream.check_state()
    assert len(list(loader.batches())) == 4  # without positions it can be used


def test_an_iterator_with_a_state_continues_although_it_is_read_once():
    iterator = StreamIterator(Stream())
    loader = Loader(IterableSource(iterator))
    assert loader.stream.restore(position_after(2, StreamIterator(Stream())), epoch=0, step=2)
    assert contents(loader.batches(start=2, records=True)) == WHOLE[2:]
    assert loader.stream.restore(position_after(1, StreamIterator(Stream())), epoch=0, step=1)
    assert contents(loader.batches(start=1, records=True)) == WHOLE[1:]
