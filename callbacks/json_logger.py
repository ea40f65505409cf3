"""`JSONLogger`: appends published metrics to `metrics.jsonl`."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnx_alexnet.callbacks.base import BETWEEN_DISPATCHES, Callback, Stage
from nnx_alexnet.devices import is_main
from nnx_alexnet.runs import parse_row, write_last_step
from nnx_alexnet.support import logger, open_regular, read_whole, write_whole

_SECONDS_PER_WRITE = 2.0  # of the step

if TYPE_CHECKING:
    from nnx_alexnet.data import Batch
    from nnx_alexnet.trainer import Trainer


class JSONLogger(Callback):
    """Appends published metrics to `metrics.jsonl` in the run folder.

    Each line is one JSON object: `step`, `epoch` and the metrics that were published together;
    null stands for a value that is not finite. A failed write never ends training: the first one
    is logged. Without a run folder, this callback does nothing.

    Every few seconds and at the end of a fit, it also writes the number of the newest step to the
    file `.step`, from which `nnx-alexnet runs` reads how far a killed run has come.

    Example:
        Read it with `pandas.read_json("metrics.jsonl", lines=True)`, or line by line:

        >>> import json
        >>> json.loads('{"step": 27, "epoch": 0, "train/loss": 0.5}')["train/loss"]
        0.5
    """

    def __init__(self) -> None:
        self._failed_write = self._has_begun = False
        self._size = 0  # of the file, in bytes
        self._next_write = 0.0  # of the step

    @property
    def batch_period(self) -> int | None:
        """After every dispatch: writing the step depends on the clock."""
        return BETWEEN_DISPATCHES

    def setup(self, trainer: Trainer, stage: Stage) -> None:
        """Forgets an earlier run."""
        self._failed_write = self._has_begun = False

    def state_dict(self) -> dict[str, Any]:
        """Returns the size of the file."""
        return {"size": self._size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the size of the file."""
        self._size = state["size"]

    def on_fit_start(self, trainer: Trainer) -> None:
        """Starts with an empty file; a resumed run then restores its size."""
        self._size = 0

    def on_train_start(self, trainer: Trainer) -> None:
        """Removes the lines of steps that will be repeated, and restores lines that were lost."""
        if trainer.run_dir is None or not is_main():
            return
        self._has_begun = True
        path = trainer.run_dir / "metrics.jsonl"
        try:
            content = read_whole(path) if os.path.lexists(path) else b""
            lines = content[: self._size].splitlines(keepends=True)
            if len(content) < self._size or any(_whole_row(line) is None for line in lines):
                lines = _repaired(lines, trainer.history)
            if self._size:  # a resumed run does not repeat tests after its end
                lines += filter(_is_of_test, content[self._size :].splitlines(keepends=True))
            kept = b"".join(lines)
            if kept != content:
                write_whole(path, kept)
            self._size = len(kept)
        except OSError as error:
            self._report(error)

        write_last_step(trainer.run_dir, trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Writes the step if a few seconds have passed."""
        now = time.monotonic()
        if now >= self._next_write and trainer.run_dir is not None and is_main():
            self._next_write = now + _SECONDS_PER_WRITE
            write_last_step(trainer.run_dir, trainer.global_step)

    def teardown(self, trainer: Trainer, stage: Stage) -> None:
        """Writes the last step, however the fit ended after its state was restored."""
        if self._has_begun and trainer.run_dir is not None:
            write_last_step(trainer.run_dir, trainer.global_step)

    def on_log(self, trainer: Trainer, metrics: Mapping[str, float], step: int) -> None:
        """Appends a line."""
        if trainer.run_dir is None or not is_main():
            return
        try:
            self._append(trainer.run_dir / "metrics.jsonl", _line(step, trainer.epoch, metrics))
        except OSError as error:
            self._report(error)

    def _report(self, error: OSError) -> None:
        if not self._failed_write:
            self._failed_write = True
            logger.warning("metrics.jsonl could not be written, training continues: %s", error)

    def _append(self, path: Path, line: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(open_regular(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end > self._size:  # a full disk left an incomplete line
                file.truncate(self._size)
                end = file.seek(self._size)
            file.write(line)
            self._size = end + len(line)


def _line(step: int, epoch: int, metrics: Mapping[str, float]) -> bytes:
    finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    return json.dumps({"step": step, "epoch": epoch, **finite}, allow_nan=False).encode() + b"\n"


def _whole_row(line: bytes) -> dict[str, Any] | None:
    return parse_row(line) if line.endswith(b"\n") else None


def _repaired(lines: Iterable[bytes], history: Iterable[Mapping[str, Any]]) -> list[bytes]:
    """Returns the complete lines and the lost lines of finished epochs, in the order of steps.

    After a power failure, the end of a file may be missing or consist of zeros.

    Args:
        lines: the lines of the file.
        history: the rows of `Trainer.history` from the checkpoint.
    """
    rows = [(row["step"], line) for line in lines if (row := _whole_row(line)) is not None]
    names: dict[int, set[str]] = {}
    for step, line in rows:
        names.setdefault(step, set()).update(json.loads(line))
    for ended in history:
        step = ended["step"]
        lost = ended.keys() - names.get(step, set()) - {"step", "epoch"}
        if lost:
            metrics = {name: value for name, value in ended.items() if name in lost}
            rows.append((step, _line(step, ended["epoch"], metrics)))
    return [line for _, line in sorted(rows, key=lambda row: row[0])]


def _is_of_test(line: bytes) -> bool:
    names = (_whole_row(line) or {}).keys() - {"step", "epoch"}
    return len(names) > 0 and all(name.startswith("test/") for name in names)
