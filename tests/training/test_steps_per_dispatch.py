"""How many steps a dispatch takes, and batches side by side."""

import numpy as np
import pytest

from nnx_alexnet.training.steps_per_dispatch import Pushback, choose_steps, next_multiple, stacked


def test_batches_that_the_host_sends_are_grouped_as_memory_allows():
    assert choose_steps("auto", batch_bytes=0) == 64
    assert choose_steps("auto", batch_bytes=2**24) == 4
    assert choose_steps("auto", batch_bytes=2**40) == 1


def test_a_dispatch_computes_for_a_fraction_of_a_second():
    assert choose_steps("auto", batch_bytes=0, step_flops=4e9) == 5  # 20 GFLOP on a CPU
    assert choose_steps("auto", batch_bytes=0, step_flops=1e15) == 1


def test_a_given_number_is_taken_as_it_is():
    assert choose_steps(7, batch_bytes=2**40, step_flops=1e15) == 7


@pytest.mark.parametrize(
    ("step", "period", "expected"), [(0, 5, 5), (4, 5, 5), (5, 5, 10), (7, 1, 8), (99, 50, 100)]
)
def test_the_next_multiple_is_after_the_step(step, period, expected):
    assert next_multiple(step, period) == expected


def test_what_is_given_back_comes_next_in_its_order():
    items = Pushback([1, 2, 3, 4])
    first, second = next(items), next(items)
    items.push([second])
    items.push([first])
    assert [*items] == [1, 2, 3, 4]
    items.push([9])
    assert [*items] == [9]


def test_an_epoch_of_very_many_dispatches_does_not_pile_up():
    """The batches that a dispatch leaves are given back, at the same cost each time."""
    items = Pushback(iter(range(400_000)))
    total = 0
    while (first := next(items, None)) is not None:
        items.push([first])
        items.push([])
        total += next(items)
    assert total == sum(range(400_000))


def test_batches_are_stacked_and_padded_with_zeros():
    batches = [{"index": np.array([4, 2], np.int32)}, {"index": np.array([1, 3], np.int32)}]
    group = stacked(batches, 4)["index"]
    assert group.tolist() == [[4, 2], [1, 3], [0, 0], [0, 0]]
    assert group.dtype == np.int32


@pytest.mark.parametrize("length", [1, 2])
def test_there_are_two_rows_at_least(length):
    assert stacked([{"index": np.array([4, 2])}], length)["index"].shape == (2, 2)
