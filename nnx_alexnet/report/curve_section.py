"""The section of a report with the curves of all metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import cycle

from nnx_alexnet.report.chart_groups import MAX_CLASSES, Chart, Charts, chart_groups
from nnx_alexnet.report.html_parts import figure, heading, note
from nnx_alexnet.report.svg_chart import OTHER, SERIES, TRAIN, VAL
from nnx_alexnet.report.svg_curves import Curve, Epochs, Rows, draw_curves
from nnx_alexnet.report.svg_results import shortened
from nnx_alexnet.runs import best_step, has_best, metric_names, series
from nnx_alexnet.support import format_count


def curves(rows: Rows, norms: Mapping[str, Mapping[int, float]] | None = None) -> str:
    """Returns the curves of each metric: of training and validation, of classes, users and rates.

    Args:
        rows: the logged metrics.
        norms: norms of parameters and gradients by step, in addition to those among the metrics
            (default none).
    """
    logged = {name: series(rows, name) for name in metric_names(rows)}
    values = {**(norms or {}), **logged}
    epochs = Epochs(rows)

    def draw(chart: Chart, number: int) -> str:
        return draw_curves(
            _lines(chart, values), metric=chart.metric, name=f"{chart.title} by step",
            figure=f"c{number}", epochs=epochs, from_zero=chart.from_zero,
        )  # fmt: skip

    found = chart_groups({name: len(each) for name, each in values.items()})
    if not found.groups:
        return note("The run has logged no metrics yet.")
    return chart_grid(found, draw)


def chart_grid(found: Charts, draw: Callable[[Chart, int], str]) -> str:
    """Returns the charts of each group below its heading, and which metrics have no chart.

    Args:
        found: what `chart_groups` returned.
        draw: returns a chart as an `<svg>` element; its second argument counts the charts.
    """
    parts, number = [], 0
    for title, charts in found.groups.items():
        figures = []
        for chart in charts:
            caption = chart.title[:1].upper() + chart.title[1:]
            figures.append(figure(caption, draw(chart, number), chart.hint))
            number += 1
        parts.append(f'{heading(title)}<div class="curves">{"".join(figures)}</div>')
    if found.single:
        parts.append(note(f"Metrics with only one value have no chart: {', '.join(found.single)}."))
    if found.num_left_out:
        parts.append(note(f"{format_count(found.num_left_out, 'more metric')} without a chart."))
    return "".join(parts)


def _lines(chart: Chart, values: Mapping[str, Mapping[int, float]]) -> list[Curve]:
    metric = chart.metric
    if chart.splits == ("",):
        return [Curve(chart.title, values[metric], OTHER)]
    if chart.classes:
        return _class_lines(chart, values)
    sets = [name for name in chart.splits if name != "train" and values.get(f"{name}/{metric}")]
    colors = [VAL] if len(sets) == 1 else [*SERIES[1:], *SERIES[:1]]  # the first is of training
    lines = [Curve("train", values.get(f"train/{metric}", {}), TRAIN)]
    for split, color in zip(sets, cycle(colors), strict=False):
        val = values[f"{split}/{metric}"]
        # Several circles would hide each other; the table of metrics has the best values.
        has_circle = len(sets) == 1 and len(val) > 1 and has_best(metric)
        lines.append(Curve(split, val, color, best=best_step(val, metric) if has_circle else None))
    steps = values.get(f"train/{metric}_step", {})
    lines.append(Curve("train, log points", steps, TRAIN, is_faint=True))
    return [line for line in lines if line.values]


def _class_lines(chart: Chart, values: Mapping[str, Mapping[int, float]]) -> list[Curve]:
    """Returns the curves of the classes with the lowest last values, in the order of classes."""
    prefix = f"{chart.splits[0]}/{chart.metric}"
    found = {label: values[f"{prefix}/{label}"] for label in chart.classes}
    lowest = sorted(found, key=lambda label: found[label][max(found[label])])[:MAX_CLASSES]
    chosen = [label for label in chart.classes if label in lowest]
    return [
        Curve(shortened(label, 16), found[label], color)
        for label, color in zip(chosen, SERIES, strict=False)
    ]
