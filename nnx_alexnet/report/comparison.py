"""`write_comparison`: writes several runs side by side as one self-contained HTML file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnx_alexnet.report.chart_groups import CLASSES, Chart, Charts, chart_groups
from nnx_alexnet.report.curve_section import chart_grid
from nnx_alexnet.report.html_parts import breakable, collapsed, note, section, table
from nnx_alexnet.report.html_report import output_file, run_folder, write_page
from nnx_alexnet.report.metric_text import metric_text
from nnx_alexnet.report.page_sections import environment_lines
from nnx_alexnet.report.page_template import page
from nnx_alexnet.report.svg_chart import SERIES, themed
from nnx_alexnet.report.svg_curves import Curve, Epochs, Rows, draw_curves
from nnx_alexnet.runs import (
    Settings,
    best_step,
    class_metrics,
    compare_settings,
    has_best,
    larger_is_better,
    metric_names,
    read_all,
    read_settings,
    series,
    validation_splits,
)
from nnx_alexnet.support import format_count, format_duration

MAX_RUNS = len(SERIES)
_MAX_METRICS = 12
_MAX_VALUE = 200  # characters of a value of the configuration
_MISSING = "-"


class ComparedRun(NamedTuple):
    """One run of a comparison.

    Attributes:
        name: its path in the folder that holds all runs.
        color: of its curves.
        run: its summary, as `read_all` returns it.
        rows: its logged metrics.
        settings: its configuration.
        environment: its command, devices and versions.
    """

    name: str
    color: str
    run: Mapping[str, Any]
    rows: Rows
    settings: Settings
    environment: Settings


def write_comparison(run_dirs: Sequence[str | Path], path: str | Path | None = None) -> Path:
    """Writes the results, the curves and the differences of several runs as one HTML file.

    Args:
        run_dirs: the folders of two to ten runs, which may still be running.
        path: the file to write (default `comparison.html` in the folder that holds all runs).

    Returns:
        The file's absolute path.

    Raises:
        ValueError: there are fewer or more runs, one is given twice or is not the folder of a
            run, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> from nnx_alexnet.report.comparison import write_comparison
        >>> from nnx_alexnet.runs.folder import create_run_dir
        >>> from nnx_alexnet.runs.records import write_record
        >>> logs = tempfile.mkdtemp()
        >>> runs = [create_run_dir(logs, name) for name in ("adam", "sgd")]
        >>> for run_dir in runs:
        ...     write_record(run_dir, {"optimizer": {"name": run_dir.parent.name}})
        >>> write_comparison(runs).name
        'comparison.html'
    """
    folders = [run_folder(run_dir) for run_dir in run_dirs]
    if not 2 <= len(folders) <= MAX_RUNS:
        raise ValueError(f"`run` has {len(folders)} folders; a comparison needs 2 to {MAX_RUNS}.")
    if len({*folders}) < len(folders):
        raise ValueError("`run` names a folder twice; name each run once.")
    common = Path(os.path.commonpath(folders))
    path = output_file(path, common / "comparison.html")
    compared = [
        _read(folder, common, color) for folder, color in zip(folders, SERIES, strict=False)
    ]
    write_page(path, _page(compared))
    return path


def _read(folder: Path, common: Path, color: str) -> ComparedRun:
    run, rows, environment = read_all(folder)
    return ComparedRun(
        # If all runs have the same name, their paths begin with it.
        name=folder.relative_to(common.parent if folder.parent == common else common).as_posix(),
        color=color,
        run=run,
        rows=rows,
        settings=read_settings(folder),
        environment=Settings(environment_lines(environment)),
    )


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}…"


def _page(runs: Sequence[ComparedRun]) -> str:
    bodies = {
        "Results": lambda: results(runs),
        "Curves": lambda: compared_curves(runs),
        "Configuration": lambda: differences(
            [each.name for each in runs], [each.settings for each in runs], "settings"
        ),
        "Environment": lambda: differences(
            [each.name for each in runs], [each.environment for each in runs], "entries"
        ),
    }
    names = ", ".join(each.name for each in runs)
    head = f"<h1>Comparison of {len(runs)} runs</h1>\n<p>{escape(names)}</p>"
    sections = [(title, section(title, body)) for title, body in bodies.items()]
    return page(f"Comparison of {len(runs)} runs", head, sections)


def results(runs: Sequence[ComparedRun]) -> str:
    """Returns a table with a row per run; the best value of each loss and score is marked."""
    names = dict.fromkeys(
        name
        for split in ("val/", "test/")
        for each in runs
        for name in each.run
        if name.startswith(split)
    )
    for name in class_metrics(names):
        del names[name]
    order = ("accuracy", "loss", "")
    metrics = sorted(
        names, key=lambda name: next(k for k, end in enumerate(order) if name.endswith(end))
    )[:_MAX_METRICS]
    best = {name: _best([each.run.get(name) for each in runs], name) for name in metrics}
    body = []
    for each in runs:
        run = each.run
        cells = [_name(each), escape(str(run["status"] or "unknown"))]
        for name in metrics:
            value = run.get(name)
            text = _MISSING if value is None else metric_text(name, value)
            is_best = value is not None and value == best[name]
            cells.append(f'<b class="best">{text}</b>' if is_best else text)
        counts = (run["epochs"], run["steps"])
        cells += [_MISSING if count is None else f"{count:,}" for count in counts]
        body.append([*cells, format_duration(run["duration"])])
    head = ["run", "status", *metrics, "epochs", "steps", "duration"]
    left_out = len(names) - len(metrics)
    remark = f" {format_count(left_out, 'more metric')} without a column." if left_out else ""
    return table(head, body, kind="runs", texts=2) + note(
        "Losses and scores in val/ are the best of each run; those in test/ are the newest."
        + remark
    )


def _best(values: Sequence[float | None], name: str) -> float | None:
    """Returns the best value if it is known which is better, and if they differ."""
    known = [value for value in values if value is not None]
    if not has_best(name) or len({*known}) < 2:
        return None
    return max(known) if larger_is_better(name) else min(known)


def _name(run: ComparedRun) -> str:
    color = f'<i class="dot" style="background: {themed(run.color)}"></i>'
    return f"{color}{breakable(run.name)}"


def compared_curves(runs: Sequence[ComparedRun]) -> str:
    """Returns one chart per metric, with the validation of each run and, dashed, its training."""
    counts: dict[str, int] = {}
    for each in runs:
        for name in metric_names(each.rows):
            counts[name] = max(counts.get(name, 0), len(series(each.rows, name)))
    sets = [split for each in runs for split in validation_splits(metric_names(each.rows))]
    found = _each_set(chart_groups(counts, sets))
    if not found.groups:
        return note("The runs have logged no metrics yet.")
    known = [Epochs(each.rows) for each in runs]
    shared = _shared(known)
    # Epochs of different lengths are comparable, their steps are not.
    by_epoch = shared is None and all(each.ends for each in known)
    converted: list[Epochs | None] = [*known] if by_epoch else [None] * len(runs)
    axis = "epoch" if by_epoch else "step"

    def draw(chart: Chart, number: int) -> str:
        lines = [
            curve
            for each, epochs in zip(runs, converted, strict=True)
            if not chart.hint or series(each.rows, f"{chart.hint}/{chart.metric}")
            for split in chart.splits
            if (curve := _curve(each, split, chart.metric, epochs))
        ]
        return draw_curves(
            lines, metric=chart.metric, name=f"{chart.title} by {axis}", figure=f"c{number}",
            epochs=shared, by_epoch=by_epoch, from_zero=chart.from_zero,
        )  # fmt: skip

    items = "".join(f"<li>{_name(each)}</li>" for each in runs)
    return f'<ul class="key">{items}</ul>{chart_grid(found, draw)}' + note(
        "Solid lines and filled dots: validation; dashed lines and hollow dots: training."
    )


def _each_set(found: Charts) -> Charts:
    """Returns charts of one validation set each, as a color is a run; none of single classes.

    The hint of a chart is its set. Only runs with that set are in the chart.
    """
    groups = {
        title: [part for chart in charts for part in _parts(chart)]
        for title, charts in found.groups.items()
        if title != CLASSES
    }
    return found._replace(groups=groups)


def _parts(chart: Chart) -> list[Chart]:
    sets = [split for split in chart.splits if split != "train"]
    if len(sets) < 2:
        return [chart]
    return [chart._replace(splits=(split, "train"), hint=split) for split in sets]


def _curve(run: ComparedRun, split: str, metric: str, epochs: Epochs | None) -> Curve | None:
    """Returns a metric by step, or by epoch if `epochs` is given."""
    values = series(run.rows, f"{split}/{metric}" if split else metric)
    if split == "train" and not values:  # no epoch has ended
        values = series(run.rows, f"train/{metric}_step")
    if not values:
        return None
    best: Any = None
    if split.startswith("val") and len(values) > 1 and has_best(metric):
        best = best_step(values, metric)
    places: dict[Any, float] = {**values}
    if epochs is not None:
        places = {float(epochs.at(step)): value for step, value in values.items()}
        best = None if best is None else float(epochs.at(best))
    label = f"{run.name}, {split}" if split else run.name
    is_train = split == "train"
    return Curve(
        label, places, run.color, is_faint=is_train, is_dashed=is_train, best=best, in_legend=False
    )


def _shared(epochs: Sequence[Epochs]) -> Epochs | None:
    """Returns the epochs of the longest run; None if the epochs of others end at other steps."""
    longest = max(epochs, key=lambda each: len(each.ends))
    same = all(np.array_equal(each.ends, longest.ends[: len(each.ends)]) for each in epochs)
    return longest if same else None


def differences(names: Sequence[str], settings: Sequence[Settings], noun: str) -> str:
    """Returns a table of the settings that differ between runs, and of those not always recorded.

    Args:
        names: the name of each run.
        settings: the settings of each run.
        noun: what to call the settings.

    Example:
        >>> from nnx_alexnet.report.comparison import differences
        >>> from nnx_alexnet.runs import Settings
        >>> runs = [Settings({"seed": "0"}), Settings({"seed": "0", "lr": "1"})]
        >>> html = differences(["a", "b"], runs, "settings")
        >>> "Settings that are the same in all runs: 1." in html
        True
    """
    known = dict.fromkeys(name for each in settings for name in each.values)
    if not known:
        return note(f"The runs have no readable {noun}.")
    differing, unrecorded = compare_settings(settings)
    head = [noun[:-1] if noun == "settings" else "entry", *names]

    def listed(chosen: Sequence[str]) -> str:
        rows = [
            [breakable(name), *(escape(_cut(each.text(name))) for each in settings)]
            for name in chosen
        ]
        return table(head, rows, kind="differences", texts=len(head))

    equal = len(known) - len(differing) - len(unrecorded)
    text = f"{noun.capitalize()} that are the same in all runs: {equal:,}."
    if not differing:
        text = f"All {equal:,} {noun}{' that all runs record' if unrecorded else ''} are the same."
    html = (listed(differing) if differing else "") + note(text)
    if unrecorded:
        title = f"{noun.capitalize()} that runs from Python do not record: {len(unrecorded):,}"
        html += collapsed(title, listed(unrecorded))
    return html
