"""Names, renames and deletes the folders in a run's `checkpoints`.

A checkpoint is written to a folder with another name, which is renamed when it is complete. A kill
at any moment therefore leaves whole checkpoints and folders with other names, which the next start
repairs. A folder is renamed before it is deleted, so that a partial one never has the name of a
checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from nnx_alexnet.checkpoints.integrity import files_below
from nnx_alexnet.support import logger, parse_number, sync_file, sync_folder

_WRITING = "writing-"
_REPLACED = "replaced-"  # about to be replaced by a newer save of the same step
_DELETING = "deleting-"
_DAMAGED = "damaged-"
_HALF_DONE = re.compile(rf"{_WRITING}[0-9a-f]{{8}}|{_DELETING}({_REPLACED})?[0-9]+")
_WAS_REPLACED = re.compile(rf"{_REPLACED}[0-9]+")
_OVERHEAD = 2**19  # bytes of a checkpoint's files in addition to its arrays
_QUIET, _PATIENCE = 0.3, 10.0  # seconds that a deleted folder must stay away; to wait at most


def tidy(directory: Path) -> None:
    """Repairs what a run that was killed while saving or deleting left behind.

    Args:
        directory: the folder of checkpoints.

    Raises:
        OSError: it cannot be read, or a folder in it cannot be renamed.
    """
    for folder in _folders(directory):
        if _HALF_DONE.fullmatch(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
        elif _WAS_REPLACED.fullmatch(folder.name):
            whole = directory / folder.name.removeprefix(_REPLACED)
            if whole.exists():
                delete(folder)
            else:
                folder.rename(whole)


def misnamed(directory: Path) -> list[Path]:
    """Returns the folders whose name is a number but not a step, such as `010` or `²`."""
    return [
        folder
        for folder in _folders(directory)
        if folder.name.isdigit() and parse_number(folder.name) is None
    ]


def has_damaged(directory: Path) -> bool:
    """Returns whether a folder of checkpoints holds any that were found to be damaged."""
    return any(folder.name.startswith(_DAMAGED) for folder in _folders(directory))


def _folders(directory: Path) -> list[Path]:
    with os.scandir(directory) as entries:
        return [directory / each.name for each in entries if each.is_dir(follow_symlinks=False)]


def check_room(directory: Path, size: int) -> None:
    """Raises an `OSError` if the disk is too full, before anything is written.

    Args:
        directory: the folder of checkpoints, created if missing.
        size: number of bytes of the arrays.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(directory).free < size + _OVERHEAD:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def describe_room(directory: Path) -> str:
    """Returns how much space is left on the disk, for a message."""
    try:
        return f"{shutil.disk_usage(directory).free:,} bytes are free there"
    except OSError:
        return "the folder is gone"


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[Path]:
    """Yields a new folder for a checkpoint; it is deleted if writing fails."""
    folder = directory / f"{_WRITING}{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    try:
        yield folder
    except BaseException:
        clear(folder)
        raise


def clear(folder: Path) -> None:
    """Deletes a folder until it stays away, because running writes may recreate it."""
    gone_since = began = time.monotonic()
    while (now := time.monotonic()) < gone_since + _QUIET and now < began + _PATIENCE:
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            gone_since = time.monotonic()
        time.sleep(0.01)


def give_name(written: Path, folder: Path) -> None:
    """Renames a complete checkpoint once all of it is on the disk itself.

    An existing checkpoint with that name is replaced; anything else with it is renamed.

    Args:
        written: the folder that `writing` yielded.
        folder: path of the checkpoint.

    Raises:
        OSError: it could not be written to the disk; an older one still has the name.
    """
    parents = {written}
    for path in files_below(written):
        sync_file(path)
        parents.update(parent for parent in path.parents if written in parent.parents)
    for parent in parents:
        sync_folder(parent)
    replaced = folder.with_name(f"{_REPLACED}{folder.name}")
    if folder.is_dir() and not folder.is_symlink():
        delete(replaced)
        folder.rename(replaced)
    elif os.path.lexists(folder):
        quarantine(folder, "it has the name of a checkpoint")
    try:
        written.rename(folder)
        sync_folder(folder.parent)
    except OSError:
        delete(folder)
        if replaced.is_dir():
            replaced.rename(folder)
        raise
    delete(replaced)


def delete(folder: Path) -> None:
    """Deletes a checkpoint, if there is one."""
    doomed = folder.with_name(f"{_DELETING}{folder.name}")
    try:
        shutil.rmtree(doomed, ignore_errors=True)  # left by an earlier deletion that failed
        folder.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)


def quarantine(folder: Path, what: str) -> None:
    """Renames a damaged checkpoint, and logs a warning.

    Args:
        folder: of the checkpoint.
        what: a description of the damage.

    Raises:
        OSError: it cannot be renamed.
    """
    names = (f"{_DAMAGED}{folder.name}-{number}" for number in itertools.count())
    target = next(path for path in map(folder.with_name, names) if not os.path.lexists(path))
    folder.rename(target)
    logger.warning(
        "The checkpoint %s is damaged and not used (%s); it was renamed to %s.",
        folder.name, what, target.name,
    )  # fmt: skip
