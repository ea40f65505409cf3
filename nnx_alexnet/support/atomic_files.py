"""Reads and writes regular files as a whole, and lists numbered folders.

Other users may be able to write to a run's folder: a file with a predictable name may be a
symbolic link to the user's own file, or a FIFO that blocks when it is opened. So no function here
follows a link or waits.
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
_LEFT_OVER_AFTER = 3600.0  # seconds; a younger temporary file may still be written to
# The errors of file systems that cannot sync a folder, such as some network file systems.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)


class NotRegularFileError(OSError):
    """The path is a symbolic link, a FIFO, a device, a socket or a folder."""


def open_regular(path: Path, flags: int) -> int:
    """Opens a regular file without following a link and without waiting.

    Args:
        path: the path of the file; only its last part must not be a link.
        flags: the flags of `os.open`; with `os.O_CREAT` the file may be missing.

    Returns:
        The descriptor, which the caller closes.

    Raises:
        NotRegularFileError: the path is not a regular file.
        OSError: `os.open` failed.
    """
    with contextlib.suppress(FileNotFoundError):
        _check_regular(path, os.lstat(path).st_mode)  # opening a device may have effects
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
        path: the path of the file.

    Raises:
        OSError: the file cannot be read, or is not a regular file.
    """
    with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
        return file.read()


def write_whole(path: Path, content: bytes) -> None:
    """Replaces a file with one that holds `content`; a kill or an error leaves the old file.

    That also holds when the power fails, since the content is on the disk before it replaces the
    old file. A link is replaced, not followed.

    Args:
        path: the path of the file, in a folder that exists.
        content: the bytes of the whole file.

    Raises:
        OSError: the file cannot be written.

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
    except BaseException:  # so that it takes no space on a full disk
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Waits until the content of a regular file is on the disk."""
    descriptor = open_regular(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    if os.name == "nt":  # Windows cannot open a folder
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
    """Removes the temporary files of killed writers."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if age > _LEFT_OVER_AFTER:
                    Path(entry.path).unlink(missing_ok=True)


def parse_number(text: str) -> int | None:
    """Returns the number if the text is `str(number)`, else None.

    Example:
        >>> from nnx_alexnet.support.atomic_files import parse_number
        >>> [parse_number(text) for text in ("0", "10", "010", "-1", "1_0", "²")]
        [0, 10, None, None, None, None]
    """
    return int(text) if re.fullmatch(r"0|[1-9][0-9]*", text) else None


def numbered_folders(parent: Path, prefix: str = "") -> dict[int, Path]:
    """Returns the folders named by `prefix` and a number, in the order of their numbers.

    Files and symbolic links with such names are left out, and so are numbers with leading zeros
    or digits that are not ASCII.

    Args:
        parent: the folder that holds them, which may be missing.
        prefix: the beginning of the names.

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
