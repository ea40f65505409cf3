"""The header of a report: when the run was started, how it ended, and its main numbers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nnx_alexnet.report.metric_text import metric_text
from nnx_alexnet.report.scores import Scores
from nnx_alexnet.runs import (
    best_step,
    has_best,
    metric_names,
    parse_time,
    series,
    validation_splits,
)
from nnx_alexnet.support import format_count, format_duration


def header(
    title: str,
    run: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any],
    measured: Mapping[str, Scores] | None = None,
) -> str:
    """Returns the header of a run's report, as HTML.

    Args:
        title: the name of the run.
        run: the entry of the run that `read_all` returned.
        rows: the logged metrics.
        environment: the environment, including those of earlier starts.
        measured: the scores of the splits that were measured for the report (default none).
    """
    status = run["status"] or "unknown"
    kind = status if status.isalpha() else "unknown"
    return (
        f'<div class="name"><h1>{escape(title)}</h1>'
        f'<span class="status {kind}">{escape(status)}</span></div>\n'
        f"<p>{period(run)}{_tags(run)}</p>\n{end_reason(run)}\n"
        f"<dl>{tiles(run, rows, environment, measured)}</dl>"
    )


def _tags(run: Mapping[str, Any]) -> str:
    return f"; tags: {escape(str(run['tags']))}" if run.get("tags") else ""


def period(run: Mapping[str, Any]) -> str:
    """Returns when the run was started and when it ended, as HTML.

    Args:
        run: the entry of the run that `read_all` returned.
    """
    started, ended = parse_time(run["started"]), parse_time(run["ended"])
    if started is None:
        return "The start time is unknown"
    text = f"Started {started:%d %B %Y, %H:%M}"
    if ended is not None:
        is_same_day = started.date() == ended.date()
        text += f", ended {ended:%H:%M}" if is_same_day else f", ended {ended:%d %B %Y, %H:%M}"
    return escape(text)


def end_reason(run: Mapping[str, Any]) -> str:
    """Returns why the run ended, as HTML; empty if it finished, or has not ended.

    Args:
        run: the entry of the run that `read_all` returned.
    """
    for name, text in [("error", "Ended by an error"), ("stop_reason", "Stopped")]:
        if run[name] is not None:
            return f'<p class="reason">{text}: {escape(str(run[name]))}</p>'
    return ""


def tiles(
    run: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any],
    measured: Mapping[str, Scores] | None = None,
) -> str:
    """Returns the main numbers of a run, as HTML.

    Args:
        run: the entry of the run that `read_all` returned.
        rows: the logged metrics.
        environment: the environment, including those of earlier starts.
        measured: the scores of the splits that were measured for the report (default none).
    """
    shown = []
    if measured and "test" in measured:
        correct = measured["test"].overall["accuracy"]
        num = int(measured["test"].classes.support.sum())
        shown.append(("Test accuracy", f"{correct:.2%}", f"of {num:,} examples"))
    else:
        tested = [name for name in run if name.startswith("test/")]
        chosen = [name for name in tested if name.endswith("/accuracy")] or tested[:1]
        shown += [(name, metric_text(name, run[name]), "") for name in chosen]
    if (best := best_metric(rows)) is not None:
        name, step, value = best
        shown.append((f"Best {name}", metric_text(name, value), f"at step {step:,}"))
    if run["steps"] is not None:
        shown.append(("Steps", f"{run['steps']:,}", format_count(run["epochs"] or 0, "epoch")))
    num_starts = 1 + len(environment.get("before", []))
    starts = f"over {num_starts} starts" if num_starts > 1 else ""
    shown.append(("Duration", format_duration(run["duration"]), starts))
    if speeds := series(rows, "perf/images_per_second"):
        speed = statistics.median(speeds.values())
        shown.append(("Examples per second", metric_text("examples", speed), "median"))
    return "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd><dd>{escape(note)}</dd></div>"
        for label, value, note in shown
    )


def best_metric(rows: Sequence[Mapping[str, Any]]) -> tuple[str, int, float] | None:
    """Returns name, step and value of the metric that best represents a run.

    This is the first of the following that was logged: `val/accuracy`, `val/loss`, another
    validation metric, `train/loss`. Of several validation sets, the first one counts.

    Example:
        >>> from nnx_alexnet.report.page_header import best_metric
        >>> best_metric([{"step": 4, "val/loss": 0.7}, {"step": 8, "val/loss": 0.5}])
        ('val/loss', 8, 0.5)
    """
    names = metric_names(rows)
    first = [
        f"{split}/{name}" for name in ("accuracy", "loss") for split in validation_splits(names)
    ]
    for name in (*first, *(name for name in names if name.startswith("val/")), "train/loss"):
        if values := series(rows, name):
            step = best_step(values, name) if has_best(name) else max(values)
            return name, step, values[step]
    return None
