"""The checkpoints of a run: written in the background, kept or deleted, put right after a kill.

One thread writes, one checkpoint after the other. Nothing is deleted before the disk has what
replaces it, so a kill leaves whole checkpoints, and so does a power cut.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from nnx_alexnet.checkpoints.digests import Arrays
from nnx_alexnet.checkpoints.folders import (
    check_room,
    delete,
    describe_room,
    give_name,
    has_damaged,
    misnamed,
    quarantine,
    tidy,
    writing,
)
from nnx_alexnet.checkpoints.integrity import DamagedError, VanishedError
from nnx_alexnet.checkpoints.items import (
    Checkpoint,
    check_checkpoint,
    find_steps,
    read_checkpoint,
    read_loop,
    write_checkpoint,
)
from nnx_alexnet.checkpoints.orbax_files import check_path
from nnx_alexnet.checkpoints.retention import Retention
from nnx_alexnet.devices import NonFiniteError
from nnx_alexnet.support import (
    BackgroundWriter,
    Mode,
    NotRegularFileError,
    absolute_path,
    first_line,
    logger,
    sync_file,
)

OnSaveError = Literal["raise", "warn"]


class _Save(NamedTuple):
    """What is to be written."""

    step: int
    arrays: Arrays
    loop: Mapping[str, Any]
    before: Mapping[str, Any] | None = None  # the JSON of an older checkpoint of that step


class Checkpoints:
    """The checkpoints of one run: written in the background, the latest and the best kept.

    Whoever opens a folder holds its `RunLock`: what a killed run left half done is put right.

    Args:
        directory: the folder of the checkpoints, created if missing.
        keep_latest: how many of the newest to keep (default 2, so that there is one to fall
            back to).
        monitor: the metric that ranks, or None (the default) for no ranking.
        mode: whether smaller (`"min"`, the default) or larger (`"max"`) is better.
        keep_best: how many of the best to keep besides the newest (default 0).
        on_error: whether a save that fails, on a full disk for instance, raises (`"raise"`, the
            default) or is reported while training goes on (`"warn"`).
        finite: names of arrays of the item `model` that must be finite, or nothing is written.
        synced: files of the run that a checkpoint counts on, such as its log: they are on the
            disk itself before the checkpoint gets its name.

    Attributes:
        has_written: whether a checkpoint of this process is on the disk, read back and named.

    Raises:
        ValueError: no checkpoint can be written below a path like that of `directory`.
        OSError: the folder, or a checkpoint in it, cannot be read; nothing was renamed.

    Example:
        >>> import tempfile, numpy as np
        >>> from nnx_alexnet.checkpoints.store import Checkpoints
        >>> checkpoints = Checkpoints(tempfile.mkdtemp())
        >>> checkpoints.save(7, {"model/w": np.ones(3)}, {"epoch": 1})
        >>> checkpoints.close()
        >>> checkpoints.latest_step
        7
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep_latest: int = 2,
        monitor: str | None = None,
        mode: Mode = "min",
        keep_best: int = 0,
        on_error: OnSaveError = "raise",
        finite: Sequence[str] = (),
        synced: Sequence[Path] = (),
    ) -> None:
        self.directory = absolute_path(directory, "directory")
        # Of the steps on disk or being saved.
        self._kept = Retention(monitor, mode, keep_latest=keep_latest, keep_best=keep_best)
        self._on_error = on_error
        self._finite = finite
        self._synced = synced
        self.has_written = self._has_failed = False
        check_path(self.directory)
        try:
            self._open()
        except OSError as error:
            raise OSError(
                f"The checkpoints in {self.directory} cannot be opened: {error}"
            ) from error
        self._writer = BackgroundWriter(self._write, name="checkpoints")
        # It takes a second or two, which a first save would wait for, and be taken to take.
        self._writer.prepare(partial(importlib.import_module, "orbax.checkpoint"))

    def _open(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        tidy(self.directory)
        damaged = dict.fromkeys(misnamed(self.directory), "its name is not a step number")
        for step, folder in find_steps(self.directory).items():
            try:
                self._kept.add(step, read_loop(folder))
            except DamagedError as error:
                damaged[folder] = error.what
            except VanishedError:  # somebody deletes it right now
                continue
        for folder, what in damaged.items():  # when all could be read
            quarantine(folder, what)

    @property
    def steps(self) -> list[int]:
        """The steps on disk or being saved, in ascending order."""
        return self._kept.steps

    @property
    def latest_step(self) -> int | None:
        """The newest step, None when nothing was saved."""
        return max(self.steps, default=None)

    @property
    def best_step(self) -> int | None:
        """The step with the best monitored value, None when no step has one."""
        return self._kept.best()[0]

    @property
    def best_value(self) -> float | None:
        """The monitored value of `best_step`."""
        return self._kept.best()[1]

    @property
    def has_rested(self) -> bool:
        """Whether no save is under way, and the last one is as long ago as it took."""
        return self._writer.has_rested

    def would_be_best(self, value: float | None) -> bool:
        """Returns whether a step with that value of the metric would be kept as one of the best."""
        if value is None:
            return False
        held = self._writer.held
        values = {} if held is None else {held.step: _value(held)}
        step = max([*self.steps, *values], default=0) + 1
        return self._kept.is_best(step, {**values, step: value})

    def path(self, step: int) -> Path:
        """Returns the folder of the checkpoint of that step."""
        return self.directory / str(step)

    def save(
        self,
        step: int,
        arrays: Arrays,
        loop: Mapping[str, Any],
        *,
        value: float | None = None,
        gives_way: bool = False,
    ) -> None:
        """Writes one checkpoint in the background; first waits for the one before.

        A step that is there already is replaced if it is at another position of the run (an
        epoch that was cut short has ended since), and else left alone.

        Args:
            step: the number of optimizer steps done.
            arrays: on the host, and not changed any more; by their path, the item first.
            loop: what JSON can hold.
            value: the monitored metric, if it was produced at this very step.
            gives_way: whether this does not wait for the one before (default False): the
                checkpoint waits in memory, and is written when the thread has rested as long as
                that one took, unless a later save makes it superfluous before.

        Raises:
            TypeError: JSON cannot hold what a callback's `state_dict` returned.
            OSError: this or an earlier checkpoint could not be written.
            NonFiniteError: an array that must be finite is not.
        """
        self.check()
        ranking = {"monitor": self._kept.monitor, "mode": self._kept.mode, "value": value}
        loop = _snapshot({**loop, "global_step": step, "ranking": ranking})
        save = _Save(step, arrays, loop)
        if gives_way and value is not None and not self.has_rested:
            if not self._writer.replace_held(save, replaces=partial(self._replaces, save)):
                if self._writer.held is not None:  # both are among the best
                    self.wait()
                self._writer.hold(save)
            return
        self.wait()
        if not self._is_there(save):
            self._writer.start(self._begin(save))

    def _replaces(self, save: _Save, held: _Save) -> bool:
        """Whether a checkpoint that waits would not be among the best when another is saved."""
        values = {held.step: _value(held), save.step: _value(save)}
        return held.step == save.step or not self._kept.is_best(held.step, values)

    def _is_there(self, save: _Save) -> bool:
        there = self._kept.loops.get(save.step)
        return there is not None and _position(there) == _position(save.loop)

    def _begin(self, save: _Save) -> _Save:
        """Notes that a step is being saved."""
        before = self._kept.loops.get(save.step)
        self._kept.add(save.step, save.loop)
        return save._replace(before=before)

    def check(self) -> None:
        """Raises what a save raised in the background, once it is done; does not wait."""
        with self._tolerance():
            self._writer.check()

    def wait(self) -> None:
        """Waits for the saves under way, and raises what the first of them raised that failed."""
        while self._writer.is_pending:
            with self._tolerance():
                self._writer.wait()

    def close(self) -> None:
        """Waits for the saves under way, and ends the thread."""
        failures = self._writer.close()
        if self._has_failed:  # writes of it may have gone on for long
            with suppress(OSError):
                tidy(self.directory)
        for failure in failures[1:]:
            logger.error("%s", failure)
        with self._tolerance():
            if failures:
                raise failures[0]

    @contextmanager
    def _tolerance(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._on_error == "raise":
                raise
            logger.warning("%s Training goes on.", error)

    def restore(self, check: Callable[[Mapping[str, Any]], None]) -> Checkpoint | None:
        """Reads the newest checkpoint that is whole; what is damaged is renamed and reported.

        Args:
            check: called with the JSON of a checkpoint before its arrays are read; what it
                raises ends the search.

        Returns:
            The checkpoint, or None if there never was one.

        Raises:
            ValueError: there are checkpoints, and all are damaged.
            OSError: one could not be read, though nothing shows that it is damaged.
        """
        self.wait()
        for step in reversed(self.steps):
            check(self._kept.loops[step])
            try:
                return read_checkpoint(self.path(step))
            except DamagedError as error:
                quarantine(self.path(step), error.what)
            except VanishedError as error:  # somebody deleted it
                logger.warning("%s", error)
            self._kept.remove(step)
        if has_damaged(self.directory):
            raise ValueError(
                f'All checkpoints in {self.directory} are damaged. `resume="never"` starts a new '
                "run."
            )
        return None

    # ---- In the thread that writes ------------------------------------------------------------

    def _write(self, save: _Save) -> None:
        if self._kept.loops.get(save.step) is not save.loop:  # it was held until now
            if self._is_there(save):
                return
            save = self._begin(save)
        try:
            self._check_finite(save)
            self._write_folder(save)
        except Exception as error:  # Orbax raises a ValueError where the disk is full
            self._has_failed = True
            self._kept.remove(save.step)
            if save.before is not None:
                self._kept.add(save.step, save.before)
            newest = self.latest_step
            rest = "" if newest is None else f" The newest checkpoint is of step {newest}."
            if isinstance(error, NonFiniteError):
                raise NonFiniteError(f"{error}{rest}") from None
            raise OSError(
                f"The checkpoint of step {save.step} ({_size(save):,} bytes) could not be written "
                f"to {self.directory}, {describe_room(self.directory)}: {first_line(error)}.{rest}"
            ) from error
        self._prune()

    def _check_finite(self, save: _Save) -> None:
        for name in self._finite:
            if not np.isfinite(save.arrays[f"model/{name}"]).all():
                raise NonFiniteError(
                    f"`{name}` of the model is not finite after step {save.step}. This state was "
                    "not saved. A smaller learning rate or clipped gradients may help."
                )

    def _write_folder(self, save: _Save) -> None:
        check_room(self.directory, _size(save))
        with writing(self.directory) as folder:
            write_checkpoint(folder, save.arrays, save.loop)
            if not self.has_written:
                check_checkpoint(folder)
            for path in self._synced:
                with suppress(FileNotFoundError, NotRegularFileError):
                    sync_file(path)
            give_name(folder, self.path(save.step))
        self.has_written = True

    def _prune(self) -> None:
        for step in self.steps:
            if _is_gone(self.path(step)):  # it was deleted by hand
                self._kept.remove(step)
        for step in self._kept.superfluous():
            self._kept.remove(step)
            try:
                delete(self.path(step))
            except OSError as error:
                logger.warning("The checkpoint %s could not be deleted: %s", step, error)


def _snapshot(loop: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is there now: the run goes on, and changes its records.

    The rows of its history stay as they are, and so does what it is made of. Neither is copied,
    since a history may be long.
    """
    lasting = {name: loop[name] for name in ("identity", "data") if name in loop}
    if "history" in loop:
        lasting["history"] = [*loop["history"]]
    changing = {name: value for name, value in loop.items() if name not in lasting}
    return {**json.loads(json.dumps(changing)), **lasting}


def _position(loop: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(loop.get(name) for name in ("epoch", "step_in_epoch", "is_epoch_open"))


def _size(save: _Save) -> int:
    return sum(array.nbytes for array in save.arrays.values())


def _value(save: _Save) -> float:
    value: float = save.loop["ranking"]["value"]
    return value


def _is_gone(folder: Path) -> bool:
    try:
        os.lstat(folder)
    except FileNotFoundError:
        return True
    except OSError:  # nobody knows
        return False
    return False
