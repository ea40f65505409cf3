"""Finds the image files of a folder."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from nnx_alexnet.support import printable

# Those of torchvision, and other common ones that Pillow reads.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif",
    ".ppm", ".pgm", ".pbm",
)  # fmt: skip

# Files and folders that operating systems add, besides those that begin with a dot.
_LEFTOVERS = (
    "__macosx", "thumbs.db", "desktop.ini", "@eadir", "__pycache__", "lost+found", "$recycle.bin",
    "system volume information",
)  # fmt: skip


class Found(NamedTuple):
    """The paths of a folder, sorted by folder and name.

    Attributes:
        images: files with one of `IMAGE_SUFFIXES`.
        others: other files that are not hidden, and pipes, devices and sockets.
    """

    images: list[str]
    others: list[str]


def is_hidden(name: str) -> bool:
    """Returns whether the name of a file or folder shows that it is not the user's data.

    Example:
        >>> from nnx_alexnet.data.image_files import is_hidden
        >>> is_hidden(".ipynb_checkpoints"), is_hidden("._1.jpg"), is_hidden("cat")
        (True, True, False)
    """
    return name.startswith(".") or name.lower() in _LEFTOVERS


def find_files(
    folder: str | os.PathLike[str], *, note: Callable[[OSError], None] | None = None
) -> Found:
    """Lists the files of a folder and of all folders below, except hidden ones.

    Links to folders are followed, except those that lead back to a folder above them.

    Args:
        folder: where to begin.
        note: receives the error of a folder that cannot be searched; None (default) raises it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from nnx_alexnet.data.image_files import find_files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "notes.txt", "a.JPG", "._a.JPG"):
        ...         Path(folder, name).touch()
        ...     found = find_files(folder)
        >>> [[Path(path).name for path in paths] for paths in found]
        [['a.JPG', 'b.png'], ['notes.txt']]
    """
    # A link to a folder above would make the other folders there part of this one.
    seen = {_identity(above) for above in Path(folder).resolve().parents}
    found = Found([], [])
    for place, names in sorted(_walk(os.fspath(folder), seen, note)):
        for name, is_file in names:
            is_image = is_file and name.lower().endswith(IMAGE_SUFFIXES)
            path = os.path.join(place, name)  # noqa: PTH118  # as given, "./" included
            (found.images if is_image else found.others).append(path)
    return found


def find_images(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> tuple[list[str], list[str]]:
    """Lists image files, also in folders and all their subfolders.

    Args:
        paths: files, which may have any name, and folders. The files in a folder need one of
            `IMAGE_SUFFIXES`; hidden files are left out, and the others are sorted. A single path
            need not be in a list.

    Returns:
        The files, and a message for each folder that has no images or cannot be searched.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from nnx_alexnet.data import find_images
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "notes.txt", "a.JPG"):
        ...         Path(folder, name).touch()
        ...     files, problems = find_images([folder, "c.raw"])
        >>> [Path(file).name for file in files], problems
        (['a.JPG', 'b.png', 'c.raw'], [])
    """
    files: list[str] = []
    problems: list[str] = []

    def note(error: OSError) -> None:
        problems.append(f"Cannot search the folder {printable(error.filename)}: {error.strerror}")

    listed = [paths] if isinstance(paths, str | os.PathLike) else paths
    for path in [os.fspath(path) for path in listed]:
        if not os.path.isdir(path):  # noqa: PTH112  # never raises
            files.append(path)
            continue
        num_before = len(problems)
        found = find_files(path, note=note)
        # Pipes and devices with such names are reported when they are read.
        names = [each for each in found.others if each.lower().endswith(IMAGE_SUFFIXES)]
        names += found.images
        if not names and len(problems) == num_before:
            suffixes = ", ".join(IMAGE_SUFFIXES)
            problems.append(f"The folder {printable(path)} has no images ({suffixes}).")
        files += sorted(names)
    return files, problems


def _walk(
    folder: str, seen: set[tuple[int, int]], note: Callable[[OSError], None] | None
) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
    """Yields each folder with the names in it, except folders, and whether each is a file."""
    try:
        identity = _identity(Path(folder))
        with os.scandir(folder) as scan:
            entries = sorted(
                (entry for entry in scan if not is_hidden(entry.name)), key=lambda entry: entry.name
            )
    except OSError as error:
        if note is None:
            raise
        note(error)
        return
    if identity in seen:
        return
    seen.add(identity)
    folders = [entry.path for entry in entries if entry.is_dir()]
    yield folder, [(entry.name, _is_file(entry)) for entry in entries if not entry.is_dir()]
    for below in folders:
        yield from _walk(below, seen, note)


def _identity(folder: Path) -> tuple[int, int]:
    about = folder.stat()
    return about.st_dev, about.st_ino


def _is_file(entry: os.DirEntry[str]) -> bool:
    # A broken link counts as a file: reading it raises an error with its name. A pipe or device
    # does not, since reading it may never end.
    return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
