"""`JSONLogger`: every published metric as a line of JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnx_alexnet.callbacks.base import Callback, Stage
from nnx_alexnet.log import logger
from nnx_alexnet.processes import is_main

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer


class JSONLogger(Callback):
    """Appends every published metric to `metrics.jsonl` in the run's folder.

    Each line is one JSON object: `step`, `epoch` and the metrics that were published together;
    null stands for a value that is not finite. A line that cannot be written never ends training:
    that is reported once. Without a run folder this does nothing.

    Example:
        Read it with `pandas.read_json("metrics.jsonl", lines=True)`, or line by line:

        >>> import json
        >>> json.loads('{"step": 27, "epoch": 0, "train/loss": 0.5}')["train/loss"]
        0.5
    """

    def __init__(self) -> None:
        self._failed_write = False
        self._size = 0  # of the file, in bytes

    def setup(self, trainer: Trainer, stage: Stage) -> None:
        """Forgets an earlier run."""
        self._failed_write = False

    def state_dict(self) -> dict[str, Any]:
        """Returns how long the file is."""
        return {"size": self._size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back how long the file was."""
        self._size = state["size"]

    def on_fit_start(self, trainer: Trainer) -> None:
        """Begins with an empty file, unless the run is a resumed one."""
        self._size = 0

    def on_train_start(self, trainer: Trainer) -> None:
        """Cuts off what the steps wrote that are taken again: the file has each one once."""
        if trainer.run_dir is None or not is_main():
            return
        path = trainer.run_dir / "metrics.jsonl"
        try:
            if path.exists() and path.stat().st_size > self._size:
                after = path.read_bytes()[self._size :].splitlines(keepends=True)
                os.truncate(path, self._size)
                if self._size:  # what was measured after the run had ended is not taken again
                    with path.open("ab") as file:
                        file.writelines(line for line in after if _is_of_test(line))
                        self._size = file.tell()
        except OSError as error:
            self._report(error)

    def on_log(self, trainer: Trainer, metrics: Mapping[str, float], step: int) -> None:
        """Appends a line."""
        if trainer.run_dir is None or not is_main():
            return
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        line = json.dumps({"step": step, "epoch": trainer.epoch, **finite}, allow_nan=False)
        try:
            self._append(trainer.run_dir / "metrics.jsonl", line)
        except OSError as error:
            self._report(error)

    def _report(self, error: OSError) -> None:
        if not self._failed_write:
            self._failed_write = True
            logger.warning("metrics.jsonl could not be written, training goes on: %s", error)

    def _append(self, path: Path, line: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            if file.tell() > self._size:  # a full disk cut the last line short
                file.truncate(self._size)
            file.write(line.encode() + b"\n")
            self._size = file.tell()


def _is_of_test(line: bytes) -> bool:
    try:
        names = json.loads(line).keys() - {"step", "epoch"}
    except ValueError:  # cut short
        return False
    is_whole = line.endswith(b"\n") and len(names) > 0
    return is_whole and all(name.startswith("test/") for name in names)
