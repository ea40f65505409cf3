"""A process that reads batches of a map-style dataset, and its parent's end of the pipes to it.

A torch `DataLoader` has no public way, as of torch 2.14, to notice a dead child of a fork server in
less than 5 seconds, or to kill a worker that is stuck in a read. So the processes are our own, and
use the public interface of `multiprocessing`. Datasets may still call torch's `get_worker_info()`.
"""

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from nnx_alexnet.data.examples import Rows
from nnx_alexnet.data.map_source import MapSource
from nnx_alexnet.support import existing_working_directory


class BatchRequest(NamedTuple):
    """The rows of one batch that a worker is asked to read."""

    indices: np.ndarray
    seed: int
    epoch: int
    batch: int


class Failure(NamedTuple):
    """A worker's answer for a batch that it could not read."""

    error: Exception


_Answer = tuple[int, Rows | Failure]
"""The number of a read, and the answer to one of its requests."""


class WorkerDiedError(RuntimeError):
    """A worker process ended by itself, or was killed."""


class WorkerProcess:
    """A daemon process that answers requests in order.

    It is started by a fork server: forking a process that runs JAX, which is multithreaded, can
    deadlock. It ends when its parent closes the pipes or ends itself.

    Args:
        source: what the process reads; it is pickled.
        number: of this worker, from 0.
        num_workers: how many workers the source has.
    """

    def __init__(self, source: MapSource, *, number: int = 0, num_workers: int = 1) -> None:
        context = multiprocessing.get_context("forkserver")
        # The server imports these modules once, and its children share them. No thread runs there.
        context.set_forkserver_preload(["__main__", "torch", __name__])
        requests, self._requests = context.Pipe(duplex=False)
        self._answers, answers = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_serve, args=(source, number, num_workers, requests, answers), daemon=True
        )
        try:
            self._process.start()
        finally:  # only the child keeps these ends, so that each side notices if the other closes
            requests.close()
            answers.close()

    @property
    def pid(self) -> int | None:
        """The id of the process."""
        return self._process.pid

    def ask(self, read: int, request: BatchRequest) -> None:
        """Sends a request.

        Args:
            read: a number that the answer carries.
            request: what to read.
        """
        with contextlib.suppress(OSError):  # of a dead process, which `answer` reports
            self._requests.send((read, request))

    def answer(self, read: int) -> Rows | Failure:
        """Waits for the next answer to a request of this read; drops those of earlier reads.

        Raises:
            WorkerDiedError: the process has ended.
        """
        try:
            while True:
                number, rows = _receive(self._answers)
                if number == read:
                    return rows
        except (EOFError, OSError):
            raise self._died() from None

    def hang_up(self) -> None:
        """Closes the pipes, so that the process ends after what it is reading."""
        self._requests.close()
        self._answers.close()

    def end(self, seconds: float) -> None:
        """Waits for the process to end, and kills it if it takes longer."""
        self._process.join(seconds)
        if self._process.is_alive():  # stuck in a read: it ignores all other signals
            self._process.kill()
            self._process.join()

    def _died(self) -> WorkerDiedError:
        self._process.join(1)
        code = self._process.exitcode
        how = "ended" if code is None else f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        return WorkerDiedError(f"process {self.pid} {how}")


def _serve(
    source: MapSource, number: int, num_workers: int, requests: Connection, answers: Connection
) -> None:
    """Reads one request after another until the parent closes the pipe."""
    _settle()
    _tell_torch(source, number, num_workers)
    # A thread of its own sends, so that the next batch is read while the parent is busy.
    outbox: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
    threading.Thread(target=_send, args=(outbox, answers), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            read, request = requests.recv()
            outbox.put((read, _answer(source, request)))


def _settle() -> None:
    """Ties a worker's life to its parent's, and leaves the other CPUs to the other workers."""
    # The parent handles these signals, and may finish its step first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with existing_working_directory():  # without one, torch ends the process (its MKL does)
        import torch
    torch.set_num_threads(1)


def _tell_torch(source: MapSource, number: int, num_workers: int) -> None:
    """Sets what `torch.utils.data.get_worker_info()` returns, for datasets that ask.

    torch has no public way to set it (as of torch 2.14). Its `seed` is that of no generator: each
    example seeds the generators itself.
    """
    from torch.utils.data._utils import worker

    worker._worker_info = worker.WorkerInfo(
        id=number, num_workers=num_workers, seed=number, dataset=source.dataset
    )


def _end_with_parent() -> None:
    """Ends a worker that is stuck in a read while its parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _send(outbox: "queue.SimpleQueue[_Answer]", answers: Connection) -> None:
    """Sends the answers in an outbox: the pickled structure, then the arrays without a copy."""
    with answers, contextlib.suppress(OSError):  # whatever ends this thread, the parent notices
        while True:
            buffers: list[pickle.PickleBuffer] = []
            pickled = pickle.dumps(outbox.get(), protocol=5, buffer_callback=buffers.append)
            views = [buffer.raw() for buffer in buffers]
            answers.send((pickled, [view.nbytes for view in views]))
            for view in views:
                sent = 0
                while sent < view.nbytes:
                    sent += os.write(answers.fileno(), view[sent:])


def _receive(answers: Connection) -> _Answer:
    """Receives an answer from `_send`, and reads each array into memory of its own.

    Raises:
        EOFError: the other end was closed.
    """
    pickled, sizes = answers.recv()
    buffers = [np.empty(size, np.uint8) for size in sizes]
    for buffer in buffers:
        received = 0
        while received < len(buffer):
            num = os.readv(answers.fileno(), [buffer.data[received:]])
            if not num:
                raise EOFError
            received += num
    answer: _Answer = pickle.loads(pickled, buffers=buffers)
    return answer


def _answer(source: MapSource, request: BatchRequest) -> Rows | Failure:
    try:
        return source.take(request.indices, seed=request.seed, epoch=request.epoch)
    except Exception as error:
        return Failure(_portable(error))


def _portable(error: Exception) -> Exception:
    """Returns an exception that can be sent to the parent, with a note where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"Raised in a data worker, at {place.filename}:{place.lineno}.")
    return error
