"""Writes and reads arrays with Orbax. No other module uses Orbax.

Orbax has state that is global to the process, so only one operation runs at a time. It interprets
some characters of a path as patterns (`[`, `*`, a backslash), so a folder with such a path is
accessed by another path. It cannot write arrays without elements, which need no file.
"""

from __future__ import annotations

import asyncio
import logging
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

from nnx_alexnet.checkpoints.digests import ArrayInfo, Arrays
from nnx_alexnet.checkpoints.integrity import MismatchError, files_below

_lock = threading.Lock()
_PLAIN = re.compile(r"[A-Za-z0-9_./ -]+")
_MAX_NAMES = 200  # bytes of the longest path below a folder of checkpoints
_INLINE = 1024  # bytes; smaller arrays are compressed together with their names


def check_path(folder: Path) -> None:
    """Raises a `ValueError` unless Orbax can write below a folder with this path.

    Args:
        folder: an absolute path.
    """
    most = 4096 if sys.platform == "linux" else 1024
    if len(os.fsencode(folder)) + _MAX_NAMES > most:
        raise ValueError(
            f"`log_dir` and `name` make a path of {len(os.fsencode(folder)):,} bytes for the "
            f"checkpoints, {folder}; at most {most - _MAX_NAMES:,} work. Choose shorter ones."
        )
    if not _PLAIN.fullmatch(str(folder)) and not Path("/proc/self/fd").is_dir():
        raise ValueError(
            f"`log_dir` and `name` make the path {str(folder)!r} for the checkpoints. On this "
            "system it may contain only ASCII letters, digits, '_', '.', '-', '/' and spaces."
        )


@contextmanager
def _orbax_path(folder: Path) -> Iterator[Any]:
    """Yields a path to a folder without characters that Orbax interprets."""
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
    """Yields a handler for trees of arrays that does not wait for other processes."""
    import orbax.checkpoint as ocp

    # Orbax logs each save, and each error with long traces; the exceptions are enough.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    own = jax.process_index()  # one process writes, and each reads at its own time
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
    )
    # Random weights hardly compress: zstd saved 8% of AlexNet's 259 MB and took 2 s.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone)
    try:
        yield handler
    finally:
        handler.close()


def write_arrays(folder: Path, arrays: Arrays) -> None:
    """Writes arrays to a new folder.

    Args:
        folder: an absolute path.
        arrays: by their path, whose parts are joined by slashes.

    Raises:
        Exception: Orbax could not write; the type has no meaning.
    """
    import orbax.checkpoint as ocp

    folder.mkdir()
    held = {name: array for name, array in arrays.items() if array.size}
    if not held:
        return
    tree = traverse_util.unflatten_dict(held, sep="/")
    with _lock, _orbax_path(folder) as path, _handler() as handler:
        writes = asyncio.run(handler.async_save(path, args=ocp.args.PyTreeSave(tree)))
        failures = [failure for write in writes if (failure := _failure(write)) is not None]
        if failures:  # raised only once no write is running
            raise failures[0]
        handler.finalize(path)


def _failure(write: Any) -> Exception | None:
    try:
        write.result()
    except Exception as error:
        return error
    return None


def read_arrays(folder: Path, expected: Mapping[str, ArrayInfo]) -> dict[str, np.ndarray[Any, Any]]:
    """Reads the arrays of a folder if they have the expected dtypes and shapes.

    Args:
        folder: an absolute path.
        expected: dtype and shape of every array, by its path.

    Returns:
        The arrays by their path, independent of the devices that they were on.

    Raises:
        MismatchError: the folder holds other arrays; no memory was allocated for them.
        Exception: Orbax could not read; the type has no meaning.
    """
    import orbax.checkpoint as ocp

    found = _allocate_empty(expected)
    if len(found) == len(expected):
        return found
    size = _measure(folder)
    with _lock, _orbax_path(folder) as path, _handler() as handler:
        tree = _check_structure(handler.metadata(path).tree, expected, size)
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        nested = handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=how))
    flat = traverse_util.flatten_dict(nested, sep="/")
    return found | {name: np.asarray(array) for name, array in flat.items()}


def check_arrays(folder: Path, expected: Mapping[str, ArrayInfo]) -> None:
    """Raises what `read_arrays` would raise, without reading the values."""
    if len(_allocate_empty(expected)) < len(expected):
        size = _measure(folder)
        with _lock, _orbax_path(folder) as path, _handler() as handler:
            _check_structure(handler.metadata(path).tree, expected, size)


def _allocate_empty(expected: Mapping[str, ArrayInfo]) -> dict[str, np.ndarray[Any, Any]]:
    return {
        name: np.zeros(about.shape, np.dtype(about.dtype))
        for name, about in expected.items()
        if not about.num_values
    }


def _measure(folder: Path) -> int:
    """Returns the size of a folder's files. A FIFO among them, which would block Orbax, raises."""
    size = 0
    for path in files_below(folder):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise MismatchError(f"{path.relative_to(folder)} is not a regular file")
        size += status.st_size
    return size


def _check_structure(tree: Any, expected: Mapping[str, ArrayInfo], size: int) -> Any:
    """Compares the tree that Orbax would read with the expected one, and with the files' size."""
    found = traverse_util.flatten_dict(tree, sep="/")
    held = {name: about for name, about in expected.items() if about.num_values}
    if differing := sorted(found.keys() ^ held.keys()):
        raise MismatchError(
            f"{', '.join(differing[:3])} are only in the files or only in the manifest"
        )
    for name, about in found.items():
        here = ArrayInfo(str(np.dtype(about.dtype)), [*about.shape])
        if here != held[name]:
            raise MismatchError(f"{name} is {here} in the files and {held[name]} in the manifest")
    # Larger arrays are written uncompressed.
    needed = sum(each.num_bytes for each in held.values() if each.num_bytes > _INLINE)
    if needed > size:
        raise MismatchError(f"the arrays need {needed:,} bytes, and the files have {size:,}")
    return tree
