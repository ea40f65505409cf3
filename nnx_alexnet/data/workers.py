"""Processes that read a map-style dataset ahead of the training loop."""

import atexit
import itertools
import os
import time
import weakref
from collections.abc import Iterable, Iterator

from nnx_alexnet.data.examples import Rows
from nnx_alexnet.data.map_source import MapSource
from nnx_alexnet.data.worker_process import BatchRequest, Failure, WorkerDiedError, WorkerProcess
from nnx_alexnet.data.worker_start import (
    check_can_be_sent,
    check_main_guard,
    check_temporary_folder,
    ready_to_start,
)

_NUM_AHEAD = 2  # batches that each worker reads before they are needed
_SECONDS_TO_END = 5.0  # for workers that are reading when the parent closes


class Workers:
    """Worker processes for one source, started by the first `read` and kept until `close`.

    Batches are dealt to the workers in turn. The source must be picklable, and a script that
    starts workers needs the guard `if __name__ == "__main__":`; `check` looks for both.

    Args:
        source: what the workers read.
        num_workers: the number of processes.
        argument: what the user calls the split, for errors.
    """

    def __init__(self, source: MapSource, *, num_workers: int, argument: str = "data") -> None:
        self._argument = argument
        self._source = source
        self._num_workers = num_workers
        self._processes: list[WorkerProcess] = []
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
            check_can_be_sent(self._source)
            self._is_checked = True

    def read(self, requests: Iterable[BatchRequest]) -> Iterator[Rows]:
        """Yields the batches of `requests`, in order. It ends any earlier `read`.

        Raises:
            ValueError: see `check`.
            OSError: the system does not allow so many processes.
            Exception: what the dataset raised in a worker, of the same type and message.
            WorkerDiedError: a worker died; the message names the batch that was waited for.
            RuntimeError: this iterator is used after a later one was started.
        """
        if not self._processes:
            self.check()
            self._start()
        self._num_reads += 1
        read, requests = self._num_reads, list(requests)
        # Two passes over the same pairs: requests are sent ahead of the answers.
        asked, awaited = (
            zip(itertools.cycle(self._processes), requests, strict=False) for _ in range(2)
        )
        for process, request in itertools.islice(asked, _NUM_AHEAD * self._num_workers):
            process.ask(read, request)
        for process, request in awaited:
            if read != self._num_reads:
                raise RuntimeError(
                    "This iteration over a data loader with workers was ended by a later one "
                    "or by close(). Finish one iteration first, or use num_workers=0."
                )
            rows = self._answer(process, request, read)
            for next_process, next_request in itertools.islice(asked, 1):
                next_process.ask(read, next_request)
            yield rows

    def _answer(self, process: WorkerProcess, request: BatchRequest, read: int) -> Rows:
        try:
            answer = process.answer(read)
        except WorkerDiedError as error:
            self.close()
            dataset = type(self._source.dataset).__name__
            raise WorkerDiedError(
                f"A data worker died while the trainer waited for batch {request.batch} of epoch "
                f"{request.epoch} of `{self._argument}` ({dataset}): {error}. Either it printed "
                "the reason, or it was killed, perhaps because there was not enough memory for "
                "`num_workers` processes. num_workers=0 reads in this process."
            ) from None
        except BaseException:  # interrupted within an answer, whose rest is still in the pipe
            self.close()
            raise
        if isinstance(answer, Failure):
            raise answer.error
        return answer

    def _start(self) -> None:
        """Starts all workers, or none."""
        _running.add(self)
        try:
            with ready_to_start():
                for number in range(self._num_workers):
                    process = WorkerProcess(
                        self._source, number=number, num_workers=self._num_workers
                    )
                    self._processes.append(process)
        except (EOFError, ConnectionError) as error:
            self.close()
            raise WorkerDiedError(
                f"The workers of `{self._argument}` failed to start; the reason is printed above. "
                "num_workers=0 reads in this process."
            ) from error
        except OSError as error:
            self.close()
            raise OSError(
                error.errno,
                f"The {self._num_workers} workers of `{self._argument}` could not be started: "
                f"{error.strerror or error}. num_workers=0 reads in this process.",
            ) from error

    def close(self) -> None:
        """Ends the workers; a later `read` starts new ones."""
        self._num_reads += 1
        processes, self._processes = self._processes, []
        for process in processes:
            process.hang_up()
        deadline = time.monotonic() + _SECONDS_TO_END
        for process in processes:
            process.end(max(0.0, deadline - time.monotonic()))


_running: weakref.WeakSet[Workers] = weakref.WeakSet()
_parent = os.getpid()


def _close_all() -> None:
    """Ends what was not closed, so that `multiprocessing` does not wait for it at exit."""
    if os.getpid() == _parent:  # a forked child cannot wait for processes of its parent
        for workers in list(_running):
            workers.close()


# Runs before the exit function of `multiprocessing`, which was registered by the imports above.
atexit.register(_close_all)
