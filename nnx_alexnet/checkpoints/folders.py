"""The folders in a run's `checkpoints`: how each gets its name, and how it loses it.

A checkpoint is written in a folder of another name, and renamed when it is complete, so a kill at
any moment leaves whole checkpoints and folders of other names, which the next start puts right. A
folder is renamed before it is deleted, so half of one never has the name of a checkpoint.
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
_REPLACED = "replaced-"  # what a newer save of the same step is about to replace
_DELETING = "deleting-"
_DAMAGED = "damaged-"
_HALF_DONE = re.compile(rf"{_WRITING}[0-9a-f]{{8}}|{_DELETING}({_REPLACED})?[0-9]+")
_WAS_REPLACED = re.compile(rf"{_REPLACED}[0-9]+")
_OVERHEAD = 2**19  # bytes, of the files of a checkpoint besides its arrays
_QUIET, _PATIENCE = 0.3, 10.0  # seconds, of a folder that must stay away


def tidy(directory: Path) -> None:
    """Puts right what a run that was killed while it saved or deleted left behind.

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
    """Returns the folders named by a number that is not written as a step is: `010`, `²`."""
    return [
        folder
        for folder in _folders(directory)
        if folder.name.isdigit() and parse_number(folder.name) is None
    ]


def has_damaged(directory: Path) -> bool:
    """Returns whether a folder of checkpoints holds any that was found damaged."""
    return any(folder.name.startswith(_DAMAGED) for folder in _folders(directory))


def _folders(directory: Path) -> list[Path]:
    with os.scandir(directory) as entries:
        return [directory / each.name for each in entries if each.is_dir(follow_symlinks=False)]


def check_room(directory: Path, size: int) -> None:
    """Raises an `OSError` where a disk is too full, before anything is written.

    Args:
        directory: the folder of checkpoints, created if missing.
        size: of the arrays, in bytes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(directory).free < size + _OVERHEAD:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def describe_room(directory: Path) -> str:
    """Returns how much room there is on a disk, for a message."""
    try:
        return f"{shutil.disk_usage(directory).free:,} bytes are free there"
    except OSError:
        return "the folder is gone"


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[Path]:
    """Yields a new folder to write a checkpoint in; nothing of it stays if that fails."""
    folder = directory / f"{_WRITING}{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    try:
        yield folder
    except BaseException:
        clear(folder)
        raise


def clear(folder: Path) -> None:
    """Deletes a folder until it stays away: writes that are still under way create it anew."""
    gone_since = began = time.monotonic()
    while (now := time.monotonic()) < gone_since + _QUIET and now < began + _PATIENCE:
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            gone_since = time.monotonic()
        time.sleep(0.01)


def give_name(written: Path, folder: Path) -> None:
    """Renames a complete checkpoint, when all of it is on the disk itself.

    A checkpoint that has the name is replaced; anything else gives way to it.

    Args:
        written: the folder that `writing` yielded.
        folder: its path as a checkpoint.

    Raises:
        OSError: the disk does not take it; an older one still has the name.
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
        quarantine(folder, "it is in the way of a checkpoint")
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
    """Deletes a checkpoint; does nothing if there is none."""
    doomed = folder.with_name(f"{_DELETING}{folder.name}")
    try:
        shutil.rmtree(doomed, ignore_errors=True)  # which an earlier deletion could not end
        folder.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)


def quarantine(folder: Path, what: str) -> None:
    """Renames a checkpoint that is damaged, which is reported.

    Args:
        folder: of the checkpoint.
        what: what is wrong with it.

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
