import numpy as np
import pytest

from nnx_alexnet.data.stream_positions import Mark, Positions, digest

START = Mark()


class Clock:
    """Seconds that pass only in `read`, and where a test says so."""

    def __init__(self, cost=0.0):
        self.now, self.cost, self.reads = 0.0, cost, 0

    def __call__(self):
        return self.now

    def read(self):
        self.now += self.cost
        self.reads += 1
        return f"state {self.reads}"


def batch_of(number):
    return {"x": np.full(3, number)}


def noted(clock, num, start=START, wait=0.0):
    positions = Positions(0, start, clock.read, clock)
    for number in range(start.given + 1, start.given + num + 1):
        positions.note(number, 10 * number, batch_of(number))
        clock.now += wait
    return positions


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_position_is_the_newest_mark_whose_next_batch_is_known(step):
    mark = noted(Clock(), 4).at(step)
    assert mark == Mark(step - 1, 10 * (step - 1), f"state {step - 1}", digest(batch_of(step)))


def test_the_first_step_is_at_its_own_mark_unless_the_pass_began_with_a_state():
    assert noted(Clock(), 1).at(1) == Mark(1, 10, "state 1", None)
    assert noted(Clock(), 1, Mark(state="end")).at(1) == Mark(0, 0, "end", digest(batch_of(1)))


def test_without_batches_the_position_is_the_start():
    assert noted(Clock(), 0, Mark(state="end")).at(0) == Mark(state="end")
    assert noted(Clock(), 2, Mark(state="end")).at(0).state == "end"  # read ahead


def test_an_iterable_without_a_state_still_has_a_batch_to_compare():
    positions = Positions(0, Mark(), lambda: None, Clock())
    for number in (1, 2, 3):
        positions.note(number, number, batch_of(number))
    assert [positions.at(step) for step in (1, 3)] == [
        Mark(0, 0, None, digest(batch_of(1))), Mark(2, 2, None, digest(batch_of(3)))
    ]  # fmt: skip


def test_a_resumed_pass_counts_on():
    positions = noted(Clock(), 2, Mark(5, 50, "saved", "old"))
    assert positions.at(6) == Mark(5, 50, "saved", digest(batch_of(6)))
    assert positions.at(7).given == 6


def test_slow_states_take_a_hundredth_of_the_time():
    clock = Clock(cost=0.001)
    positions = noted(clock, 1000, wait=0.01)
    assert 0.008 < clock.reads * clock.cost / clock.now <= 0.01
    assert 1000 - positions.at(1000).given <= 11


def test_fast_states_are_read_after_each_batch():
    clock = Clock(cost=0.001)
    noted(clock, 50, wait=0.2)
    assert clock.reads == 50


def test_forgotten_marks_are_those_before_the_one_in_use():
    positions = noted(Clock(), 9)
    before = [positions.at(step) for step in (5, 6, 9)]
    positions.forget_before(5)
    assert [mark.given for mark in positions._marks] == [4, 5, 6, 7, 8, 9]
    assert [positions.at(step) for step in (5, 6, 9)] == before


def test_a_digest_depends_on_names_types_shapes_and_values():
    zeros = np.zeros((4, 2), np.float32)
    others = [
        {"y": zeros}, {"x": zeros, "y": zeros}, {"x": {"x": zeros}}, {"x": zeros.reshape(2, 4)},
        {"x": zeros.astype(np.int32)}, {"x": zeros + np.float32([0, 1e-30])},
    ]  # fmt: skip
    assert digest({"x": zeros}) == digest({"x": np.zeros((4, 2), np.float32)})
    assert digest({"x": zeros}) == digest({"x": np.asfortranarray(zeros)})
    digests = [digest({"x": zeros}), *map(digest, others)]
    assert len({*digests}) == len(digests)


def test_a_digest_of_large_arrays_sees_each_kind_of_byte():
    large = np.zeros((64, 96, 96, 4), np.uint8)
    for channel in range(4):
        other = large.copy()
        other[..., channel] = 1
        assert digest({"x": other}) != digest({"x": large})
