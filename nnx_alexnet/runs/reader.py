"""Reads what a run has left in its folder, whatever state that is in.

A run may be writing, may have been killed in the middle of a line, and may have lost files; others
may have changed them. What cannot be read counts as missing, and nothing here raises for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from nnx_alexnet.runs.lock import is_locked
from nnx_alexnet.support import best_first, read_whole

TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"
ENDS = ("finished", "interrupted", "failed")  # what a run can say of its end

_LARGEST_COUNT = 2**53  # of steps and epochs; larger ones are no float


def read_environment(run_dir: Path) -> dict[str, Any]:
    """Returns what `environment.json` of a run holds; an empty dict where it cannot be read.

    `before` has the earlier starts of a run that was resumed.

    Args:
        run_dir: the folder of the run.
    """
    try:
        found = json.loads(read_whole(run_dir / "environment.json"))
        json.dumps(found, indent=2)  # as the next start of the run writes it again
    except Exception:  # deep nesting is a RecursionError, for instance
        return {}
    if not isinstance(found, dict):
        return {}
    before = found.get("before")
    starts = before if isinstance(before, list) else []
    return found | {"before": [start for start in starts if isinstance(start, dict)]}


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's `metrics.jsonl` that are whole.

    Args:
        run_dir: the folder of the run.

    Returns:
        Dicts with an integer `step`, in the order of the file.
    """
    try:
        lines = read_whole(run_dir / "metrics.jsonl").splitlines()
    except Exception:
        return []
    return [row for line in lines if (row := parse_row(line)) is not None]


def parse_row(line: bytes) -> dict[str, Any] | None:
    """Returns the row that a line of `metrics.jsonl` holds, None if it is none.

    Example:
        >>> from nnx_alexnet.runs.reader import parse_row
        >>> parse_row(b'{"step": 4, "val/loss": 0.5}'), parse_row(b'{"step": 4, "val/l')
        ({'step': 4, 'val/loss': 0.5}, None)
    """
    try:
        row = json.loads(line)
    except Exception:
        return None
    return row if isinstance(row, dict) and _is_count(row.get("step")) else None


def series(rows: Iterable[Mapping[str, Any]], name: str) -> dict[int, float]:
    """Returns the finite values of a metric by their step; of one step the newest.

    Example:
        >>> from nnx_alexnet.runs.reader import series
        >>> series([{"step": 4, "val/loss": 0.5}, {"step": 8, "val/loss": None}], "val/loss")
        {4: 0.5}
    """
    return {row["step"]: float(row[name]) for row in rows if _is_number(row.get(name))}


def metric_names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the names of all metrics in the order in which they first come."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if name not in ("step", "epoch")]


def larger_is_better(name: str) -> bool:
    """Whether a metric is an accuracy; of every other one the smallest value is the best.

    Example:
        >>> from nnx_alexnet.runs.reader import larger_is_better
        >>> larger_is_better("val/accuracy"), larger_is_better("val/loss")
        (True, False)
    """
    return "accuracy" in name.rsplit("/", 1)[-1]


def has_best(name: str) -> bool:
    """Whether it is known which values of a metric are better: those of losses and accuracies."""
    return larger_is_better(name) or "loss" in name.rsplit("/", 1)[-1]


def best_step(values: Mapping[int, float], name: str) -> int:
    """Returns the step of the best value; of equal ones the earliest.

    Args:
        values: by step, at least one of them finite.
        name: of the metric.
    """
    return best_first(values, mode="max" if larger_is_better(name) else "min")[0]


def num_epochs(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """Returns how many epochs have ended, None where nothing was logged."""
    ended = [
        row["epoch"] + 1
        for row in rows
        if _is_count(row.get("epoch"))
        and ("train/loss" in row or "perf/compile_seconds" in row)  # published only then
    ]
    return max(ended, default=0) if rows else None


def parse_time(text: object) -> datetime | None:
    """Returns a recorded time, None where there is none that can be read."""
    try:
        time = datetime.strptime(str(text), TIME_FORMAT)
    except (ValueError, RecursionError):
        return None
    return time if 1 < time.year < 9999 else None  # others do not exist in every time zone


def duration(environment: Mapping[str, Any], is_running: bool) -> float | None:
    """Returns the seconds that a run took: the sum over its starts, without those killed.

    What a start measured itself counts more than its times: the clock may have been set.

    Args:
        environment: what `read_environment` returned.
        is_running: whether the newest start has not ended.
    """
    seconds = []
    for start in [*environment.get("before", []), environment]:
        began, ended = parse_time(start.get("started")), parse_time(start.get("ended"))
        measured = start.get("seconds")
        if start is environment and is_running:
            ended, measured = datetime.now().astimezone(), None
        if _is_number(measured):
            seconds.append(max(0.0, float(measured)))
        elif began is not None and ended is not None:
            seconds.append(max(0.0, (ended - began).total_seconds()))
    return sum(seconds) if seconds else None


def read_run(run_dir: Path) -> dict[str, Any]:
    """Returns all that a table says of one run; None stands for what cannot be read.

    Args:
        run_dir: the folder of the run.

    Returns:
        `status`, `epochs`, `steps`, `started` and `ended` (of the newest start), `duration` in
        seconds, `stop_reason`, `error`, and each metric by its name: of the validation's losses
        and accuracies the best value, of every other one the newest. `best_steps` has the steps
        of the best. `status` is "running" while a process holds the run's lock, else what it wrote
        at its end: "finished", "interrupted" or "failed"; "killed" if it wrote nothing.
    """
    return read_all(run_dir)[0]


def read_all(run_dir: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Returns what `read_run` says, and the metrics and the environment that it was read from."""
    # The lock first: a run that ends in between has written how.
    is_running = is_locked(run_dir)
    environment, rows = read_environment(run_dir), read_metrics(run_dir)
    ended = environment.get("status", "killed") if environment else None
    if ended not in (*ENDS, "killed"):
        ended = None
    found: dict[str, Any] = {
        "status": "running" if is_running else ended,
        "epochs": num_epochs(rows),
        "steps": max((row["step"] for row in rows), default=None),
        "started": _text(environment.get("started")),
        "ended": None if is_running else _text(environment.get("ended")),
        "duration": duration(environment, is_running),
        "stop_reason": _text(environment.get("stop_reason")),
        "error": _text(environment.get("error")),
    }
    best_steps, metrics = {}, {}
    for name in metric_names(rows):
        values = series(rows, name)
        if not values:
            continue
        if name.startswith("val/") and has_best(name):
            best_steps[name] = best_step(values, name)
            metrics[name] = values[best_steps[name]]
        else:
            metrics[name] = [*values.values()][-1]
    # A callback's metric may have the name of a column, which then comes first.
    run = {**found, **metrics, **found, "best_steps": best_steps}
    return run, rows, environment


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer that is no float
        return False


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_COUNT
