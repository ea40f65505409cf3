import threading
import time

import pytest

from nnx_alexnet.support import background_writer
from nnx_alexnet.support.background_writer import BackgroundWriter


class Gate:
    """A write that takes as long as a test wants, and notes what it wrote."""

    def __init__(self):
        self.is_open = threading.Event()
        self.written = []

    def __call__(self, value):
        assert self.is_open.wait(30)
        if isinstance(value, Exception):
            raise value
        self.written.append(value)


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def writer(gate):
    writer = BackgroundWriter(gate, name="test")
    yield writer
    gate.is_open.set()
    writer.close()


def test_values_are_written_in_order_while_the_caller_continues(gate, writer):
    for value in "abc":
        writer.start(value)
    assert gate.written == []
    assert writer.is_pending
    gate.is_open.set()
    writer.wait()
    assert gate.written == ["a", "b", "c"]
    assert not writer.is_pending


def test_only_the_newest_held_value_is_written(gate, writer):
    writer.start("first")
    writer.hold("old")
    assert writer.held == "old"
    assert writer.replace_held("new", replaces=lambda held: held == "old")
    assert not writer.replace_held("other", replaces=lambda held: held == "old")
    gate.is_open.set()
    writer.wait()
    assert gate.written == ["first", "new"]
    assert writer.held is None
    assert not writer.replace_held("late", replaces=lambda held: True)


def test_an_error_is_raised_once_and_later_values_are_still_written(gate, writer):
    gate.is_open.set()
    writer.start(OSError("disk full"))
    writer.start("next")
    with pytest.raises(OSError, match="disk full"):
        writer.wait()
    writer.wait()
    writer.check()
    assert gate.written == ["next"]


def test_closing_returns_the_errors_of_all_writes(gate):
    writer = BackgroundWriter(gate, name="test")
    gate.is_open.set()
    errors = [OSError("one"), OSError("two")]
    writer.start(errors[0])
    writer.start("between")
    writer.start(errors[1])
    assert writer.close() == errors
    assert gate.written == ["between"]


def test_writing_takes_at_most_the_share_of_the_time():
    writer = BackgroundWriter(time.sleep, name="test", share=0.25)
    assert writer.has_rested
    writer.start(0.1)
    writer.wait()
    finished = time.monotonic()
    assert not writer.has_rested
    while not writer.has_rested:
        time.sleep(0.005)
    assert time.monotonic() - finished > 0.28  # three times as long as the write
    assert writer.close() == []


def test_waiting_ends_the_rest_of_a_held_value():
    writer = BackgroundWriter(time.sleep, name="test")
    writer.start(1.0)
    writer.wait()
    writer.hold(0.0)
    began = time.monotonic()
    writer.wait()
    assert time.monotonic() - began < 0.9  # it would rest for 19 seconds
    assert writer.close() == []


def test_after_ctrl_c_while_it_closes_the_thread_does_not_rest(gate, writer, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    writer.start("a")
    writer.hold("b")
    with monkeypatch.context() as patch:
        patch.setattr(background_writer, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            writer.close()
    time.sleep(0.2)  # it would rest for 19 times as long
    gate.is_open.set()
    deadline = time.monotonic() + 1.5
    while len(gate.written) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert gate.written == ["a", "b"]


def test_a_released_value_is_written_without_a_rest_while_the_caller_continues():
    writer = BackgroundWriter(time.sleep, name="test")
    writer.start(0.2)
    writer.wait()
    writer.hold(0.5)
    began = time.monotonic()
    writer.release()
    assert time.monotonic() - began < 0.4  # neither a rest of 3.8 s nor the write
    assert writer.held is None
    writer.hold(0.0)
    writer.close()
    assert 0.45 < time.monotonic() - began < 3
