import multiprocessing
import os
import queue
import signal
import threading

import ml_dtypes
import numpy as np
import pytest
from data_helpers import same
from worker_datasets import Noisy, Stripes

from nnx_alexnet.data.examples import Rows
from nnx_alexnet.data.sources import MapSource
from nnx_alexnet.data.worker_process import (
    BatchRequest,
    Failure,
    WorkerDiedError,
    WorkerProcess,
    _portable,
    _receive,
    _send,
)


class PairError(Exception):
    """Cannot be pickled: its constructor needs two arguments."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def raised(error):
    try:
        raise error
    except Exception as caught:
        return caught


def test_an_exception_keeps_its_type_and_gets_a_note():
    error = _portable(raised(KeyError("a")))
    assert (type(error), error.args) == (KeyError, ("a",))
    assert error.__notes__ == [f"Raised in a data worker, at {__file__}:{raised_line()}."]


def raised_line():
    return raised.__code__.co_firstlineno + 2


def test_an_exception_that_cannot_be_pickled_becomes_a_runtime_error():
    error = _portable(raised(PairError("this", "that")))
    assert type(error) is RuntimeError
    assert str(error) == "PairError: this and that"


@pytest.fixture
def transfer():
    """Yields an outbox whose answers a thread sends, and the receiving end of the pipe."""
    incoming, outgoing = multiprocessing.Pipe(duplex=False)
    outbox = queue.SimpleQueue()
    threading.Thread(target=_send, args=(outbox, outgoing), daemon=True).start()
    yield outbox, incoming
    incoming.close()
    outbox.put((0, Failure(KeyError())))  # its sender ends, because nobody receives it


def test_arrays_of_any_size_order_and_dtype_arrive_with_equal_bits(transfer):
    outbox, incoming = transfer
    big = np.arange(1_000_003)  # several times what a pipe holds
    fields = {
        "big": big, "columns": big[:12].reshape(3, 4).T, "every_other": big[:9:2],
        "none": np.zeros((0, 3), np.float32), "scalar": np.array(True),
        "bfloat16": np.array([1.5, -2], ml_dtypes.bfloat16), "text": "abc",
    }  # fmt: skip
    outbox.put((4, Rows(fields, mask=np.array([True, False]), bad={7: "why"})))
    outbox.put((5, Failure(KeyError("a"))))
    number, rows = _receive(incoming)
    assert (number, rows.bad, rows.fields.pop("text")) == (4, {7: "why"}, fields.pop("text"))
    assert rows.mask.tolist() == [True, False]
    assert same([rows.fields], [fields])
    assert [array.dtype for array in rows.fields.values()] == [a.dtype for a in fields.values()]
    assert all(array.flags.writeable for array in rows.fields.values())
    number, failure = _receive(incoming)
    assert (number, failure.error.args) == (5, ("a",))


def test_a_pipe_that_closes_within_an_array_is_the_end_of_the_answers():
    incoming, outgoing = multiprocessing.Pipe(duplex=False)
    with incoming:
        with outgoing:
            outgoing.send((b"", [8]))
            os.write(outgoing.fileno(), b"half")
        with pytest.raises(EOFError):
            _receive(incoming)


def test_a_process_answers_until_it_is_killed():
    process = WorkerProcess(MapSource(Noisy(damaged=9)))
    try:
        for batch, indices in enumerate([[3, 1], [2]]):
            process.ask(batch, BatchRequest(np.array(indices), seed=0, epoch=0, batch=batch))
        rows = process.answer(1)  # drops the answer of the earlier read
        assert rows.fields["label"].tolist() == [2]
        process.ask(2, BatchRequest(np.array([9]), seed=0, epoch=0, batch=0))
        answer = process.answer(2)
        assert isinstance(answer, Failure)
        assert isinstance(answer.error, KeyError)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(WorkerDiedError, match=rf"process {process.pid} was killed by SIGKILL"):
            process.answer(3)
    finally:
        process.hang_up()
        process.end(5)


def test_a_process_that_ignores_its_parent_is_killed():
    process = WorkerProcess(MapSource(Stripes()))
    process.ask(0, BatchRequest(np.array([0]), seed=0, epoch=0, batch=0))
    process.answer(0)
    os.kill(process.pid, signal.SIGSTOP)  # as if stuck in a read
    process.hang_up()
    process.end(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
