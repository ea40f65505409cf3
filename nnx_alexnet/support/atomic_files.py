"""Regular files, read and written as a whole, and folders named by numbers.

Others may be able to write a run's folder: whatever has a predictable name there may be a
symbolic link to a file of the user, or a FIFO that blocks whoever opens it. So nothing here
follows a link, and nothing waits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from pathlib import Path

_TEMPORARY = re.compile(r"\.nnx-alexnet-[0-9a-f]{16}\.tmp")
_LEFT_OVER_AFTER = 3600.0  # seconds; the writer of a younger temporary file may be at work
# What a file system answers that cannot sync a folder; some network file systems cannot.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)


class NotRegularFileError(OSError):
    """The path is a symbolic link, a FIFO, a device, a socket or a folder."""


def open_regular(path: Path, flags: int) -> int:
    """Opens a regular file without following a link and without waiting.

    Args:
        path: the file; only its last part must not be a link.
        flags: as of `os.open`; with `os.O_CREAT` the file may be missing.

    Returns:
        The descriptor, which the caller closes.

    Raises:
        NotRegularFileError: something else has that name.
        OSError: what `os.open` raises.
    """
    with contextlib.suppress(FileNotFoundError):
        _check_regular(path, os.lstat(path).st_mode)  # to open a device may have effects
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        _check_regular(path, os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise NotRegularFileError(f"{path} is not a regular file")


def read_whole(path: Path) -> bytes:
    """Returns the bytes of a regular file.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
        return file.read()


def write_whole(path: Path, content: bytes) -> None:
    """Replaces a file by one that holds `content`; a kill or an error leaves the old one.

    The content is on the disk itself before it replaces anything, so that also holds when the
    power fails. A link of that name is replaced, not followed.

    Args:
        path: the file; its folder exists.
        content: all of it.

    Raises:
        OSError: it cannot be written.

    Example:
        >>> import tempfile
        >>> from nnx_alexnet.support.atomic_files import read_whole, write_whole
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> write_whole(path, b"text")
        >>> read_whole(path)
        b'text'
    """
    temporary = path.with_name(f".nnx-alexnet-{secrets.token_hex(8)}.tmp")
    descriptor = open_regular(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # on a full disk it would take the room that others need
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Waits until a regular file is on the disk itself."""
    descriptor = open_regular(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk itself."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of writers that were killed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if age > _LEFT_OVER_AFTER:
                    Path(entry.path).unlink(missing_ok=True)


def parse_number(text: str) -> int | None:
    """Returns a number that is written as `str(number)` writes it, else None.

    Example:
        >>> from nnx_alexnet.support.atomic_files import parse_number
        >>> [parse_number(text) for text in ("0", "10", "010", "-1", "1_0", "²")]
        [0, 10, None, None, None, None]
    """
    return int(text) if re.fullmatch(r"0|[1-9][0-9]*", text) else None


def numbered_folders(parent: Path, prefix: str = "") -> dict[int, Path]:
    """Returns the folders that are named `prefix` and a number, by their numbers in order.

    Files and symbolic links of such names are left out, and so are `010` and digits that are
    not ASCII.

    Args:
        parent: the folder that holds them; may be missing.
        prefix: of their names.

    Raises:
        OSError: `parent` cannot be read.

    Example:
        >>> import tempfile
        >>> from nnx_alexnet.support.atomic_files import numbered_folders
        >>> parent = Path(tempfile.mkdtemp())
        >>> for name in ("version_10", "version_9", "version_09", "version_x"):
        ...     (parent / name).mkdir()
        >>> [folder.name for folder in numbered_folders(parent, "version_").values()]
        ['version_9', 'version_10']
    """
    found = {}
    try:
        with os.scandir(parent) as entries:
            for entry in entries:
                number = parse_number(entry.name.removeprefix(prefix))
                if (
                    number is not None
                    and entry.name.startswith(prefix)
                    and entry.is_dir(follow_symlinks=False)
                ):
                    found[number] = parent / entry.name
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return dict(sorted(found.items()))
