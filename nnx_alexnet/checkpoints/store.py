"""The checkpoints of a run: saved in the background, kept or deleted, repaired after a kill.

One thread writes the checkpoints one after the other. Nothing is deleted before its replacement is
on the disk, so whole checkpoints remain after a kill or a power cut.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from nnx_alexnet.checkpoints.checkpoint_folder import CheckpointFolder
from nnx_alexnet.checkpoints.digests import Arrays
from nnx_alexnet.checkpoints.items import Checkpoint
from nnx_alexnet.checkpoints.orbax_files import check_path
from nnx_alexnet.checkpoints.retention import Retention
from nnx_alexnet.checkpoints.save import Save, SaveWriter, snapshot
from nnx_alexnet.support import BackgroundWriter, Mode, absolute_path, logger

OnSaveError = Literal["raise", "warn"]


class Checkpoints:
    """The checkpoints of one run; keeps the latest and the best of them.

    Whoever opens a folder must hold its `RunLock`: what a killed run left half done is repaired.

    Args:
        directory: the folder of the checkpoints, created if missing.
        keep_latest: how many of the newest to keep (default 2, so that there is one to fall
            back to).
        monitor: the metric that ranks, or None (the default) for no ranking.
        mode: whether smaller (`"min"`, the default) or larger (`"max"`) values are better.
        keep_best: how many of the best to keep in addition to the newest (default 0).
        on_error: whether a save that fails, on a full disk for instance, raises (`"raise"`, the
            default) or is reported while training continues (`"warn"`).
        finite: names of arrays of the item `model` that must be finite, or nothing is written.
        synced: files of the run on which a checkpoint depends, such as its log. They are written
            to the disk itself before the checkpoint gets its name.

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
        self._on_error = on_error
        check_path(self.directory)
        # The steps that are on disk or being saved.
        self._kept = Retention(monitor, mode, keep_latest=keep_latest, keep_best=keep_best)
        self._writer = SaveWriter(self.directory, finite=finite, synced=synced)
        self._folder = CheckpointFolder(self.directory, self._kept, self._writer)
        self._thread = BackgroundWriter(self._folder.write, name="checkpoints")
        self._is_prepared = False

    def prepare(self) -> None:
        """Imports Orbax in the background, so that the first save does not wait for it.

        That takes 1 to 2 s, in which other Python code runs more slowly. Call it when the device is
        busy.
        """
        if not self._is_prepared:
            self._is_prepared = True
            self._thread.prepare(partial(importlib.import_module, "orbax.checkpoint"))

    # ---- What there is ------------------------------------------------------------------------

    @property
    def has_written(self) -> bool:
        """Whether this process has written a checkpoint, read it back and named it."""
        return self._writer.has_written

    @property
    def steps(self) -> list[int]:
        """The steps on disk or being saved, in ascending order."""
        return self._kept.steps

    @property
    def latest_step(self) -> int | None:
        """The newest step; None if nothing was saved."""
        return max(self.steps, default=None)

    @property
    def best_step(self) -> int | None:
        """The step with the best value of the metric; None if no step has one."""
        return self._kept.best()[0]

    @property
    def best_value(self) -> float | None:
        """The value of the metric at `best_step`."""
        return self._kept.best()[1]

    def path(self, step: int) -> Path:
        """Returns the folder of the checkpoint of a step."""
        return self._folder.path(step)

    def restore(self, check: Callable[[Mapping[str, Any]], None]) -> Checkpoint | None:
        """Waits for all saves, and reads the newest intact checkpoint; see `CheckpointFolder`."""
        self.wait()
        return self._folder.read_newest(check)

    # ---- Saving -------------------------------------------------------------------------------

    def save(
        self,
        step: int,
        arrays: Arrays,
        loop: Mapping[str, Any],
        *,
        value: float | None = None,
        gives_way: bool = False,
    ) -> None:
        """Writes a checkpoint in the background, after waiting for the previous one.

        If the step already has a checkpoint, that one is replaced if it is at another position of
        the run (an epoch that was cut short has ended since), and kept otherwise.

        Args:
            step: number of optimizer steps done.
            arrays: by their path, which begins with the item; on the host, and no longer changed.
            loop: values that JSON can represent.
            value: the monitored metric, if it was measured at this very step.
            gives_way: whether not to wait for the previous save (default False). The checkpoint
                then waits in memory until saving has taken at most 5% of the time since that
                save began, unless a later one makes it superfluous first.

        Raises:
            TypeError: a callback's `state_dict` returned what JSON cannot represent.
            OSError: this or an earlier checkpoint could not be written.
            NonFiniteError: an array that must be finite is not.
        """
        self.check()
        ranking = self._kept.ranking(value)._asdict()
        save = Save(step, arrays, snapshot({**loop, "global_step": step, "ranking": ranking}))
        if gives_way and value is not None and not self.has_rested:
            self._hold(save)
            return
        self.wait()
        if not self._folder.contains(save):
            self._thread.start(self._folder.begin(save))

    @property
    def has_rested(self) -> bool:
        """Whether no save is running and the last one has taken at most 5% of the time since."""
        return self._thread.has_rested

    def would_be_best(self, value: float | None) -> bool:
        """Returns whether a step with this value of the metric would be kept as one of the best."""
        if value is None:
            return False
        values = _values(self._thread.held)
        step = max([*self.steps, *values], default=0) + 1
        return self._kept.is_best(step, {**values, step: value})

    def check(self) -> None:
        """Raises the error of a finished save; does not wait for running ones."""
        with self._tolerance():
            self._thread.check()

    def wait(self) -> None:
        """Waits for all saves, and raises the error of the first one that failed."""
        while self._thread.is_pending:
            with self._tolerance():
                self._thread.wait()

    def close(self) -> None:
        """Waits for all saves, and ends the thread."""
        failures = self._thread.close()
        self._folder.close()
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
            logger.warning("%s Training continues.", error)

    def _hold(self, save: Save) -> None:
        """Lets a save wait in memory, in place of one that it makes superfluous."""
        if self._thread.replace_held(save, replaces=partial(self._replaces, save)):
            return
        if self._thread.held is not None:  # both are among the best
            self._thread.release()
        self._thread.hold(save)

    def _replaces(self, save: Save, held: Save) -> bool:
        """Whether a waiting checkpoint is not among the best once another one is saved."""
        values = {**_values(held), **_values(save)}
        return held.step == save.step or not self._kept.is_best(held.step, values)


def _values(save: Save | None) -> dict[int, float]:
    """Returns the step of a save and its value, if it has one."""
    return {} if save is None or save.value is None else {save.step: save.value}
