import os
import signal

import numpy as np
import pytest
from worker_datasets import Noisy, Stripes

from nnx_alexnet.data.sources import MapSource
from nnx_alexnet.data.worker_process import (
    BatchRequest,
    Failure,
    WorkerDiedError,
    WorkerProcess,
    _portable,
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
