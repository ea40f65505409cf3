"""A lock on a run's folder that dies with the process that holds it."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

_TRIES, _PAUSE = 6, 0.02  # seconds; `is_locked` holds a lock for a small part of one


class RunLock:
    """Held by the one process that writes a run; released by `close` or by its death.

    Args:
        run_dir: the folder of the run.

    Raises:
        ValueError: another run holds it; the message names its host and process.

    Example:
        >>> import tempfile
        >>> from nnx_alexnet.locks import RunLock
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
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            for left in reversed(range(_TRIES)):
                try:
                    fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not left:
                        raise
                    time.sleep(_PAUSE)  # perhaps somebody only looks whether it is locked
        except BlockingIOError:
            owner = os.pread(self._descriptor, 1000, 0).decode(errors="replace").strip()
            self.close()
            raise ValueError(
                f"The run {run_dir} is being written by {owner or 'another process'}. Wait until "
                'it ends, or start a new one with resume="never".'
            ) from None
        except OSError:
            self.close()
            raise
        os.ftruncate(self._descriptor, 0)
        os.pwrite(
            self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0
        )

    def close(self) -> None:
        """Lets go of the folder; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_locked(run_dir: str | Path) -> bool:
    """Whether a process writes the run; False where that cannot be told.

    Args:
        run_dir: the folder of the run.

    Example:
        >>> import tempfile
        >>> from nnx_alexnet.locks import RunLock, is_locked
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

        descriptor = os.open(Path(run_dir) / ".lock", os.O_RDONLY)
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
