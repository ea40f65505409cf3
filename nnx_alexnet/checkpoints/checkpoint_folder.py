"""The folder of a run's checkpoints: opening, reading, writing and pruning it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nnx_alexnet.checkpoints.folders import (
    delete,
    describe_room,
    has_damaged,
    misnamed,
    quarantine,
    tidy,
)
from nnx_alexnet.checkpoints.integrity import DamagedError, VanishedError
from nnx_alexnet.checkpoints.items import Checkpoint, find_steps, read_checkpoint, read_loop
from nnx_alexnet.checkpoints.retention import Retention
from nnx_alexnet.checkpoints.save import Save, SaveWriter
from nnx_alexnet.devices import NonFiniteError
from nnx_alexnet.support import first_line, logger


class CheckpointFolder:
    """A folder of checkpoints; keeps those that a `Retention` chooses.

    Args:
        directory: the folder, created if missing.
        kept: the steps that are in the folder or being saved; filled here.
        writer: writes to the folder.

    Raises:
        OSError: the folder, or a checkpoint in it, cannot be read; nothing was renamed.
    """

    def __init__(self, directory: Path, kept: Retention, writer: SaveWriter) -> None:
        self._directory = directory
        self._kept = kept
        self._writer = writer
        self._has_failed = False
        try:
            self._open()
        except OSError as error:
            raise OSError(f"The checkpoints in {directory} cannot be opened: {error}") from error

    def _open(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        tidy(self._directory)
        damaged = dict.fromkeys(misnamed(self._directory), "its name is not a step number")
        for step, folder in find_steps(self._directory).items():
            try:
                self._kept.add(step, read_loop(folder))
            except DamagedError as error:
                damaged[folder] = error.what
            except VanishedError:  # it is being deleted
                continue
        for folder, what in damaged.items():  # only once all others could be read
            quarantine(folder, what)

    def path(self, step: int) -> Path:
        """Returns the folder of the checkpoint of a step."""
        return self._directory / str(step)

    def read_newest(self, check: Callable[[Mapping[str, Any]], None]) -> Checkpoint | None:
        """Reads the newest intact checkpoint; damaged ones are renamed and reported.

        Args:
            check: called with the JSON of a checkpoint before its arrays are read. An
                exception from it ends the search.

        Returns:
            The checkpoint, or None if there never was one.

        Raises:
            ValueError: there are checkpoints, and all are damaged.
            OSError: one could not be read, though nothing shows that it is damaged.
        """
        for step in reversed(self._kept.steps):
            check(self._kept.loops[step])
            try:
                return read_checkpoint(self.path(step))
            except DamagedError as error:
                quarantine(self.path(step), error.what)
            except VanishedError as error:
                logger.warning("%s", error)
            self._kept.remove(step)
        if has_damaged(self._directory):
            raise ValueError(
                f'All checkpoints in {self._directory} are damaged. `resume="never"` starts a new '
                "run."
            )
        return None

    def contains(self, save: Save) -> bool:
        """Returns whether a step is saved already, at the same position of the run."""
        there = self._kept.loops.get(save.step)
        return there is not None and save.is_at_position_of(there)

    def begin(self, save: Save) -> Save:
        """Notes that a step is being saved, and returns what to `write`."""
        before = self._kept.loops.get(save.step)
        self._kept.add(save.step, save.loop)
        return save._replace(before=before)

    def write(self, save: Save) -> None:
        """Writes a checkpoint, and deletes those that are no longer kept.

        Args:
            save: what `begin` returned, or a save for which it was not called.

        Raises:
            NonFiniteError: an array that must be finite is not.
            OSError: the checkpoint could not be written; an older one of the step is still there.
        """
        if self._kept.loops.get(save.step) is not save.loop:
            if self.contains(save):
                return
            save = self.begin(save)
        try:
            self._writer.write(save)
        except Exception as error:  # Orbax raises a ValueError if the disk is full
            self._undo(save)
            newest = max(self._kept.steps, default=None)
            rest = "" if newest is None else f" The newest checkpoint is of step {newest}."
            if isinstance(error, NonFiniteError):
                raise NonFiniteError(f"{error}{rest}") from None
            raise OSError(
                f"The checkpoint of step {save.step} ({save.num_bytes:,} bytes) could not be "
                f"written to {self._directory}, {describe_room(self._directory)}: "
                f"{first_line(error)}.{rest}"
            ) from error
        self._prune()

    def _undo(self, save: Save) -> None:
        self._has_failed = True
        self._kept.remove(save.step)
        if save.before is not None:
            self._kept.add(save.step, save.before)

    def _prune(self) -> None:
        for step in self._kept.steps:
            if _is_gone(self.path(step)):  # the user deleted it
                self._kept.remove(step)
        for step in self._kept.superfluous():
            self._kept.remove(step)
            try:
                delete(self.path(step))
            except OSError as error:
                logger.warning("The checkpoint %s could not be deleted: %s", step, error)

    def close(self) -> None:
        """Deletes what failed saves have written until now."""
        if self._has_failed:
            with suppress(OSError):
                tidy(self._directory)


def _is_gone(folder: Path) -> bool:
    try:
        os.lstat(folder)
    except FileNotFoundError:
        return True
    except OSError:  # unknown
        return False
    return False
