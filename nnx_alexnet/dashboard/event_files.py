"""The names of a run's TensorBoard event files, and the order in which TensorBoard reads them."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

PREFIX = "events.out.tfevents."  # of the files that this package writes
_TIME = re.compile(rf"{re.escape(PREFIX)}(\d{{10}})\.", re.ASCII)


def event_files(run_dir: Path) -> list[Path]:
    """Returns the event files of a folder in the order in which TensorBoard reads them.

    Links and everything else that is not a regular file are left out.

    Args:
        run_dir: the folder, which need not exist.
    """
    try:
        with os.scandir(run_dir) as entries:
            names = [
                each.name
                for each in entries
                if "tfevents" in each.name and each.is_file(follow_symlinks=False)
            ]
    except OSError:
        return []
    return [run_dir / name for name in sorted(names)]


def next_event_file(run_dir: Path, suffix: str) -> Path:
    """Returns the path of a new event file that TensorBoard reads after the existing ones.

    TensorBoard reads files in the order of their names, which contain a time. The current time is
    not always a later one: the clock may have been set back since the last file was created, or may
    still show the same second.

    Args:
        run_dir: the folder that holds the event files.
        suffix: distinguishes writers that start in the same second.
    """
    names = [path.name for path in event_files(run_dir)]
    times = [int(found[1]) for name in names if (found := _TIME.match(name))]
    seconds = max([int(time.time()), *(existing + 1 for existing in times)])
    name = f"{PREFIX}{seconds:010d}.{suffix}"
    if names and name <= names[-1]:  # another program chose that name
        name = f"{names[-1]}.{suffix}"
    return run_dir / name
