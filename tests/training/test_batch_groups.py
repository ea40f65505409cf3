"""`BatchGroups`: the batches of an epoch, as many together as one dispatch takes."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import split_of

from nnx_alexnet import DataModule
from nnx_alexnet.callbacks import BETWEEN_DISPATCHES, Callback, CallbackList
from nnx_alexnet.training import Settings, batch_groups
from nnx_alexnet.training.batch_groups import BatchGroups

TRACE = SimpleNamespace(can_loop_on_device=True, forward_flops={"float32": 1.0})


class Ends(Callback):
    def __init__(self, every_n_steps):
        self.every_n_steps = every_n_steps

    def on_train_batch_end(self, trainer, outputs, batch, batch_index): ...


class Starts(Callback):
    def __init__(self, every_n_steps):
        self.every_n_steps = every_n_steps

    def on_train_batch_start(self, trainer, batch, batch_index): ...


class OnClock(Callback):
    batch_period = BETWEEN_DISPATCHES

    def on_train_batch_end(self, trainer, outputs, batch, batch_index): ...


def arrays(num, batch_size=4):
    """A loader of arrays, whose last batch may be smaller."""
    split = split_of(*range(num))
    return DataModule(split, batch_size=batch_size, drop_last=False).train


def batches_of(*sizes):
    """A loader of an iterable whose batches have these sizes."""
    return DataModule([split_of(*range(size)) for size in sizes]).train


def groups_of(loader, *callbacks, trace=TRACE, sends_indices=False, num_devices=1, **arguments):
    settings = Settings(name="run", log_dir=None, **arguments)
    groups = BatchGroups(loader, settings, CallbackList(callbacks), trace, num_devices=num_devices)
    groups.begin_training(sends_indices=sends_indices)
    return groups


def lengths(groups, *, step=0, epochs=1, in_epoch=0, limit=1000):
    """The number of batches in each group, over whole epochs or up to a step."""
    found = []
    for epoch in range(epochs):
        start = in_epoch if epoch == 0 else 0
        groups.begin_epoch(groups.loader.batches(epoch=epoch, start=start), start=start)
        while step < limit and (group := groups.next_group(step, lambda seconds: None)):
            sizes = {len(batch["index"]) for batch in group}
            assert len(sizes) == 1, "all batches of a group have one size"
            found.append(len(group))
            step += len(group)
    return found


# ---- How long a group is ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loader", "callbacks", "arguments", "expected"),
    [
        (arrays(40), [], {}, [10]),  # the whole epoch
        (arrays(40), [], {"steps_per_execution": 1}, [1] * 10),
        (arrays(40), [], {"steps_per_execution": 4}, [4, 4, 2]),
        (arrays(40), [], {"log_every_n_steps": 3}, [3, 3, 3, 1]),
        (arrays(42), [], {}, [10, 1]),  # the last batch has two examples
        (arrays(18), [], {"steps_per_execution": 3}, [3, 1, 1]),
        (arrays(40), [Ends(4)], {}, [4, 4, 2]),
        (arrays(40), [Ends(None)], {}, [1] * 10),
        (arrays(40), [Starts(4)], {}, [3, 4, 3]),  # a group ends before each fourth step
        (arrays(40), [Starts(4), Ends(6)], {}, [3, 3, 1, 3]),
        (arrays(40), [OnClock()], {}, [10]),
        (batches_of(4, 4, 2, 2, 2, 4), [], {}, [2, 3, 1]),
    ],
)
def test_a_group_ends_where_the_host_has_something_to_do(loader, callbacks, arguments, expected):
    assert lengths(groups_of(loader, *callbacks, **arguments)) == expected


def test_log_points_and_hooks_count_steps_of_the_run_and_not_of_the_epoch():
    groups = groups_of(arrays(20), log_every_n_steps=4)
    # Five steps an epoch; log points after steps 4, 8 and 12.
    assert lengths(groups, epochs=3) == [4, 1, 3, 2, 2, 3]


def test_a_resumed_epoch_begins_with_the_steps_up_to_what_is_due():
    groups = groups_of(arrays(40), Ends(4))
    assert lengths(groups, step=3, in_epoch=3) == [1, 4, 2]


def test_no_group_passes_the_last_step_of_the_run():
    groups = groups_of(arrays(40), max_steps=7, steps_per_execution=5)
    assert lengths(groups, limit=7) == [5, 2]


def test_convolutions_on_a_cpu_take_single_steps():
    trace = SimpleNamespace(can_loop_on_device=False, forward_flops={})
    assert lengths(groups_of(arrays(12), trace=trace, steps_per_execution=64)) == [1, 1, 1]


@settings(max_examples=60, deadline=None)
@given(
    ends=st.lists(st.integers(1, 9), max_size=2),
    starts=st.lists(st.integers(1, 9), max_size=2),
    most=st.integers(1, 20),
    log_every=st.integers(1, 9),
    begin=st.integers(0, 30),
)
def test_no_group_passes_a_step_at_which_anything_is_due(ends, starts, most, log_every, begin):
    """By counting: whatever the periods, every multiple is seen, before and after its step."""
    callbacks = [*map(Ends, ends), *map(Starts, starts), OnClock()]
    groups = groups_of(
        LOADER, *callbacks, steps_per_execution=most, log_every_n_steps=log_every
    )  # fmt: skip
    firsts, lasts, step = [], [], begin
    for length in lengths(groups, step=begin):
        firsts.append(step + 1)
        lasts.append(step + length)
        assert length <= most
        step += length
    steps = range(begin + 1, step + 1)
    for period in [*ends, log_every]:
        assert {n for n in steps if n % period == 0} <= {*lasts}
    for period in starts:
        assert {n for n in steps if n % period == 0} <= {*firsts}


LOADER = arrays(40, batch_size=1)


# ---- How long one may be ------------------------------------------------------------------------


def test_the_bytes_that_the_host_sends_limit_a_group():
    images = np.zeros((64, 2**18), np.float32)  # 1 MiB each
    data = DataModule((images, np.zeros(64, np.int32)), batch_size=2)
    assert groups_of(data.train).max_steps(2) == 31  # of 2 MiB and two labels, in 64 MiB
    assert groups_of(data.train, sends_indices=True).max_steps(2) >= 32  # the whole epoch


@pytest.mark.parametrize(("num_devices", "expected"), [(1, 1), (2, 3), (4, 6)])
def test_the_flops_of_a_step_limit_a_group_and_devices_share_them(num_devices, expected):
    # Forward and backward: 3 * 4 * 1e9 FLOP, of the 20e9 that a dispatch may have on a CPU.
    trace = SimpleNamespace(can_loop_on_device=True, forward_flops={"float32": 1e9})
    groups = groups_of(arrays(400), trace=trace, num_devices=num_devices)
    assert groups.max_steps(4) == expected


@pytest.mark.parametrize(
    ("callbacks", "arguments", "longest"),
    [([], {}, 10), ([], {"log_every_n_steps": 5}, 5), ([Ends(4)], {}, 4), ([Starts(4)], {}, 4)],
)
def test_a_group_is_padded_to_its_longest_length_or_one_more(callbacks, arguments, longest):
    groups = groups_of(arrays(40), *callbacks, **arguments)
    assert max(lengths(groups)) == longest
    assert longest <= groups.max_steps(4) <= longest + 1


def test_the_smaller_batch_at_the_end_of_an_epoch_is_a_step_of_its_own():
    assert groups_of(arrays(42)).max_steps(2) == 1
    assert groups_of(batches_of(4, 4, 2)).max_steps(2) >= 3, "an iterable may have more of them"


# ---- What is not trained on ---------------------------------------------------------------------


def test_batches_that_were_given_back_come_next_in_their_order():
    groups = groups_of(batches_of(1, 1, 1, 1, 2), steps_per_execution=3)
    loader = groups.loader
    groups.begin_epoch(loader.batches(), start=0)
    group = groups.next_group(0, lambda seconds: None)
    assert len(group) == 3
    groups.give_back(group[1:])
    again = groups.next_group(1, lambda seconds: None)
    assert [batch["index"].tolist() for batch in again] == [[1], [2], [3]]
    assert [len(batch["index"]) for batch in groups.next_group(4, lambda seconds: None)] == [2]
    assert groups.next_group(5, lambda seconds: None) == []


def test_the_position_in_the_epoch_counts_what_was_trained_on():
    """The number of a batch tells its size: the last one of an epoch has two examples here."""
    groups = groups_of(arrays(10), steps_per_execution=2)
    groups.begin_epoch(groups.loader.batches(), start=0)
    group = groups.next_group(0, lambda seconds: None)
    groups.give_back(group)
    assert lengths_until_end(groups) == [(2, 4), (1, 2)]


def lengths_until_end(groups):
    found, step = [], 0
    while group := groups.next_group(step, lambda seconds: None):
        found.append((len(group), len(group[0]["index"])))
        step += len(group)
    return found


def test_the_time_that_a_batch_is_waited_for_is_told(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def slow(batches):
        for number, batch in enumerate(batches):
            clock[0] += number + 1
            yield batch

    groups, waits = groups_of(arrays(12)), []
    groups.begin_epoch(slow(groups.loader.batches()), start=0)
    groups.next_group(0, waits.append)
    assert waits == [1.0, 2.0, 3.0]


# ---- Whether an epoch is at its end -------------------------------------------------------------


class Claims:
    """An iterable that is wrong about its length, or has none."""

    def __init__(self, length):
        self.length = length

    def __iter__(self):
        return iter([split_of(1, 2)] * 3)

    def __len__(self):
        if self.length is None:
            raise TypeError
        return self.length


@pytest.mark.parametrize(
    ("claimed", "step", "expected"),
    [(3, 2, False), (3, 3, True), (2, 2, False), (2, 3, True), (5, 3, False), (None, 3, False)],
)
def test_an_iterable_is_at_its_end_if_no_batch_is_left(claimed, step, expected):
    """Where nothing tells how many there are, the next batch is not waited for."""
    groups = groups_of(DataModule(Claims(claimed)).train, max_steps=step)
    groups.begin_epoch(groups.loader.batches(), start=0)
    assert len(groups.next_group(0, lambda seconds: None)) == step
    assert groups.is_at_end(step) is expected


@pytest.mark.parametrize(("step", "expected"), [(2, False), (3, True)])
def test_arrays_are_at_their_end_after_the_last_batch(step, expected):
    assert groups_of(arrays(12)).is_at_end(step) is expected


# ---- Sizes --------------------------------------------------------------------------------------


def texts(warnings, level):
    return [each.getMessage() for each in warnings.records if each.levelname == level]


def test_the_sizes_of_an_iterables_batches_are_reported_once(warnings):
    warnings.set_level(logging.INFO, logger="nnx_alexnet")
    groups = groups_of(batches_of(4, 2, 4))
    for _ in range(2):
        lengths(groups)
        groups.report_sizes()
    assert texts(warnings, "INFO") == [
        "The batches of `train` have 2 sizes (4, 2); the train step was compiled for each."
    ]


@pytest.mark.parametrize("loader", [arrays(10), batches_of(4, 4)])
def test_one_size_and_the_smaller_batch_of_arrays_are_not_reported(loader, warnings):
    warnings.set_level(logging.INFO, logger="nnx_alexnet")
    groups = groups_of(loader)
    lengths(groups)
    groups.report_sizes()
    assert texts(warnings, "INFO") == []


def test_more_sizes_than_are_likely_meant_are_a_warning(warnings, monkeypatch):
    monkeypatch.setattr(batch_groups, "_MANY_SIZES", 2)
    lengths(groups_of(batches_of(1, 2, 3, 4)))
    (text,) = texts(warnings, "WARNING")
    assert text.startswith("`train` has returned batches of 3 sizes so far (1, 2, ...)")


class WantsFirst(Callback):
    """Wants to see the first step of an epoch, which it decides as the epoch begins."""

    wants = False

    @property
    def batch_period(self):
        return 1 if self.wants else 100

    def on_train_batch_end(self, trainer, outputs, batch, batch_index): ...


def test_a_callback_that_wants_the_first_step_shortens_only_that_group():
    callback = WantsFirst()
    groups = groups_of(arrays(4 * 40), callback, log_every_n_steps=16)
    callback.wants = True
    groups.begin_epoch(groups.loader.batches(epoch=0), start=0)
    assert len(groups.next_group(0, lambda seconds: None)) == 1
    callback.wants = False
    assert len(groups.next_group(1, lambda seconds: None)) == 15  # up to the log point
    assert len(groups.next_group(16, lambda seconds: None)) == 16
