"""The files of a cache of decoded examples, which processes and runs share.

A cache is a folder of three files:

- `records`: the examples, in records of one length, one after another;
- `journal`: an entry of 32 bytes for each record: its key, its number, its writer, a CRC-32 of key
  and record, and a checksum of the entry itself;
- `cache.json`: a description of the cache, for people.

A record is written before its entry, both under a lock of the journal, and neither is changed
afterwards. A record without an entry does not exist. So a process may be killed at any moment: the
next writer overwrites a record without an entry, and removes an incomplete entry. Nothing is synced
to the disk. After a power failure, an entry may therefore exist whose record is missing or damaged;
the CRC shows that, and the example is decoded again.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import struct
import threading
import weakref
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnx_alexnet.data.cache_files import (
    ABOUT,
    JOURNAL,
    Buffers,
    CacheFiles,
    close,
    locked,
    open_files,
    read_at,
    write_at,
)
from nnx_alexnet.support import write_whole

KEY_BYTES = 16

Entries = np.ndarray[Any, Any]
"""Entries of the journal, a structured array."""

_ENTRY = np.dtype(
    [("key", "V16"), ("number", "<u4"), ("writer", "<u4"), ("crc", "<u4"), ("check", "<u4")]
)
_WORDS = _ENTRY.itemsize // 4
# Odd, so that a change of any single word changes the sum.
_WEIGHTS = (np.arange(1, _WORDS, dtype=np.uint64) * 2654435761 | 1).astype(np.uint32)


class DecodedCache:
    """Reads and writes the records of one cache.

    The folder is created by the first `add`. Threads may share an object. A pickled copy or a
    forked process opens the files again.

    Args:
        folder: the folder of the cache.
        record_bytes: the length of a record.
        about: the contents of `cache.json`.

    Attributes:
        folder: as given.
        record_bytes: as given.
        writer: a random number in the entries that this object and its pickled copies write.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from nnx_alexnet.data.decoded_cache import DecodedCache, record_crc
        >>> cache = DecodedCache(Path(tempfile.mkdtemp(), "new"), record_bytes=3)
        >>> cache.add(b"0123456789abcdef", [memoryview(b"abc")])
        0
        >>> entry, found = cache.entries()[0], bytearray(3)
        >>> bytes(entry["key"]), cache.read(entry["number"], [memoryview(found)]), bytes(found)
        (b'0123456789abcdef', True, b'abc')
        >>> record_crc(entry["key"], [memoryview(found)]) - int(entry["crc"])
        0
    """

    def __init__(
        self, folder: Path, *, record_bytes: int, about: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self.record_bytes = record_bytes
        self.writer = secrets.randbits(32)
        self._about = dict(about or {})
        self._process = os.getpid()
        self._has_about = False
        self._files: CacheFiles | None = None
        self._adding, self._opening = threading.Lock(), threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": None, "_adding": None, "_opening": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _process=os.getpid())
        self._adding, self._opening = threading.Lock(), threading.Lock()

    # ---- Reading -----------------------------------------------------------------------------

    def entries(self, start: int = 0) -> Entries:
        """Returns the entries of the journal, including those that other processes have written.

        Args:
            start: the number of the first entry to return (default 0).

        Returns:
            The fields `key`, `number`, `writer` and `crc`. The key of a damaged entry is zero.
        """
        files = self._open(creates=False)
        num = 0 if files is None else os.fstat(files.journal).st_size // _ENTRY.itemsize
        entries = np.zeros(max(0, num - start), _ENTRY)
        if files is not None and len(entries):
            read_at(files.journal, [as_bytes(entries)], start * _ENTRY.itemsize)
            is_intact = entries["check"] == _checks(entries)
            is_intact &= entries["number"] == np.arange(start, num)
            entries["key"][~is_intact] = bytes(KEY_BYTES)
        return entries

    def read(self, number: int, buffers: Buffers) -> bool:
        """Reads a record, or several adjacent ones, without checking them.

        Args:
            number: the number of the first record.
            buffers: receive the records.

        Returns:
            Whether the file contains them.
        """
        files = self._open(creates=False)
        try:
            return files is not None and read_at(files.records, buffers, number * self.record_bytes)
        except OSError:  # a damaged disk: the examples can be decoded again
            return False

    # ---- Writing -----------------------------------------------------------------------------

    def add(
        self,
        key: bytes,
        buffers: Buffers,
        *,
        num_known: int = 0,
        is_there: Callable[[], bool] = bool,
    ) -> int | None:
        """Writes a record, unless another writer has added it.

        Args:
            key: the key of the example, 16 bytes.
            buffers: the parts of the record.
            num_known: how many of the first entries the caller knows (default 0).
            is_there: returns whether the current `entries` contain the key. It is called if
                there are entries that the caller does not know (default: they do not).

        Returns:
            The number of the record; None if it is there already.

        Raises:
            OSError: the record could not be written, for instance because the disk is full.
        """
        with self._adding:
            files = self._open(creates=True)
            assert files is not None
            if not files.is_writable:
                raise PermissionError(f"The cache {self.folder} is not writable.")
            if not self._has_about:
                self._write_about()
            with locked(files.journal):
                num, torn = divmod(os.fstat(files.journal).st_size, _ENTRY.itemsize)
                if num > num_known:
                    start, size = num_known * _ENTRY.itemsize, (num - num_known) * _ENTRY.itemsize
                    if key in os.pread(files.journal, size, start) and is_there():
                        return None
                if torn:  # by a writer that was killed
                    os.ftruncate(files.journal, num * _ENTRY.itemsize)
                write_at(files.records, buffers, num * self.record_bytes)
                entry = _entry(key, num, self.writer, record_crc(key, buffers))
                write_at(files.journal, [memoryview(entry)], num * _ENTRY.itemsize)
                return num

    def _write_about(self) -> None:
        if not (self.folder / ABOUT).exists():
            with contextlib.suppress(FileNotFoundError):  # another process has removed the cache
                text = json.dumps(self._about, indent=2) + "\n"
                write_whole(self.folder / ABOUT, text.encode())
        self._has_about = True

    def _open(self, *, creates: bool) -> CacheFiles | None:
        with self._opening:
            if self._process != os.getpid():  # a forked child would share the lock of its parent
                self._files, self._process = None, os.getpid()
                self.writer = secrets.randbits(32)
            if self._files is None:
                self._files = open_files(self.folder, creates=creates)
                if self._files is not None:
                    weakref.finalize(self, close, self._files)
            return self._files


def num_entries(folder: Path) -> int:
    """Returns the number of records in a cache; 0 if there is no cache.

    Args:
        folder: the folder of the cache.
    """
    try:
        return (folder / JOURNAL).stat().st_size // _ENTRY.itemsize
    except FileNotFoundError:
        return 0


def _entry(key: bytes, number: int, writer: int, crc: int) -> bytes:
    """Returns an entry of the journal."""
    content = struct.pack("<16sIII", key, number, writer, crc)
    words = struct.unpack(f"<{_WORDS - 1}I", content)
    total = sum(word * weight for word, weight in zip(words, _WEIGHTS.tolist(), strict=True)) + 1
    return content + struct.pack("<I", total % 2**32)


def _checks(entries: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns the checksum of each entry; that of an entry of zeros is not zero."""
    words = entries.view(np.uint32).reshape(-1, _WORDS)[:, :-1]
    sums: np.ndarray[Any, Any] = (words * _WEIGHTS).sum(axis=1, dtype=np.uint32) + np.uint32(1)
    return sums


def as_bytes(array: Any) -> memoryview:
    """Returns the bytes of a contiguous, nonempty array, without copying them."""
    return memoryview(array.reshape(-1).view(np.uint8))


def record_crc(key: Any, buffers: Buffers) -> int:
    """Returns the CRC-32 of the key and the parts of a record."""
    crc = zlib.crc32(key)
    for buffer in buffers:
        crc = zlib.crc32(buffer, crc)
    return crc
