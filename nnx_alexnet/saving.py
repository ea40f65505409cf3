"""The checkpoints of a run: written in the background, kept or deleted, put right after a kill.

One thread writes, one checkpoint after the other. Orbax commits a folder by renaming it; here a
folder is renamed before it is deleted, so a kill at any moment leaves whole checkpoints and
folders of other names, which the next start puts right. Nothing is deleted before the disk has
what replaces it, so that also holds when the power fails.
"""

from __future__ import annotations

import errno
import importlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnx_alexnet.checkpoints import (
    UNREADABLE,
    Checkpoint,
    Mode,
    find_steps,
    first_line,
    kept_steps,
    read_checkpoint,
    read_loop,
    write_checkpoint,
)
from nnx_alexnet.log import logger
from nnx_alexnet.manifest import Arrays

OnSaveError = Literal["raise", "warn"]

_OVERHEAD = 2**19  # bytes, of the files of a checkpoint besides its arrays
# A folder of this name holds what a newer save of the same step is about to replace.
_REPLACED = "replaced-"
_DELETING = "deleting-"
_DAMAGED = "damaged-"


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

    Attributes:
        values: the monitored value of each step on disk that has one.

    Example:
        >>> import tempfile, numpy as np
        >>> from nnx_alexnet.saving import Checkpoints
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
    ) -> None:
        self.directory = Path(directory).expanduser().resolve()
        self.monitor = monitor
        self.mode: Mode = mode
        self.values: dict[int, float] = {}
        self._kept = partial(kept_steps, keep_latest=keep_latest, keep_best=keep_best, mode=mode)
        self._on_error = on_error
        self._finite = finite
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        # It takes a second or two, which a first save would wait for, and be taken to take.
        self._writer.submit(importlib.import_module, "orbax.checkpoint")
        self._pending: Future[None] | None = None
        self._rests_until = 0.0  # by time.monotonic
        self._loops: dict[int, Mapping[str, Any]] = {}  # of every step on disk or being saved
        self.directory.mkdir(parents=True, exist_ok=True)
        _tidy(self.directory)
        for step, folder in find_steps(self.directory).items():
            try:
                self._remember(step, read_loop(folder))
            except UNREADABLE as error:
                _quarantine(folder, error)

    @property
    def steps(self) -> list[int]:
        """The steps on disk or being saved, in ascending order."""
        return sorted(self._loops)

    @property
    def latest_step(self) -> int | None:
        """The newest step, None when nothing was saved."""
        return max(self._loops, default=None)

    @property
    def best_step(self) -> int | None:
        """The step with the best monitored value, None when no step has one."""
        return self._best()[0]

    @property
    def best_value(self) -> float | None:
        """The monitored value of `best_step`."""
        return self._best()[1]

    def _best(self) -> tuple[int, float] | tuple[None, None]:
        values = dict(self.values)  # the thread that writes may change them
        for step in kept_steps([*values], values, keep_latest=0, keep_best=1, mode=self.mode):
            return step, values[step]
        return None, None

    @property
    def has_rested(self) -> bool:
        """Whether no save is under way, and the last one is as long ago as it took."""
        is_writing = self._pending is not None and not self._pending.done()
        return not is_writing and time.monotonic() >= self._rests_until

    def would_be_best(self, value: float | None) -> bool:
        """Whether a step with that value of the metric would be kept as one of the best."""
        if value is None:
            return False
        step = max(self.values, default=0) + 1
        values = {**self.values, step: value}
        return step in self._kept([*values], values, keep_latest=0)

    def path(self, step: int) -> Path:
        """Returns the folder of the checkpoint of that step."""
        return self.directory / str(step)

    def save(
        self, step: int, arrays: Arrays, loop: Mapping[str, Any], *, value: float | None = None
    ) -> None:
        """Writes one checkpoint in the background; first waits for the one before.

        A step that is there already is replaced if it is at another position of the run (an
        epoch that was cut short has ended since), and else left alone.

        Args:
            step: the number of optimizer steps done.
            arrays: on the host, and not changed any more; by their path, the item first.
            loop: what JSON can hold.
            value: the monitored metric, if it was produced at this very step.

        Raises:
            TypeError: JSON cannot hold what a callback's `state_dict` returned.
            OSError: this or an earlier checkpoint could not be written.
            FloatingPointError: an array that must be finite is not.
        """
        self.wait()
        ranking = {"monitor": self.monitor, "mode": self.mode, "value": value}
        # What is written is what is there now: the run goes on, and changes its records.
        loop = json.loads(json.dumps({**loop, "ranking": ranking}))
        if step in self._loops and _position(self._loops[step]) == _position(loop):
            return
        before = self._loops.get(step)
        self._remember(step, loop)
        self._pending = self._writer.submit(self._write_timed, step, arrays, loop, before)

    def check(self) -> None:
        """Raises what a save raised in the background, once it is done; does not wait."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Waits for the save under way, and raises what it raised."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except OSError as error:
            if self._on_error == "raise":
                raise
            logger.warning("%s Training goes on.", error)

    def close(self) -> None:
        """Waits for the save under way, and ends the thread."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def restore(self, check: Callable[[Mapping[str, Any]], None]) -> Checkpoint | None:
        """Reads the newest checkpoint that is whole; what is damaged is renamed, and said.

        Args:
            check: called with the JSON of a checkpoint before its arrays are read; what it
                raises ends the search.

        Returns:
            The checkpoint, or None if there never was one.

        Raises:
            ValueError: there are checkpoints, and all are damaged.
        """
        self.wait()
        for step in reversed(self.steps):
            check(self._loops[step])
            try:
                return read_checkpoint(self.path(step))
            except UNREADABLE as error:
                _quarantine(self.path(step), error)
                self._forget(step)
        if any(self.directory.glob(f"{_DAMAGED}*")):
            raise ValueError(
                f'All checkpoints in {self.directory} are damaged. `resume="never"` starts a new '
                "run."
            )
        return None

    def _remember(self, step: int, loop: Mapping[str, Any]) -> None:
        self._forget(step)
        self._loops[step] = loop
        ranking = loop["ranking"]
        if ranking["monitor"] == self.monitor and ranking["value"] is not None:
            self.values[step] = ranking["value"]

    def _forget(self, step: int) -> None:
        self._loops.pop(step, None)
        self.values.pop(step, None)

    # ---- In the thread that writes; the others wait for it before they touch `_loops` --------

    def _write_timed(self, *arguments: Any) -> None:
        began = time.monotonic()
        try:
            self._write(*arguments)
        finally:
            now = time.monotonic()
            self._rests_until = now + (now - began)

    def _write(
        self,
        step: int,
        arrays: Arrays,
        loop: Mapping[str, Any],
        before: Mapping[str, Any] | None,
    ) -> None:
        for name in self._finite:
            if not np.isfinite(arrays[f"model/{name}"]).all():
                self._forget(step)
                raise FloatingPointError(
                    f"`{name}` of the model is not finite after step {step}. This state was not "
                    f"saved; the newest checkpoint is of step {self.latest_step}. A smaller "
                    "learning rate or clipped gradients may help."
                )
        folder = self.path(step)
        replaced = folder.with_name(f"{_REPLACED}{step}")
        try:
            self._check_room(arrays)
            if folder.exists():
                folder.rename(replaced)
            write_checkpoint(folder, arrays, loop)
            _flush(folder)
        except Exception as error:  # Orbax raises a ValueError where the disk is full
            self._forget(step)
            _clear(self.directory, f"{step}.*")
            if replaced.exists() or before is None:
                _delete(folder)
            if replaced.exists():
                replaced.rename(folder)
            if before is not None:
                self._remember(step, before)
            raise OSError(self._failure(step, arrays, error)) from error
        _delete(replaced)
        kept = self._kept(self.steps, self.values)
        for old in self.steps:
            if old not in kept:
                self._forget(old)
                _delete(self.path(old))

    def _check_room(self, arrays: Arrays) -> None:
        """Raises where the disk is too full, before anything is written."""
        self.directory.mkdir(parents=True, exist_ok=True)
        needed = sum(array.nbytes for array in arrays.values()) + _OVERHEAD
        if shutil.disk_usage(self.directory).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _failure(self, step: int, arrays: Arrays, error: Exception) -> str:
        size = sum(array.nbytes for array in arrays.values())
        try:
            room = f"{shutil.disk_usage(self.directory).free:,} bytes are free there"
        except OSError:
            room = "the folder is gone"
        rest = f"The newest checkpoint is of step {self.latest_step}." if self._loops else ""
        return (
            f"The checkpoint of step {step} ({size:,} bytes) could not be written to "
            f"{self.directory}, {room}: {first_line(error)}. {rest}".strip()
        )


