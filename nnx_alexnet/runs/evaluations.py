"""The results of evaluations after a run, in `evaluations.jsonl` in its folder."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnx_alexnet.support import logger, read_whole, write_whole

_FILE = "evaluations.jsonl"
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"


def record_evaluation(
    run_dir: Path, metrics: Mapping[str, float], *, split: str, step: int, reason: str = ""
) -> None:
    """Adds the result of an evaluation to the records of a run; earlier ones are kept.

    The file is replaced as a whole, so that a reader never finds a part of a line. If it cannot be
    written, a warning is logged.

    Args:
        run_dir: the folder of the run.
        metrics: name to value; a value that is not finite becomes null.
        split: "val" or "test".
        step: of the checkpoint.
        reason: why that checkpoint was chosen.
    """
    values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    row = {"date": time.strftime(_TIME_FORMAT), "split": split, "step": step, "reason": reason}
    rows = [*read_evaluations(run_dir), {**row, **values}]
    try:
        write_whole(run_dir / _FILE, "".join(json.dumps(each) + "\n" for each in rows).encode())
    except OSError as error:
        logger.warning("The result could not be recorded in %s: %s", run_dir / _FILE, error)


def read_evaluations(run_dir: Path) -> list[dict[str, Any]]:
    """Returns the recorded evaluations of a run, the oldest first; none if they cannot be read.

    Each has the `date`, the `split`, the `step` and the `reason` of the checkpoint, and the
    metrics.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from nnx_alexnet.runs.evaluations import read_evaluations, record_evaluation
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     record_evaluation(Path(folder), {"test/loss": 0.5}, split="test", step=4)
        ...     [row["test/loss"] for row in read_evaluations(Path(folder))]
        [0.5]
    """
    try:
        lines = read_whole(run_dir / _FILE).splitlines()
    except Exception:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except Exception:  # for instance, a RecursionError for deep nesting
            continue
        if isinstance(row, dict) and isinstance(row.get("split"), str):
            rows.append(row)
    return rows
