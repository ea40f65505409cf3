"""One checkpoint to be saved, and the thread's work of writing it to disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnx_alexnet.checkpoints.digests import Arrays
from nnx_alexnet.checkpoints.folders import check_room, give_name, writing
from nnx_alexnet.checkpoints.items import check_checkpoint, write_checkpoint
from nnx_alexnet.checkpoints.retention import Ranking
from nnx_alexnet.devices import NonFiniteError
from nnx_alexnet.support import NotRegularFileError, sync_file


class Save(NamedTuple):
    """A checkpoint to be written.

    Attributes:
        step: number of optimizer steps done.
        arrays: on the host, by their path.
        loop: the JSON item.
        before: the JSON item of an older checkpoint of the same step, which this one replaces.
    """

    step: int
    arrays: Arrays
    loop: Mapping[str, Any]
    before: Mapping[str, Any] | None = None

    @property
    def value(self) -> float | None:
        """The value of the monitored metric."""
        return Ranking.of(self.loop).value

    @property
    def num_bytes(self) -> int:
        """The size of the arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def is_at_position_of(self, loop: Mapping[str, Any]) -> bool:
        """Whether another checkpoint of the same step is at the same position of the run."""
        names = ("epoch", "step_in_epoch", "is_epoch_open")
        return all(loop.get(name) == self.loop.get(name) for name in names)


def snapshot(loop: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of the JSON item that does not change while the run continues.

    The identity of the run, the description of its data and the rows of its history never change.
    They are not copied, because a history may be long.
    """
    lasting = {name: loop[name] for name in ("identity", "data") if name in loop}
    if "history" in loop:
        lasting["history"] = [*loop["history"]]
    changing = {name: value for name, value in loop.items() if name not in lasting}
    return {**json.loads(json.dumps(changing)), **lasting}


class SaveWriter:
    """Writes checkpoints to a folder, one after the other.

    Args:
        directory: the folder of checkpoints.
        finite: names of arrays of the item `model` that must be finite.
        synced: files that must be on the disk before a checkpoint gets its name.

    Attributes:
        has_written: whether a checkpoint was written, read back and named.
    """

    def __init__(self, directory: Path, *, finite: Sequence[str], synced: Sequence[Path]) -> None:
        self._directory = directory
        self._finite = finite
        self._synced = synced
        self.has_written = False

    def write(self, save: Save) -> None:
        """Writes a checkpoint; the first one is also read back completely.

        Raises:
            NonFiniteError: an array that must be finite is not; nothing was written.
            Exception: it could not be written; the type has no meaning. An older checkpoint of
                the step is still there.
        """
        self._check_finite(save)
        check_room(self._directory, save.num_bytes)
        with writing(self._directory) as folder:
            write_checkpoint(folder, save.arrays, save.loop)
            if not self.has_written:
                check_checkpoint(folder)
            for path in self._synced:
                with suppress(FileNotFoundError, NotRegularFileError):
                    sync_file(path)
            give_name(folder, self._directory / str(save.step))
        self.has_written = True

    def _check_finite(self, save: Save) -> None:
        for name in self._finite:
            if not np.isfinite(save.arrays[f"model/{name}"]).all():
                raise NonFiniteError(
                    f"`{name}` of the model is not finite after step {save.step}. This state was "
                    "not saved. A smaller learning rate or clipped gradients may help."
                )
