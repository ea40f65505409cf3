"""A lock on a run's folder that ends with the process that acquired it.

`filelock` does the locking. Two things are missing there: it locks a FIFO of the lock's name, and
it cannot test a lock without acquiring it exclusively, which needs write access and would show the
run as running to another process that tests it at the same moment.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

from filelock import FileLock, Timeout, lock_descriptor, unlock_descriptor

from nnx_alexnet.support import open_regular, read_whole

_TIMEOUT, _POLL = 0.5, 0.02  # seconds; `is_locked` holds a lock for far less


class RunLock:
    """Held by the one process that writes a run; released by `close` or when the process ends.

    Forked children, such as loader workers, do not hold it.

    Args:
        run_dir: the folder of the run.

    Raises:
        ValueError: another run holds the lock; the message names its host and process.
        OSError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> from nnx_alexnet.runs.lock import RunLock
        >>> folder = tempfile.mkdtemp()
        >>> lock = RunLock(folder)
        >>> RunLock(folder)
        Traceback (most recent call last):
        ValueError: The run ... is being written by process ... on ...
        >>> lock.close()
        >>> RunLock(folder).close()
    """

    def __init__(self, run_dir: str | Path) -> None:
        path = _lock_file(run_dir)
        _remove_irregular(path)
        self._lock = FileLock(
            path, thread_local=False, preserve_lock_file=True, on_acquired=_write_owner
        )
        try:
            self._lock.acquire(timeout=_TIMEOUT, poll_interval=_POLL)
        except Timeout:
            raise ValueError(
                f"The run {run_dir} is being written by {_owner(path)}. "
                'Wait until it ends, or start a new one with resume="never".'
            ) from None

    def close(self) -> None:
        """Releases the lock; a second call does nothing."""
        self._lock.release()


def is_locked(run_dir: str | Path) -> bool:
    """Returns whether a process writes the run; False if that cannot be determined.

    Any number of processes may ask at the same time; read access is enough.

    Args:
        run_dir: the folder of the run.

    Example:
        >>> import tempfile
        >>> from nnx_alexnet.runs.lock import RunLock, is_locked
        >>> folder = tempfile.mkdtemp()
        >>> lock = RunLock(folder)
        >>> is_locked(folder)
        True
        >>> lock.close()
        >>> is_locked(folder)
        False
    """
    try:
        descriptor = open_regular(_lock_file(run_dir), os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _can_lock(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _lock_file(run_dir: str | Path) -> Path:
    return Path(run_dir) / ".lock"


def _remove_irregular(path: Path) -> None:
    """Removes a link, a FIFO or a socket that has the name of the lock's file."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            path.unlink()


def _write_owner(descriptor: int) -> None:
    """Writes into the locked file who holds it, for the error that others get."""
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def _owner(path: Path) -> str:
    try:
        return read_whole(path).decode(errors="replace").strip() or "another process"
    except OSError:  # on Windows, a locked file cannot be read
        return "another process"


def _can_lock(descriptor: int) -> bool:
    """Acquires and releases a lock, shared with other calls of this function where possible."""
    try:
        import fcntl
    except ImportError:  # Windows
        if is_free := lock_descriptor(descriptor, blocking=False):
            unlock_descriptor(descriptor)
        return is_free
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # released when it is closed
    except BlockingIOError:
        return False
    return True
