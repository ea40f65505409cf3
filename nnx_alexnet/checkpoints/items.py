"""Writes and reads the items of a checkpoint.

A checkpoint is a folder `checkpoints/<step>/` of items: `model` (parameters, BatchNorm
statistics, dropout keys), `optimizer`, `evaluation` (the arrays with which the model was evaluated
instead of its own, such as averages), `best` (those of the best epoch, which
`EarlyStopping(restore_best=True)` keeps), `metrics` (the sums of the running epoch), `loop` (JSON:
the position of the run and of its data, its metrics, the state of its callbacks, and what is
needed to use the model without its data), and `manifest` (the digests of all of these).
`files.json` holds the digests of the files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnx_alexnet.checkpoints.digests import (
    ArrayInfo,
    Arrays,
    arrays_of,
    damaged,
    is_manifest,
    manifest_of,
    state_digest,
)
from nnx_alexnet.checkpoints.integrity import (
    RECORD,
    DamagedError,
    MismatchError,
    judge,
    record_files,
)
from nnx_alexnet.checkpoints.orbax_files import check_arrays, read_arrays, write_arrays
from nnx_alexnet.checkpoints.retention import Ranking
from nnx_alexnet.support import absolute_path, numbered_folders, parse_number, read_whole

_ITEMS = ("model", "optimizer", "evaluation", "best", "metrics")


class Checkpoint(NamedTuple):
    """A checkpoint that was read and agrees with its digests.

    Attributes:
        step: number of optimizer steps done.
        arrays: the arrays by their path, which begins with the item ("model/conv1/kernel").
        loop: the JSON item.
        digest: digest of the whole training state, by which two runs can be compared.
    """

    step: int
    arrays: Arrays
    loop: dict[str, Any]
    digest: str

    def item(self, name: str) -> dict[str, np.ndarray[Any, Any]]:
        """Returns the arrays of one item, by their path within the item."""
        prefix = f"{name}/"
        return {
            path.removeprefix(prefix): array
            for path, array in self.arrays.items()
            if path.startswith(prefix)
        }

    def evaluated_model(self) -> dict[str, np.ndarray[Any, Any]]:
        """Returns the model's arrays with which the run was evaluated, by their path.

        They are the averages of a run that kept any, and the trained arrays otherwise. The items
        `model` and `evaluation` must have been read.
        """
        model = self.item("model")
        # An average may have more bits than the array of the model.
        return model | {
            name: _typed(array, model[name]) for name, array in self.item("evaluation").items()
        }


def _typed(array: np.ndarray[Any, Any], like: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array if array.dtype == like.dtype else array.astype(like.dtype)


def write_checkpoint(folder: Path, arrays: Arrays, loop: Mapping[str, Any]) -> None:
    """Writes a checkpoint, and reads back its structure and the bytes of its files.

    Only the first of several processes may call this.

    Args:
        folder: absolute path of an empty folder, which is renamed afterwards.
        arrays: by their path, which begins with the item.
        loop: values that JSON can represent.

    Raises:
        Exception: it cannot be written or read back; the type has no meaning.
    """
    items = {name.partition("/")[0] for name in arrays}
    assert items <= set(_ITEMS), f"{items - set(_ITEMS)} would be lost: add them to `_ITEMS`"
    manifest = manifest_of(arrays, loop)
    for item in _ITEMS:
        held = {name.partition("/")[2]: a for name, a in arrays.items() if _is_of(name, item)}
        if held:
            write_arrays(folder / item, held)
            check_arrays(folder / item, arrays_of(manifest, item))
    for name, value in (("loop", loop), ("manifest", manifest)):
        (folder / name).mkdir()
        (folder / name / "metadata").write_text(json.dumps(value), encoding="utf-8")
    record_files(folder)


def check_checkpoint(folder: Path) -> None:
    """Reads a new checkpoint as a resumed run would, one item at a time.

    Raises:
        Exception: it cannot be read, or differs from its digests.
    """
    for item in _ITEMS:
        _read(folder, (item,))


def _is_of(name: str, item: str) -> bool:
    return name.startswith(f"{item}/")


def _read_json(folder: Path, item: str) -> dict[str, Any]:
    text = read_whole(folder / item / "metadata")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MismatchError(f"{item} is not JSON") from error
    if not isinstance(value, dict):
        raise MismatchError(f"{item} is not a JSON object")
    return value


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest = _read_json(folder, "manifest")
    if not is_manifest(manifest):
        raise MismatchError("manifest has another structure")
    return manifest


def _read(folder: Path, items: Sequence[str]) -> Checkpoint:
    loop, manifest = _read_json(folder, "loop"), _read_manifest(folder)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for item in items:
        if expected := arrays_of(manifest, item):
            read = read_arrays(folder / item, expected)
            arrays |= {f"{item}/{name}": array for name, array in read.items()}
    if differing := damaged(manifest, arrays, loop):
        raise MismatchError(f"{', '.join(differing[:5])} differ from the digests")
    step, ranking = loop.get("global_step"), loop.get("ranking")
    is_ranked = isinstance(ranking, dict) and {*Ranking._fields} <= ranking.keys()
    if type(step) is not int or not is_ranked:
        raise MismatchError("loop has another structure")
    if parse_number(folder.name) not in (None, step):  # a copy may have any other name
        raise DamagedError(folder, f"it holds step {step}, unlike its name")
    return Checkpoint(step, arrays, loop, state_digest(manifest))


def read_checkpoint(path: Path, items: Sequence[str] = _ITEMS) -> Checkpoint:
    """Reads a checkpoint and compares it with its digests.

    Args:
        path: absolute path of the folder of one checkpoint.
        items: the items whose arrays are read (default all).

    Returns:
        The checkpoint.

    Raises:
        DamagedError: it is damaged, or its name is the number of another step.
        VanishedError: it was deleted or replaced meanwhile.
        UnreadableError: it could not be read for another reason.
    """
    return judge(path, ("loop", "manifest", *items), lambda: _read(path, items))


def read_shapes(path: Path, item: str) -> dict[str, ArrayInfo]:
    """Returns dtype and shape of the arrays of one item, by their path within the item.

    Args:
        path: absolute path of the folder of one checkpoint.
        item: such as `"model"`.

    Raises:
        Exception: as `read_checkpoint` does.
    """
    return judge(path, ("manifest",), lambda: arrays_of(_read_manifest(path), item))


def read_loop(path: str | Path) -> dict[str, Any]:
    """Returns the JSON item of a checkpoint: position, metrics, ranking, classes.

    Args:
        path: the folder of one checkpoint, `.../checkpoints/<step>`.

    Returns:
        The saved dict.

    Raises:
        Exception: as `read_checkpoint` does.
    """
    return read_checkpoint(absolute_path(path, "path"), items=()).loop


def find_steps(directory: Path) -> dict[int, Path]:
    """Returns the folders in a `checkpoints` folder whose name is a step, by step."""
    return numbered_folders(directory)


def is_checkpoint(folder: Path) -> bool:
    """Returns whether a folder is a checkpoint, whatever its name."""
    return (folder / "loop").is_dir() or (folder / RECORD).is_file()
