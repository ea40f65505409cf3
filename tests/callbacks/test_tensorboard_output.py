import threading

import pytest

from nnx_alexnet.callbacks import tensorboard_output
from nnx_alexnet.callbacks.tensorboard_output import TensorBoardOutput


class Writer:
    def __init__(self):
        self.calls = []

    def write_scalars(self, step, scalars):
        self.calls.append((step, scalars))

    def flush(self):
        self.calls.append("flush")

    def close(self):
        self.calls.append("close")


@pytest.fixture
def opened(monkeypatch):
    """The writers that were opened, by their folders."""
    opened = {}

    def open_writer(folder):
        opened[folder] = Writer()
        return opened[folder]

    monkeypatch.setattr(tensorboard_output, "open_writer", open_writer)
    return opened


def write_loss(writer):
    writer.write_scalars(1, {"loss": 0.5})


def fail(writer):
    raise OSError("disk full")


def test_the_first_write_opens_the_event_file(opened, tmp_path):
    output = TensorBoardOutput(None)
    assert not output.is_open
    assert opened == {}
    output.write(tmp_path, write_loss)
    output.write(tmp_path, write_loss)
    assert output.is_open
    output.close()
    assert not output.is_open
    assert opened[tmp_path].calls == [(1, {"loss": 0.5})] * 2 + ["flush", "close"]


def test_a_given_writer_is_flushed_but_not_closed(opened, tmp_path):
    writer = Writer()
    output = TensorBoardOutput(writer)
    output.write(None, write_loss)
    output.close()
    assert output.is_open
    assert writer.calls == [(1, {"loss": 0.5}), "flush"]
    assert opened == {}


def test_without_a_folder_there_is_nowhere_to_write(opened, tmp_path):
    output = TensorBoardOutput(None)
    assert output.can_write(tmp_path)
    assert not output.can_write(None)
    output.write(None, fail)
    output.draw(None, fail)
    assert not output.is_open
    assert TensorBoardOutput(Writer()).can_write(None)


def test_only_the_first_process_writes(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard_output, "is_main", lambda: False)
    output = TensorBoardOutput(None)
    output.write(tmp_path, write_loss)
    output.draw(tmp_path, write_loss)
    assert opened == {}


def test_drawing_does_not_block_the_caller(tmp_path):
    started, may_end, seen = threading.Event(), threading.Event(), []

    def draw(writer):
        started.set()
        assert may_end.wait(60)
        seen.append(threading.current_thread().name)

    output = TensorBoardOutput(Writer())
    output.draw(None, draw)
    assert started.wait(60)
    assert seen == []
    may_end.set()
    output.finish_drawing()
    assert len(seen) == 1
    assert seen[0].startswith("tensorboard")


def test_drawings_are_made_in_order_and_all_are_finished():
    drawn, output = [], TensorBoardOutput(Writer())
    for number in range(20):  # more than may wait
        output.draw(None, lambda writer, number=number: drawn.append(number))
    output.finish_drawing()
    assert drawn == [*range(20)]
    output.draw(None, lambda writer: drawn.append(20))  # a new thread
    output.finish_drawing()
    assert drawn[-1] == 20


def test_failures_are_logged_once_per_kind_until_a_reset(warnings):
    output = TensorBoardOutput(Writer())
    messages = [
        "TensorBoard could not write, training continues: disk full",
        "TensorBoard could not draw, training continues: OSError('disk full')",
    ]
    for _ in range(2):
        for _ in range(3):
            output.write(None, fail)
            output.draw(None, fail)
            output.finish_drawing()
        output.reset()
    assert warnings.messages == messages * 2
