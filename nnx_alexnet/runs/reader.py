"""Reads the records in the folder of a run, whatever state they are in.

The run may still be writing them, may have been killed in the middle of a line, or may have lost
files; others may have changed them. What cannot be read counts as missing and raises no error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from nnx_alexnet.runs.evaluations import read_evaluations
from nnx_alexnet.runs.last_step import read_last_step
from nnx_alexnet.runs.lock import is_locked
from nnx_alexnet.support import best_first, read_whole

TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"
_ENDS = ("finished", "interrupted", "failed")  # how a run can record its end
_SCORES = {"f1", "precision", "recall", "auroc"}
_MAX_COUNT = 2**53  # of steps and epochs; floats do not represent all larger integers


def read_environment(run_dir: Path) -> dict[str, Any]:
    """Returns the content of a run's `environment.json`; an empty dict if it cannot be read.

    `before` lists the earlier starts of a resumed run.

    Args:
        run_dir: the folder of the run.
    """
    try:
        found = json.loads(read_whole(run_dir / "environment.json"))
        json.dumps(found, indent=2)  # the next start of the run must be able to write it again
    except Exception:  # for instance, a RecursionError for deep nesting
        return {}
    if not isinstance(found, dict):
        return {}
    before = found.get("before")
    starts = before if isinstance(before, list) else []
    return found | {"before": [start for start in starts if isinstance(start, dict)]}


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Returns the complete lines of a run's `metrics.jsonl`.

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
    """Returns the row in a line of `metrics.jsonl`, None if the line is not a valid row.

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
    """Returns the finite values of a metric by step; the newest if a step has several.

    Example:
        >>> from nnx_alexnet.runs.reader import series
        >>> series([{"step": 4, "val/loss": 0.5}, {"step": 8, "val/loss": None}], "val/loss")
        {4: 0.5}
    """
    return {row["step"]: float(row[name]) for row in rows if _is_number(row.get(name))}


def metric_names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the names of all metrics in the order of their first appearance."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if name not in ("step", "epoch")]


def larger_is_better(name: str) -> bool:
    """Returns whether larger values of a metric are better: of accuracy, F1, recall, AUROC, ...

    The name of a class may follow, as in `val/f1/cat`. Smaller values of all other metrics are
    better, also of the loss of a validation set that is named like a score.

    Example:
        >>> from nnx_alexnet.runs.reader import larger_is_better
        >>> larger_is_better("val/accuracy"), larger_is_better("val/loss")
        (True, False)
    """
    parts = name.split("/")
    if parts[-1] == "loss":
        return False
    is_score = any(part.removesuffix("_step") in _SCORES for part in parts)
    return is_score or "accuracy" in parts[-1]


def has_best(name: str) -> bool:
    """Returns whether a metric is a loss or a score: of others, the better value is unknown."""
    return larger_is_better(name) or "loss" in name.rsplit("/", 1)[-1]


def best_step(values: Mapping[int, float], name: str) -> int:
    """Returns the step of the best value, the earliest of equal ones.

    Args:
        values: by step, at least one of them finite.
        name: the metric, which determines whether larger values are better.
    """
    return best_first(values, mode="max" if larger_is_better(name) else "min")[0]


def num_epochs(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """Returns the number of epochs that have ended, None if nothing was logged."""
    at_epoch_end = {"train/loss", "perf/compile_seconds"}
    ended = [
        row["epoch"] + 1
        for row in rows
        if _is_count(row.get("epoch")) and not at_epoch_end.isdisjoint(row)
    ]
    return max(ended, default=0) if rows else None


def parse_time(text: object) -> datetime | None:
    """Returns a recorded time, None if it cannot be read."""
    try:
        time = datetime.strptime(str(text), TIME_FORMAT)
    except (ValueError, RecursionError):
        return None
    return time if 1 < time.year < 9999 else None  # the others do not exist in every time zone


def duration(environment: Mapping[str, Any], is_running: bool) -> float | None:
    """Returns the duration of a run in seconds: the sum over its starts, except those killed.

    A duration that was measured takes precedence over the difference of two recorded times, as
    the clock may have been set in between.

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
    """Returns the summary of one run that a table shows; None stands for what cannot be read.

    Args:
        run_dir: the folder of the run.

    Returns:
        `status`, `epochs`, `steps`, `started` (for the first time), `ended`, `duration` in seconds
        over all starts, `stop_reason`, `error`, `tags` (as one text), and each metric by its name:
        the best value of losses and scores in `val/`, the newest value of other metrics, also
        of those that `nnx-alexnet test` has recorded. `best_steps` has the steps of the best
        values. `status` is "running" while a process holds the run's lock, then what the run
        recorded at its end: "finished", "interrupted" or "failed"; "killed" if it recorded nothing.
    """
    return read_all(run_dir)[0]


def read_all(run_dir: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Returns what `read_run` returns, the logged metrics, and the environment.

    Args:
        run_dir: the folder of the run.
    """
    # Test the lock first: a run that ends before the next line has recorded how.
    is_running = is_locked(run_dir)
    environment, rows = read_environment(run_dir), read_metrics(run_dir)
    ended = environment.get("status", "killed") if environment else None
    if ended not in (*_ENDS, "killed"):
        ended = None
    known_steps = [row["step"] for row in rows]
    if (last := read_last_step(run_dir)) is not None:
        known_steps.append(last)
    found: dict[str, Any] = {
        "status": "running" if is_running else ended,
        "epochs": num_epochs(rows),
        "steps": max(known_steps, default=None),
        "started": _text([*environment.get("before", []), environment][0].get("started")),
        "ended": None if is_running else _text(environment.get("ended")),
        "duration": duration(environment, is_running),
        "stop_reason": _text(environment.get("stop_reason")),
        "error": _text(environment.get("error")),
        "tags": _tags(environment.get("tags")),
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
    for row in recorded_tests(run_dir):  # the newest one remains
        metrics |= {name: float(row[name]) for name in metric_names([row])}
    # The first `found` determines the order, the second overrides metrics of these names.
    run = {**found, **metrics, **found, "best_steps": best_steps}
    return run, rows, environment


def recorded_tests(run_dir: Path) -> list[dict[str, Any]]:
    """Returns the newest test of each step that `nnx-alexnet test` recorded; the newest is last.

    Args:
        run_dir: the folder of the run.
    """
    rows: dict[int, dict[str, Any]] = {}
    for found in read_evaluations(run_dir):
        step: Any = found.get("step")
        if found["split"] == "test" and _is_count(step):
            values = {n: v for n, v in found.items() if n.startswith("test/") and _is_number(v)}
            rows.pop(step, None)  # the newest test is the last row, even of an earlier step
            rows[step] = {"step": step, **values}
    return [*rows.values()]


def _tags(value: object) -> str | None:
    return ", ".join(map(str, value)) or None if isinstance(value, list) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNT
