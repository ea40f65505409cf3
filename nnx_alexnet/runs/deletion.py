"""Deletes the folders of runs."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from nnx_alexnet.runs.lock import RunLock


def folder_size(folder: Path) -> int:
    """Returns the size of a folder's files, in bytes; files that vanish meanwhile do not count.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from nnx_alexnet.runs.deletion import folder_size
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a").write_bytes(b"123")
        >>> folder_size(folder)
        3
    """
    total = 0
    for path, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(Path(path, name)).st_size
    return total


def delete_run(run_dir: Path, log_dir: Path) -> None:
    """Deletes the folder of a run, and then its parents up to `log_dir` that are empty.

    Args:
        run_dir: the folder of the run.
        log_dir: the folder of all runs, which is kept.

    Raises:
        ValueError: the run is being written, or `run_dir` is not the folder of a run.
        OSError: a file cannot be deleted.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from nnx_alexnet.runs.deletion import delete_run
        >>> from nnx_alexnet.runs.folder import create_run_dir
        >>> log_dir = Path(tempfile.mkdtemp())
        >>> run_dir = create_run_dir(log_dir, "mine")
        >>> _ = (run_dir / "config.yaml").write_text("")
        >>> delete_run(run_dir, log_dir)
        >>> list(log_dir.iterdir())
        []
    """
    if run_dir.is_symlink() or not (run_dir / "config.yaml").is_file():
        raise ValueError(f"{str(run_dir)!r} is not the folder of a run with its config.yaml.")
    lock = RunLock(run_dir)
    try:
        # Without its configuration, a folder that is deleted only in part is no longer a run.
        (run_dir / "config.yaml").unlink()
        shutil.rmtree(run_dir)
    finally:
        lock.close()
    parent = run_dir.parent
    with contextlib.suppress(OSError):  # it holds something else
        while parent != log_dir and parent.is_relative_to(log_dir):
            parent.rmdir()
            parent = parent.parent
