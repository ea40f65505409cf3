"""The records of one split in a cache of decoded examples."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnx_alexnet.data.cache_files import Buffers
from nnx_alexnet.data.decoded_cache import KEY_BYTES, DecodedCache, as_bytes, record_crc

_Array = np.ndarray[Any, Any]


class CachedRecords:
    r"""Finds the records of a split by the indices of its examples.

    The CRC of each record is checked when this object first reads it, unless this process or its
    workers have written it: a power failure would have ended them. Threads may share an object.

    Args:
        cache: the files of the cache.
        keys: the keys of the examples, uint8 `[N, 16]`. If several records have the key of an
            example, the newest one counts.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from nnx_alexnet.data.cached_records import CachedRecords
        >>> from nnx_alexnet.data.decoded_cache import DecodedCache
        >>> cache = DecodedCache(Path(tempfile.mkdtemp()), record_bytes=2)
        >>> keys = np.arange(32, dtype=np.uint8).reshape(2, 16)
        >>> records = CachedRecords(cache, keys)
        >>> records.add(1, [memoryview(b"ab")])
        >>> records.refresh()
        >>> records.missing(np.array([0, 1]))
        array([0])
        >>> rows = np.zeros((2, 2), np.uint8)
        >>> records.read(np.array([1, 0]), [rows]), rows.tobytes()
        (array([ True, False]), b'ab\x00\x00')
    """

    def __init__(self, cache: DecodedCache, keys: _Array) -> None:
        self.cache = cache
        self.keys = keys
        self._lock = threading.Lock()
        self._num_seen = 0  # entries of the journal
        self._numbers = np.full(len(keys), -1)  # of the records
        self._crcs = np.zeros(len(keys), np.uint32)
        self._is_checked = np.zeros(len(keys), bool)
        # Keys are compared by their first eight bytes, and then as a whole.
        self._starts = keys[:, :8].copy().view(np.uint64)[:, 0]
        self._order = np.argsort(self._starts, kind="stable")
        self._starts = self._starts[self._order]

    def __reduce__(self) -> tuple[Any, ...]:
        return CachedRecords, (self.cache, self.keys)

    def refresh(self) -> None:
        """Finds records that this or other processes have added."""
        with self._lock:
            entries = self.cache.entries(self._num_seen)
            if not len(entries):
                return
            self._num_seen += len(entries)
            keys = entries["key"].copy().view(np.uint8).reshape(-1, KEY_BYTES)
            starts = keys[:, :8].copy().view(np.uint64)[:, 0]
            places = np.minimum(np.searchsorted(self._starts, starts), len(self._order) - 1)
            indices = self._order[places]
            is_own = (self.keys[indices] == keys).all(axis=1)
            indices, entries = indices[is_own], entries[is_own]
            self._numbers[indices] = entries["number"]  # the newest one of several wins
            self._crcs[indices] = entries["crc"]
            self._is_checked[indices] = entries["writer"] == self.cache.writer

    def has(self, index: int) -> bool:
        """Returns whether an example had an intact record at the last `refresh`."""
        return bool(self._numbers[index] >= 0)

    def missing(self, indices: _Array | None = None) -> _Array:
        """Returns the indices of the examples without an intact record at the last `refresh`.

        Args:
            indices: the examples to look up (default: all).
        """
        if indices is None:
            return np.flatnonzero(self._numbers < 0)
        missing: _Array = indices[self._numbers[indices] < 0]
        return missing

    def read(self, indices: _Array, arrays: Sequence[_Array]) -> _Array:
        """Reads records into the rows of arrays.

        Args:
            indices: the indices of the examples, int `[B]`.
            arrays: receive the parts of the records, `[B, ...]`, contiguous.

        Returns:
            A mask of the rows that were read, bool `[B]`. The other rows have arbitrary values.
        """
        with self._lock:
            numbers, crcs = self._numbers[indices], self._crcs[indices]
            is_new = ~self._is_checked[indices]
        views = [(as_bytes(array), array.nbytes // len(array)) for array in arrays]
        is_read = np.zeros(len(indices), bool)
        order = np.argsort(numbers, kind="stable")
        order = order[np.count_nonzero(numbers < 0) :]
        # Adjacent records are read with one call.
        bounds = [0, *(np.flatnonzero(np.diff(numbers[order]) != 1) + 1).tolist(), len(order)]
        rows, firsts = order.tolist(), numbers[order].tolist()
        for start, stop in itertools.pairwise(bounds) if rows else ():
            run = rows[start:stop]
            buffers = [view[row * size : (row + 1) * size] for row in run for view, size in views]
            is_read[run] = self.cache.read(firsts[start], buffers)
        for row in np.flatnonzero(is_read & is_new).tolist():
            buffers = [view[row * size : (row + 1) * size] for view, size in views]
            is_read[row] = record_crc(self.keys[indices[row]].data, buffers) == crcs[row]
        if is_new.any() or not is_read.all():
            self._note(indices, numbers, is_read)
        return is_read

    def _note(self, indices: _Array, numbers: _Array, is_read: _Array) -> None:
        """Remembers which records are intact; another thread may have found newer ones."""
        with self._lock:
            is_same = self._numbers[indices] == numbers
            self._is_checked[indices[is_same & is_read]] = True
            self._numbers[indices[is_same & ~is_read]] = -1

    def add(self, index: int, buffers: Buffers) -> None:
        """Writes the record of an example, unless it exists.

        Raises:
            OSError: it could not be written.
        """

        def is_there() -> bool:
            self.refresh()
            return self.has(index)

        if self.has(index):
            return
        number = self.cache.add(
            self.keys[index].tobytes(), buffers, num_known=self._num_seen, is_there=is_there
        )
        if number is not None:
            with self._lock:
                self._numbers[index], self._is_checked[index] = number, True
                self._num_seen += self._num_seen == number
