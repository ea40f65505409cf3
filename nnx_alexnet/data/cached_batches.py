"""Reads the batches of a cached split: threads read the cache, workers the missing examples."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from nnx_alexnet.data.cached_source import CachedSource
from nnx_alexnet.data.examples import Fields, Rows
from nnx_alexnet.data.worker_process import BatchRequest
from nnx_alexnet.data.workers import Workers

_NUM_THREADS = 2  # each reads one batch ahead

_Read = tuple[Fields, np.ndarray[Any, Any]]


def read_cached(
    source: CachedSource, requests: Sequence[BatchRequest], workers: Workers | None
) -> Iterator[Rows]:
    """Yields batches in order, and adds missing examples to the cache.

    Args:
        source: the source of the examples.
        requests: the batches.
        workers: the workers that read missing examples; None reads them in this process.
    """
    source.records.refresh()
    lacking = [source.records.missing(request.indices) for request in requests]
    pairs = list(zip(requests, lacking, strict=True))
    asked = [request._replace(indices=missing) for request, missing in pairs if len(missing)]
    answers = _taken(source, asked) if workers is None else workers.read(asked)
    upcoming = iter(pairs)
    ahead: deque[tuple[BatchRequest, np.ndarray[Any, Any], Future[_Read] | None]] = deque()
    with _threads() as threads:
        for _ in requests:
            for request, missing in itertools.islice(upcoming, _NUM_THREADS + 1 - len(ahead)):
                is_complete = not len(missing)
                future = threads.submit(source.read, request.indices) if is_complete else None
                ahead.append((request, missing, future))
            request, missing, future = ahead.popleft()
            if future is not None:
                yield _completed(source, request, future.result())
            else:
                answer = next(answers)
                source.records.refresh()
                yield _completed(source, request, source.read(request.indices), missing, answer)


def fill_cache(
    source: CachedSource, workers: Workers | None, *, num_rows: int = 32
) -> Iterator[tuple[int, Rows]]:
    """Adds all missing examples to the cache.

    Args:
        source: the source of the examples.
        workers: the workers that read missing examples; None reads them in this process.
        num_rows: the number of examples that a worker reads at once.

    Yields:
        For each part, the number of its examples, and an answer that names the bad ones.
    """
    source.records.refresh()
    missing = source.records.missing()
    parts = [missing[start : start + num_rows] for start in range(0, len(missing), num_rows)]
    requests = [BatchRequest(part, 0, 0, number) for number, part in enumerate(parts)]
    answers = _taken(source, requests) if workers is None else workers.read(requests)
    for request, answer in zip(requests, answers, strict=True):
        yield len(request.indices), answer
    source.records.refresh()


@contextlib.contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="nnx-alexnet-cache")
    try:
        yield threads
    finally:  # the consumer may stop in the middle of an epoch
        threads.shutdown(cancel_futures=True)


def _taken(source: CachedSource, requests: Sequence[BatchRequest]) -> Iterator[Rows]:
    for request in requests:
        yield source.take(request.indices, seed=request.seed, epoch=request.epoch)


def _completed(
    source: CachedSource,
    request: BatchRequest,
    read: _Read,
    missing: np.ndarray[Any, Any] | None = None,
    answer: Rows | None = None,
) -> Rows:
    """Returns a batch, with the rows that the cache lacked filled in.

    Args:
        source: the source of the examples.
        request: the request of the batch.
        read: the fields and the mask that `source.read` returned.
        missing: the examples that were requested because the cache lacked them.
        answer: the answer with those examples; it has no fields if the cache has them now.
    """
    fields, is_read = read
    bad: dict[int, str] = {}
    if missing is not None and answer is not None and answer.fields:
        is_read |= _put(fields, request.indices, missing, answer.fields)
        bad |= answer.bad
    if not is_read.all():  # damaged, or the cache was removed and created again
        rest = request.indices[~is_read]
        rows = source.take(rest, seed=request.seed, epoch=request.epoch)
        _put(fields, request.indices, rest, rows.fields)
        bad |= rows.bad
    return Rows(fields, bad=bad)


def _put(
    fields: Fields, indices: np.ndarray[Any, Any], some: np.ndarray[Any, Any], rows: Fields
) -> np.ndarray[Any, Any]:
    """Copies the rows of some examples into a batch; returns the mask of these rows."""
    is_some: np.ndarray[Any, Any] = np.isin(indices, some)

    def put(array: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> None:
        array[is_some] = values

    jax.tree.map(put, fields, rows)
    return is_some
