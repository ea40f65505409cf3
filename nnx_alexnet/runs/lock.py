"""A lock on a run's folder that ends with the process that took it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import weakref
from pathlib import Path

from nnx_alexnet.support import NotRegularFileError, open_regular

_TRIES, _PAUSE = 25, 0.02  # seconds; `is_locked` holds a lock for a small part of one


class RunLock:
    """Held by the one process that writes a run; released by `close` or by its death.

    A process that it forks, a loader worker for instance, does not hold it.

    Args:
        run_dir: the folder of the run.

    Raises:
        ValueError: another run holds it; the message names its host and process.
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
        self._descriptor: int | None = None
        try:
            import fcntl
        except ImportError:  # there is none on Windows
            return
        path = Path(run_dir) / ".lock"
        for left in reversed(range(_TRIES)):
            self._descriptor = _open(path)
            _held.add(self)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(path, self._descriptor):
                    break
            except BlockingIOError:
                if not left:
                    owner = os.pread(self._descriptor, 1000, 0).decode(errors="replace").strip()
                    self.close()
                    raise ValueError(
                        f"The run {run_dir} is being written by {owner or 'another process'}. "
                        'Wait until it ends, or start a new one with resume="never".'
                    ) from None
                time.sleep(_PAUSE)  # perhaps somebody only looks whether it is locked
            except OSError:
                self.close()
                raise
            self.close()
        else:
            raise OSError(
                f"{path} was replaced while the run was being locked; start the run again."
            )
        os.ftruncate(self._descriptor, 0)
        os.pwrite(
            self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0
        )

    def close(self) -> None:
        """Lets go of the folder; a second call does nothing."""
        if self._descriptor is not None:
            import fcntl

            # Not only by closing it: a child forked right now may not have closed its copy yet.
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._abandon()

    def _abandon(self) -> None:
        """Closes the file, which leaves the lock to other processes that have it open."""
        _held.discard(self)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


# A lock belongs to the open file, which a forked child shares: it would outlive its parent.
_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _abandon_in_child() -> None:
    for lock in [*_held]:
        lock._abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_in_child)


def _open(path: Path) -> int:
    """Opens the lock's file; what else has its name, a link to another file say, gives way."""
    try:
        return open_regular(path, os.O_RDWR | os.O_CREAT)
    except NotRegularFileError:
        path.unlink()
        return open_regular(path, os.O_RDWR | os.O_CREAT)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file still has that name: nobody would meet a lock on another."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def is_locked(run_dir: str | Path) -> bool:
    """Returns whether a process writes the run; False where that cannot be told.

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
        import fcntl

        descriptor = open_regular(Path(run_dir) / ".lock", os.O_RDONLY)
    except (ImportError, OSError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