def _flush(folder: Path) -> None:
    """Waits until a checkpoint is on the disk itself: what it replaces is deleted after that."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _tidy(directory: Path) -> None:
    """Puts right what a run that was killed while it saved or deleted left behind."""
    _clear(directory, "*.orbax-checkpoint-tmp*")
    _clear(directory, f"{_DELETING}*")
    for replaced in directory.glob(f"{_REPLACED}*"):
        folder = directory / replaced.name.removeprefix(_REPLACED)
        if folder.exists():
            _delete(replaced)
        else:
            replaced.rename(folder)


def _clear(directory: Path, pattern: str) -> None:
    for path in directory.glob(pattern):
        shutil.rmtree(path, ignore_errors=True)


def _delete(folder: Path) -> None:
    """Deletes a checkpoint; half of one never has its name."""
    try:
        doomed = folder.rename(folder.with_name(f"{_DELETING}{folder.name}"))
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)


def _quarantine(folder: Path, error: Exception) -> None:
    names = (f"{_DAMAGED}{folder.name}-{number}" for number in itertools.count())
    target = next(path for path in map(folder.with_name, names) if not path.exists())
    folder.rename(target)
    logger.warning(
        "The checkpoint of step %s is damaged and not used (%s); it was renamed to %s.",
        folder.name, first_line(error), target.name,
    )  # fmt: skip


def _position(loop: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(loop.get(name) for name in ("epoch", "step_in_epoch", "is_epoch_open"))
