"""Keeps the number of the last step of a run in its folder, even if the run is killed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from nnx_alexnet.support import open_regular, read_whole

_WIDTH = 16  # of the number; a constant size, so that a reader never finds half of one


def write_last_step(run_dir: Path, step: int) -> None:
    """Writes the number of the newest step; does nothing if that is impossible.

    The file is not synced: what a killed process has written remains, and after a power failure
    the metrics and the checkpoints show an earlier step.

    Args:
        run_dir: the folder of the run.
        step: the number of optimizer steps.
    """
    with contextlib.suppress(OSError):
        descriptor = open_regular(run_dir / ".step", os.O_WRONLY | os.O_CREAT)
        with os.fdopen(descriptor, "wb") as file:
            file.write(f"{step:>{_WIDTH}}\n".encode())


def read_last_step(run_dir: Path) -> int | None:
    """Returns the number that `write_last_step` has written; None if there is none.

    Args:
        run_dir: the folder of the run.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from nnx_alexnet.runs.last_step import read_last_step, write_last_step
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_last_step(folder, 1234)
        >>> read_last_step(folder)
        1234
    """
    try:
        text = read_whole(run_dir / ".step").decode().strip()
    except Exception:
        return None
    return int(text) if text.isdecimal() and len(text) <= _WIDTH else None
