"""Distinguishes damaged checkpoints from those that only cannot be read at the moment.

A process that has run out of file descriptors or memory, a folder without permission, or a network
disk that is unavailable for a minute can make Orbax raise almost any error. None of these errors
means that the checkpoint is damaged. Therefore each checkpoint carries the size and the SHA-256 of
its files. Whenever one cannot be read, its files are compared with these by plain input and output:
only a difference proves damage.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nnx_alexnet.support import NotRegularFileError, first_line, open_regular, read_whole

T = TypeVar("T")

RECORD = "files.json"


class DamagedError(ValueError):
    """A checkpoint is proved to be damaged.

    Args:
        folder: of the checkpoint.
        what: a description of the damage.
    """

    def __init__(self, folder: Path, what: str) -> None:
        super().__init__(f"The checkpoint {folder} is damaged: {what}.")
        self.what = what


class UnreadableError(OSError):
    """A checkpoint could not be read, although it may be intact.

    Args:
        folder: of the checkpoint.
        cause: the error that prevented reading.
    """

    def __init__(self, folder: Path, cause: BaseException) -> None:
        self.what = f"{type(cause).__name__}: {first_line(cause)}"
        super().__init__(
            f"The checkpoint {folder} could not be read ({self.what}). Nothing shows that it is "
            "damaged, so it was left unchanged. Remove the cause and try again; to do without this "
            "checkpoint, rename its folder."
        )
        self.errno = getattr(cause, "errno", None)


class VanishedError(FileNotFoundError):
    """A checkpoint was deleted or replaced while it was read: list the checkpoints again."""


class MismatchError(ValueError):
    """The content of a checkpoint differs from the digests taken before it was written."""


def record_files(folder: Path) -> None:
    """Records size and SHA-256 of every file of a checkpoint, as read back from the disk.

    Args:
        folder: of the checkpoint, which must be complete.

    Raises:
        OSError: a file cannot be read back, or the record cannot be written.
    """
    record = {}
    for path in files_below(folder):
        size, digest = _measure(path)
        record[path.relative_to(folder).as_posix()] = {"size": size, "sha256": digest}
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def files_below(folder: Path) -> Iterator[Path]:
    """Yields every file in a folder and its subfolders, in order.

    Raises:
        OSError: a folder cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names))


def check_files(folder: Path, items: Sequence[str]) -> None:
    """Compares the files of a checkpoint with their record.

    Args:
        folder: of the checkpoint.
        items: the items whose files are compared.

    Raises:
        DamagedError: a file is missing or differs, or the record itself is damaged.
        OSError: a file cannot be read.
        MemoryError: a file cannot be read.
    """
    problems = []
    for name, about in _read_record(folder).items():
        if name.partition("/")[0] not in items:
            continue
        try:
            size, digest = _measure(folder / name)
        except (FileNotFoundError, NotADirectoryError):
            problems.append(f"{name} is missing")
        except NotRegularFileError:
            problems.append(f"{name} is not a regular file")
        else:
            if size != about["size"]:
                problems.append(f"{name} has {size:,} bytes instead of {about['size']:,}")
            elif digest != about["sha256"]:
                problems.append(f"{name} differs from its digest")
    if problems:
        rest = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise DamagedError(folder, ", ".join(problems[:3]) + rest)


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        text = read_whole(folder / RECORD)
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedError(folder, f"{RECORD} is missing") from None
    except NotRegularFileError:
        raise DamagedError(folder, f"{RECORD} is not a regular file") from None
    try:
        record = json.loads(text)
        for name, about in record.items():
            whole = {"size": int(about["size"]), "sha256": str(about["sha256"])}
            if about != whole or ".." in name.split("/") or name.startswith("/"):
                raise ValueError(name)
    except (ValueError, RecursionError, AttributeError, LookupError, TypeError) as error:
        raise DamagedError(folder, f"{RECORD} has another structure") from error
    return dict(record)


def _measure(path: Path) -> tuple[int, str]:
    with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def judge(folder: Path, items: Sequence[str], read: Callable[[], T]) -> T:
    """Reads a checkpoint; if that fails, determines whether it is damaged.

    Args:
        folder: of the checkpoint.
        items: the items that are read.
        read: reads the checkpoint. It is called again after a `MismatchError`.

    Returns:
        The result of `read`.

    Raises:
        DamagedError: the files differ from their record, or they agree with it but their content
            differs from the digests.
        VanishedError: the checkpoint was deleted or replaced meanwhile.
        UnreadableError: the cause lies elsewhere.
    """
    before = _identity(folder)
    try:
        if before is None:
            raise VanishedError
        try:
            return read()
        except MismatchError:  # it may have been a transient error of this read
            return read()
    except Exception as error:
        verdict = _verdict(folder, items, error)
        if before is None or _identity(folder) != before:
            verdict = VanishedError(f"The checkpoint {folder} was deleted or replaced meanwhile.")
        raise verdict from error


def _verdict(folder: Path, items: Sequence[str], error: Exception) -> Exception:
    if isinstance(error, DamagedError):
        return error
    try:
        check_files(folder, items)
    except DamagedError as damage:
        return damage
    except Exception as trouble:
        return UnreadableError(folder, trouble)
    if isinstance(error, MismatchError):
        return DamagedError(folder, first_line(error))
    return UnreadableError(folder, error)


def _identity(folder: Path) -> tuple[int, ...] | None:
    """Returns what distinguishes a folder from a later one of the same name; None if it is gone."""
    try:
        status = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UnreadableError(folder, error) from error
    return status.st_dev, status.st_ino, status.st_ctime_ns
