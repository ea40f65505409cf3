"""Resolves paths as users write them: relative, in the home folder, or impossible."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_stand_ins: list[str] = []  # the folder that `existing_working_directory` uses now


def absolute_path(
    path: str | os.PathLike[str], argument: str, *, follow_links: bool = True
) -> Path:
    r"""Returns a path as an absolute one, with `~` expanded.

    Args:
        path: the path of a file or folder, which need not exist.
        argument: the user's name of the argument, for errors.
        follow_links: whether symbolic links are followed (default True).

    Raises:
        ValueError: no file can have this path, or it is relative and the working directory was
            deleted.
        TypeError: the value is not a path.

    Example:
        >>> from nnx_alexnet.support.paths import absolute_path
        >>> absolute_path("/tmp/../usr", "root")
        PosixPath('/usr')
        >>> absolute_path("a\0b", "root")
        Traceback (most recent call last):
        ValueError: `root` (='a\x00b') cannot be a path: embedded null byte.
    """
    if not isinstance(path, str | os.PathLike):
        choices = " 'auto', 'never' and a folder work." if argument == "resume" else ""
        raise TypeError(f"`{argument}` (={path!r}) must be a path, a str or a Path.{choices}")
    given = f"`{argument}` (={os.fspath(path)!r})"
    check_encodable(path, argument)
    try:
        found = Path(path).expanduser()
        if not found.is_absolute() and not has_working_directory():
            raise ValueError(
                f"{given} is relative to the working directory, which was deleted. Give an "
                "absolute path, or change to a folder that exists."
            )
        return found.resolve() if follow_links else found.absolute()
    except (OSError, RuntimeError) as error:  # a cycle of links, or a user without a home
        raise ValueError(f"{given} cannot be a path: {error}") from error
    except ValueError as error:
        if "null byte" not in str(error):
            raise
        raise ValueError(f"{given} cannot be a path: {error}.") from error


def check_encodable(path: str | os.PathLike[str], argument: str) -> None:
    """Raises a `ValueError` if a path or name cannot be encoded as a file name.

    Example:
        >>> from nnx_alexnet.support.paths import check_encodable
        >>> check_encodable("logs", "log_dir")
    """
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        hint = "Use" if error.encoding == "utf-8" else "Set PYTHONUTF8=1, or use"
        raise ValueError(
            f"`{argument}` (={os.fspath(path)!r}) cannot be encoded in {error.encoding}, the "
            f"encoding of file names in this locale. {hint} other characters."
        ) from error


def has_working_directory() -> bool:
    """Returns whether the working directory still exists.

    Example:
        >>> from nnx_alexnet.support.paths import has_working_directory
        >>> has_working_directory()
        True
    """
    if _stand_ins:
        return False
    try:
        Path.cwd()
    except OSError:
        return False
    return True


@contextmanager
def existing_working_directory() -> Iterator[None]:
    """Changes to an empty temporary folder inside the block if the working directory was deleted.

    Libraries ask for the working directory even if they do not need it. Nothing is written to the
    temporary folder: `absolute_path` still refuses relative paths.

    Example:
        >>> from pathlib import Path
        >>> from nnx_alexnet.support.paths import existing_working_directory
        >>> with existing_working_directory():
        ...     Path.cwd().is_dir()
        True
    """
    if _stand_ins or has_working_directory():
        yield
        return
    with ExitStack() as stack:
        try:
            before = os.open(".", os.O_RDONLY)  # the deleted folder itself
            stack.callback(os.close, before)
            folder = _stand_in()
            os.chdir(folder)
            stack.callback(os.fchdir, before)
        except OSError:  # without a temporary folder nothing changes
            yield
            return
        _stand_ins.append(folder)
        stack.callback(_stand_ins.clear)
        yield


@functools.cache
def _stand_in() -> str:
    folder = tempfile.mkdtemp(prefix="nnx-alexnet-")
    # Processes started in this folder may enter it later.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def from_working_directory(path: Path) -> Path:
    """Returns an absolute path as a relative one if it is below the working directory.

    Example:
        >>> from pathlib import Path
        >>> from nnx_alexnet.support.paths import from_working_directory
        >>> from_working_directory(Path.cwd() / "logs")
        PosixPath('logs')
    """
    if not has_working_directory():
        return path
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
