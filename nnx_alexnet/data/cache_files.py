"""The open files of a cache of decoded examples: opening, locking, reading, writing, removing."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nnx_alexnet.support import open_regular

with contextlib.suppress(ImportError):  # Windows, where `cache_place` refuses to use a cache
    import fcntl

RECORDS, JOURNAL, ABOUT = "records", "journal", "cache.json"

Buffers = Sequence[memoryview]
"""The bytes of the parts of a record, in their order."""

_MOST_BUFFERS = 1024  # per call of `preadv`
# The system does not allow writing, but may allow reading.
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


class CacheFiles(NamedTuple):
    """The descriptors of the open files of a cache."""

    records: int
    journal: int
    is_writable: bool


def remove(folder: Path) -> None:
    """Removes a cache. Processes that use it keep their open files.

    Args:
        folder: the folder of the cache.

    Raises:
        OSError: a file cannot be removed.
    """
    # The lock prevents others from opening one file of this cache and one of its successor.
    with contextlib.ExitStack() as stack:
        if (files := open_files(folder, creates=False)) is not None:
            stack.callback(close, files)
            stack.enter_context(locked(files.journal))
        unfinished = sorted(folder.glob(".nnx-alexnet-*.tmp"))  # of `cache.json`
        for path in (*unfinished, folder / RECORDS, folder / JOURNAL, folder / ABOUT):
            path.unlink(missing_ok=True)
    folder.rmdir()


def open_files(folder: Path, *, creates: bool) -> CacheFiles | None:
    """Opens the two files of one cache.

    Args:
        folder: the folder of the cache.
        creates: whether to create the folder and the files if they are missing.

    Returns:
        The open files, read-only if writing is not allowed; None if there is no cache.

    Raises:
        OSError: the files cannot be opened or created.
    """
    paths = folder / RECORDS, folder / JOURNAL
    flags = os.O_RDWR | (os.O_CREAT if creates else 0)
    while True:
        opened: list[int] = []
        try:
            opened.extend(open_regular(path, flags) for path in paths)
            files = CacheFiles(opened[0], opened[1], is_writable=bool(flags & os.O_RDWR))
            with locked(files.journal):
                # Another process may have removed the cache meanwhile, and created a new one.
                if all(map(_is_at, opened, paths)):
                    opened = []
                    return files
        except (FileNotFoundError, NotADirectoryError):
            if not creates:
                return None
            if flags == os.O_RDONLY:
                what = os.strerror(errno.EACCES)
                raise PermissionError(errno.EACCES, what, str(folder)) from None
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in _NOT_WRITABLE or flags == os.O_RDONLY:
                raise
            flags = os.O_RDONLY
        finally:
            for descriptor in opened:
                os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def close(files: CacheFiles) -> None:
    """Closes the files."""
    os.close(files.records)
    os.close(files.journal)


@contextlib.contextmanager
def locked(descriptor: int) -> Iterator[None]:
    """Holds an exclusive lock on a file, which the system releases if the process ends."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def read_at(descriptor: int, buffers: Buffers, start: int) -> bool:
    """Fills buffers from a position of a file; returns whether the file is long enough."""
    if len(buffers) <= _MOST_BUFFERS:
        wanted = sum(buffer.nbytes for buffer in buffers)
        if os.preadv(descriptor, buffers, start) == wanted:
            return True  # nearly always
    for buffer in buffers:
        rest = buffer
        while rest.nbytes:  # one call reads at most 2 GB
            got = os.preadv(descriptor, [rest], start)
            if not got:
                return False
            rest, start = rest[got:], start + got
    return True


def write_at(descriptor: int, buffers: Buffers, start: int) -> None:
    """Writes buffers to a position of a file.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    for buffer in buffers:
        rest = buffer
        while rest.nbytes:
            written = os.pwrite(descriptor, rest, start)
            rest, start = rest[written:], start + written
