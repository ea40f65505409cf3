"""Processes that read a map-style dataset ahead of the training loop."""

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import numpy as np

from nnx_alexnet.data.examples import Rows
from nnx_alexnet.data.sources import MapSource
from nnx_alexnet.data.worker_start import (
    check_main_guard,
    check_temporary_folder,
    imported_script,
    ready_to_start,
)
from nnx_alexnet.support import existing_working_directory

_POLL_SECONDS = 1.0
_MOST_IN_FRAME = 2**20  # bytes that are searched for names


class Request(NamedTuple):
    """The rows of one batch, as a worker is asked for them."""

    indices: np.ndarray
    seed: int
    epoch: int
    batch: int


class _Failure(NamedTuple):
    """What a worker sends in place of a batch that it could not read."""

    error: Exception


class _Reader:
    """The dataset as the workers see it: a request in, a batch out. It never raises."""

    def __init__(self, source: MapSource) -> None:
        self._source = source

    def __getitem__(self, request: Request) -> Rows | _Failure:
        try:
            return self._source.take(request.indices, seed=request.seed, epoch=request.epoch)
        except Exception as error:
            return _Failure(_portable(error))


def _portable(error: Exception) -> Exception:
    """Returns an exception that survives the way to the parent, and says where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"Raised in a data worker, at {place.filename}:{place.lineno}.")
    return error


class _Requests:
    """The sampler. It lives in the parent, so a new epoch needs no new workers."""

    def __init__(self) -> None:
        self.current: Iterable[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.current)


def _as_is(batch: Any) -> Any:
    return batch


def _settle(_: int) -> None:
    """Ties a worker's life to its parent's, as it starts."""
    # These are for the parent, which may want to finish its step first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # torch's own watchdog looks at the parent process, but that is the fork server, which
    # lives as long as its children: a parent that was killed would leave them all.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class _Sink:
    """A file that keeps nothing, and notes whether a pickle names the main module."""

    names_main = False

    def write(self, data: Any) -> None:
        # Classes are in frames of 64 KiB; what is larger is an array or a string by itself.
        if len(data) < _MOST_IN_FRAME:
            self.names_main |= b"__main__" in bytes(data)


def _check_can_be_sent(source: MapSource) -> None:
    """Raises a `ValueError` unless workers can get the dataset."""
    sink = _Sink()
    try:
        ForkingPickler(sink).dump(source)
    except Exception as error:  # whatever the dataset's own methods raise
        raise ValueError(
            f"The dataset cannot be sent to workers: {type(error).__name__}: {error}. Use "
            "functions of a module in place of lambdas and local functions, or num_workers=0."
        ) from error
    if sink.names_main and imported_script() is None:
        raise ValueError(
            "The dataset is defined in the main program, which workers cannot import: a notebook, "
            "an interactive session, or `python -m package`. Put it into a module of its own, or "
            "use num_workers=0."
        )


class WorkerDiedError(RuntimeError):
    """A worker process ended by itself, or was killed."""


class Workers:
    """Worker processes for one source, started by the first `read` and kept until `close`.

    They are started by forkserver: forking a process that runs JAX, which is multithreaded, can
    deadlock. So the source must be picklable, and a script that starts workers needs the guard
    `if __name__ == "__main__":`; `check` looks for both.

    Args:
        source: what the workers read.
        num_workers: the number of processes.
        argument: what the user calls the split, for errors.
    """

    def __init__(self, source: MapSource, *, num_workers: int, argument: str = "data") -> None:
        self._argument = argument
        self._source = source
        self._num_workers = num_workers
        self._requests = _Requests()
        self._loader: Any = None
        self._iterator: Any = None
        self._num_reads = 0
        self._is_checked = False

    def check(self) -> None:
        """Checks that workers can be started; `read` does so, too, but late in a run.

        Raises:
            ValueError: the script lacks its guard, the dataset cannot be pickled, or there is no
                temporary folder for sockets.
        """
        if not self._is_checked:
            check_main_guard(self._num_workers)
            check_temporary_folder()
            _check_can_be_sent(self._source)
            self._is_checked = True

    def _start(self) -> None:
        with existing_working_directory():  # without one, torch ends the process (its MKL does)
            import torch
            from torch.utils.data import DataLoader

        context = multiprocessing.get_context("forkserver")
        # The server imports what the workers need once, and they share it. No thread runs there.
        context.set_forkserver_preload(["__main__", "torch", __name__])
        self._loader = DataLoader(
            _Reader(self._source),  # type: ignore[arg-type]  # torch asks for its own base class
            sampler=self._requests,
            batch_size=None,
            collate_fn=_as_is,
            num_workers=self._num_workers,
            persistent_workers=True,
            multiprocessing_context=context,
            worker_init_fn=_settle,
            # Its own generator, so that the user's global one is not moved.
            generator=torch.Generator(),
        )

    def read(self, requests: Iterable[Request]) -> Iterator[Rows]:
        """Yields the batches of `requests`, in order. It ends any earlier `read`.

        Raises:
            ValueError: see `check`.
            OSError: the system does not allow to start so many processes.
            Exception: what the dataset raised in a worker, of the same type and message.
            WorkerDiedError: a worker died; the message names the batch that was waited for.
            RuntimeError: this iterator goes on after a later one was started.
        """
        if self._loader is None:
            self.check()
            self._start()
        self._num_reads += 1
        read = self._num_reads
        requests = list(requests)
        self._requests.current = requests
        num_read = 0
        try:
            self._iterator = self._started()
            # torch looks for dead workers each 5 seconds; a fork server's children send no signal.
            get = type(self._iterator)._try_get_data
            self._iterator._try_get_data = partial(get, self._iterator, _POLL_SECONDS)
            while True:
                if read != self._num_reads:
                    raise RuntimeError(
                        "This iteration over a data loader with workers was ended by a later one "
                        "or by close(). Finish one iteration first, or use num_workers=0."
                    )
                try:
                    rows = next(self._iterator)
                except StopIteration:
                    return
                if isinstance(rows, _Failure):
                    raise rows.error
                num_read += 1
                yield rows
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error):
                raise
            self.close()
            waited_for = requests[min(num_read, len(requests) - 1)]
            place = f"batch {waited_for.batch} of epoch {waited_for.epoch} of `{self._argument}`"
            dataset = type(self._source.dataset).__name__
            raise WorkerDiedError(_death_message(f"{place} ({dataset})", error)) from None

    def _started(self) -> Any:
        """Returns an iterator of the loader; the first one starts the workers."""
        try:
            with ready_to_start():
                return iter(self._loader)
        except (EOFError, ConnectionError) as error:
            self._loader = None
            raise WorkerDiedError(
                f"The workers of `{self._argument}` failed to start; the reason is printed above. "
                "num_workers=0 reads in this process."
            ) from error
        except OSError as error:
            self._loader = None
            raise OSError(
                error.errno,
                f"The {self._num_workers} workers of `{self._argument}` could not be started: "
                f"{error.strerror or error}. num_workers=0 reads in this process.",
            ) from error

    def close(self) -> None:
        """Ends the workers; a later `read` starts new ones."""
        self._num_reads += 1
        if self._iterator is not None:
            workers = self._iterator._workers
            self._iterator._shutdown_workers()
            for worker in workers:
                if worker.is_alive():  # stuck in a read: it takes no other signal
                    worker.kill()
        self._iterator = self._loader = None


def _death_message(place: str, error: RuntimeError) -> str:
    return (
        f"A data worker died while the trainer waited for {place}: {error}. Either it printed the "
        "reason, or it was killed, perhaps because there was not enough memory for `num_workers` "
        "processes. num_workers=0 reads in this process."
    )
