"""Arrays as Orbax writes and reads them: the only module that touches Orbax.

Orbax keeps state of the process, so one operation runs at a time. It takes some characters of a
path for patterns (`[`, `*`, a backslash), so it is given another path of such a folder. It cannot
write arrays without elements, which need no file.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import stat
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from nnx_alexnet.checkpoints.integrity import MismatchError, files_below

Arrays = Mapping[str, np.ndarray[Any, Any]]

_one_at_a_time = threading.Lock()
_PLAIN = re.compile(r"[A-Za-z0-9_./ -]+")
_LONGEST_NAMES = 200  # bytes that the names below a folder of checkpoints take
_INLINE = 1024  # bytes; smaller arrays are compressed together with their names


def check_path(folder: Path) -> None:
    """Raises a `ValueError` unless Orbax can write below a folder of that path.

    Args:
        folder: an absolute path.
    """
    most = 4096 if sys.platform == "linux" else 1024
    if len(os.fsencode(folder)) + _LONGEST_NAMES > most:
        raise ValueError(
            f"`log_dir` and `name` make a path of {len(os.fsencode(folder)):,} bytes for the "
            f"checkpoints, {folder}; it may have {most - _LONGEST_NAMES:,}. Choose shorter ones."
        )
    if not _PLAIN.fullmatch(str(folder)) and not Path("/proc/self/fd").is_dir():
        raise ValueError(
            f"`log_dir` and `name` make the path {str(folder)!r} for the checkpoints. On this "
            "system it may hold ASCII letters, digits, '_', '.', '-', '/' and spaces only."
        )


@contextmanager
def _orbax_path(folder: Path) -> Iterator[Any]:
    """Yields a path of a folder that has no special characters, as Orbax takes it."""
    from etils import epath

    if _PLAIN.fullmatch(str(folder)):
        yield epath.Path(folder)
        return
    check_path(folder)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield epath.Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


@contextmanager
def _handler() -> Iterator[Any]:
    """Yields what writes and reads a tree of arrays, without waiting for other processes."""
    import orbax.checkpoint as ocp

    # Orbax reports each save, and each error with pages of traces; what it raises is enough.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    own = jax.process_index()  # one process writes, and each reads when it likes
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
    )
    # Random weights hardly compress: zstd saved 8% of AlexNet's 259 MB for 2 s of processor.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone)
    try:
        yield handler
    finally:
        handler.close()


def write_arrays(folder: Path, arrays: Arrays) -> None:
    """Writes arrays to a new folder.

    Args:
        folder: an absolute path.
        arrays: by their path, slashes between its parts.

    Raises:
        Exception: Orbax could not write; the type says nothing.
    """
    import orbax.checkpoint as ocp

    folder.mkdir()
    held = {name: array for name, array in arrays.items() if array.size}
    if not held:
        return
    tree = traverse_util.unflatten_dict(held, sep="/")
    with _one_at_a_time, _orbax_path(folder) as path, _handler() as handler:
        writes = asyncio.run(handler.async_save(path, args=ocp.args.PyTreeSave(tree)))
        failures = [failure for write in writes if (failure := _failure(write)) is not None]
        if failures:  # raised when no write is under way any more
            raise failures[0]
        handler.finalize(path)


def _failure(write: Any) -> Exception | None:
    try:
        write.result()
    except Exception as error:
        return error
    return None


def read_arrays(
    folder: Path, expected: Mapping[str, Mapping[str, Any]]
) -> dict[str, np.ndarray[Any, Any]]:
    """Reads the arrays of a folder, if they are those that are expected.

    Args:
        folder: an absolute path.
        expected: `dtype` and `shape` of every array, by its path.

    Returns:
        The arrays by their path. Nothing of them says on which devices they were.

    Raises:
        MismatchError: the folder holds other arrays; no memory was allocated for them.
        Exception: Orbax could not read; the type says nothing.
    """
    import orbax.checkpoint as ocp

    found = _allocate_empty(expected)
    if len(found) == len(expected):
        return found
    room = _measure(folder)
    with _one_at_a_time, _orbax_path(folder) as path, _handler() as handler:
        tree = _check_structure(handler.metadata(path).tree, expected, room)
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        nested = handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=how))
    flat = traverse_util.flatten_dict(nested, sep="/")
    return found | {name: np.asarray(array) for name, array in flat.items()}


def check_arrays(folder: Path, expected: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises what `read_arrays` would raise, without reading the arrays' values."""
    if len(_allocate_empty(expected)) < len(expected):
        room = _measure(folder)
        with _one_at_a_time, _orbax_path(folder) as path, _handler() as handler:
            _check_structure(handler.metadata(path).tree, expected, room)


def _allocate_empty(
    expected: Mapping[str, Mapping[str, Any]],
) -> dict[str, np.ndarray[Any, Any]]:
    return {
        name: np.zeros(about["shape"], np.dtype(about["dtype"]))
        for name, about in expected.items()
        if not math.prod(about["shape"])
    }


def _measure(folder: Path) -> int:
    """Returns the size of a folder's files; a FIFO among them would block Orbax."""
    size = 0
    for path in files_below(folder):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise MismatchError(f"{path.relative_to(folder)} is not a regular file")
        size += status.st_size
    return size


def _check_structure(tree: Any, expected: Mapping[str, Mapping[str, Any]], room: int) -> Any:
    """Compares what Orbax would read with what is expected, and with the size of the files."""
    found = traverse_util.flatten_dict(tree, sep="/")
    held = {name: about for name, about in expected.items() if math.prod(about["shape"])}
    if differing := sorted(found.keys() ^ held.keys()):
        raise MismatchError(f"{', '.join(differing[:3])} are in the files or in the manifest only")
    for name, about in found.items():
        here = {"dtype": str(np.dtype(about.dtype)), "shape": [*about.shape]}
        there = {key: held[name][key] for key in here}
        if here != there:
            raise MismatchError(f"{name} is {here} in the files and {there} in the manifest")
    sizes = [math.prod(a["shape"]) * np.dtype(a["dtype"]).itemsize for a in held.values()]
    promised = sum(size for size in sizes if size > _INLINE)  # which is written as it is
    if promised > room:
        raise MismatchError(f"{promised:,} bytes are promised by files of {room:,}")
    return tree
