"""Locates, lists and removes caches of decoded examples, and checks the space on the disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nnx_alexnet.data.cache_files import ABOUT, JOURNAL, RECORDS, remove
from nnx_alexnet.data.cached_records import CachedRecords
from nnx_alexnet.data.decoded_cache import DecodedCache, num_entries
from nnx_alexnet.data.examples import ElementSpec, named_fields, spec_text
from nnx_alexnet.support import format_bytes, format_count, logger, read_whole

Cache = bool | str | os.PathLike[str]
"""True for the user's cache folder, False for no cache, or the path of another folder."""

_FORMAT = 1  # the version of the file format


class CacheInfo(NamedTuple):
    """A cache on the disk.

    Attributes:
        folder: the folder of its files.
        about: the description of its contents.
        num_records: the number of examples.
        num_bytes: the size of its files.
        modified: when an example was last added, in seconds since 1970.
    """

    folder: Path
    about: dict[str, Any]
    num_records: int
    num_bytes: int
    modified: float


def cache_place(cache: Cache | None) -> Path | None:
    """Returns the folder that contains the caches; None if `cache` is False or None.

    Args:
        cache: True for `nnx_alexnet/decoded` in `$XDG_CACHE_HOME` (`~/.cache` if that is unset or
            a relative path), or another folder.

    Raises:
        TypeError: `cache` is neither a bool nor a path.
        ValueError: the system has no `os.preadv`, as on Windows.

    Example:
        >>> from nnx_alexnet.data.cache_folders import cache_place
        >>> cache_place("/data/cache"), cache_place(False)
        (PosixPath('/data/cache'), None)
    """
    if cache is None or cache is False:
        return None
    if cache is not True and not isinstance(cache, str | os.PathLike):
        raise TypeError(
            f"`cache` (={cache!r}) must be True, False, or the folder that contains the caches."
        )
    if not hasattr(os, "preadv"):
        raise ValueError(
            f"`cache` (={cache!r}) works on Linux and macOS only. Use cache=False here."
        )
    if cache is not True:
        return Path(os.path.abspath(os.path.expanduser(cache)))  # noqa: PTH100, PTH111
    place = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not place.is_absolute():  # the XDG specification requires programs to ignore relative paths
        place = Path(os.path.expanduser("~/.cache"))  # noqa: PTH111  # works without a home
    return place / "nnx_alexnet" / "decoded"


def cached_records(
    place: Path, about: Mapping[str, Any], record: ElementSpec, keys: Sequence[np.ndarray[Any, Any]]
) -> list[CachedRecords]:
    """Returns the records of splits that share a cache; writes nothing.

    Args:
        place: the folder of the caches.
        about: everything that determines the examples, besides their keys, as JSON values.
        record: the fields of a record.
        keys: the keys of the examples of each split, uint8 `[N, 16]`.
    """
    fields = {name: spec_text(leaf) for name, leaf in named_fields(record).items()}
    about = {**about, "record": fields, "format": _FORMAT}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    leaves = jax.tree.leaves(record)
    num_bytes = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    cache = DecodedCache(place / digest[:16], record_bytes=num_bytes, about=about)
    found = [CachedRecords(cache, each) for each in keys]
    for records in found:
        records.refresh()
    return found


def check_room(splits: Sequence[CachedRecords], place: Path) -> None:
    """Logs how much will be written, and checks that the disk has room for it.

    Args:
        splits: the records of all splits.
        place: the folder of the caches.

    Raises:
        ValueError: the disk has too little room, or `place` is not a writable folder.
    """
    there = _existing(place)
    if not there.is_dir():
        raise ValueError(f"`cache` (={str(place)!r}) must be a folder, but {there} is a file.")
    num = sum(len(records.keys) for records in splits)
    lacking = [len(records.missing()) for records in splits]
    folders = sorted({str(records.cache.folder) for records in splits})
    have = f"Cache {', '.join(folders)}: {num - sum(lacking):,} of {format_count(num, 'example')}"
    if not any(lacking):
        logger.info("%s.", have)
        return
    needed = sum(
        records.cache.record_bytes * count for records, count in zip(splits, lacking, strict=True)
    )
    if not os.access(there, os.W_OK | os.X_OK) and not all(map(os.path.exists, folders)):
        raise ValueError(
            f"`cache` (={str(place)!r}) cannot be created: {there} is not writable. Choose another "
            "folder, or use cache=False."
        )
    free = shutil.disk_usage(there).free
    if needed > free:
        raise ValueError(
            f"{have}; the others need {format_bytes(needed)}, but only {format_bytes(free)} are "
            "free. Choose another disk (`cache`=PATH), remove caches that are no longer used "
            "(`nnx-alexnet cache --list`), or use cache=False."
        )
    logger.info(
        "%s; the others are added when they are read (%s; %s are free).",
        have, format_bytes(needed), format_bytes(free),
    )  # fmt: skip


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.exists())


def list_caches(place: Path) -> list[CacheInfo]:
    """Returns the caches in a folder, newest first.

    Args:
        place: the folder, which need not exist.
    """
    found = [cache_info(folder) for folder in place.iterdir()] if place.is_dir() else []
    known = [info for info in found if info is not None]
    return sorted(known, key=lambda info: info.modified, reverse=True)


def cache_info(folder: Path) -> CacheInfo | None:
    """Returns the description of a cache; None if the folder is not that of a cache."""
    try:
        about = json.loads(read_whole(folder / ABOUT))
        files = [path.stat() for path in (folder / JOURNAL, folder / RECORDS) if path.exists()]
    except (OSError, ValueError):
        return None
    num_bytes = sum(file.st_blocks * 512 for file in files)
    modified = max((file.st_mtime for file in files), default=0.0)
    return CacheInfo(folder, about, num_entries(folder), num_bytes, modified)


def remove_cache(folder: Path) -> CacheInfo:
    """Removes a cache and returns its description.

    Args:
        folder: the folder of the cache.

    Raises:
        ValueError: the folder is not that of a cache.
        OSError: it cannot be removed.
    """
    info = cache_info(folder)
    if info is None:
        raise ValueError(
            f"{str(folder)!r} is not the folder of a cache, which contains the files {ABOUT}, "
            f"{JOURNAL} and {RECORDS}. `nnx-alexnet cache --list` lists the caches."
        )
    remove(folder)
    return info
