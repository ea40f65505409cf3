"""The section of a report with the curves of all metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nnx_alexnet.report.chart_groups import Chart, Charts, chart_groups
from nnx_alexnet.report.html_parts import figure, heading, note
from nnx_alexnet.report.svg_chart import OTHER, TRAIN, VAL
from nnx_alexnet.report.svg_curves import Curve, Epochs, Rows, draw_curves
from nnx_alexnet.runs import best_step, has_best, metric_names, series
from nnx_alexnet.support import format_count


def curves(rows: Rows, norms: Mapping[str, Mapping[int, float]] | None = None) -> str:
    """Returns the curves of each metric: of training and validation, of users, and of rates.

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
            figures.append(figure(chart.title[:1].upper() + chart.title[1:], draw(chart, number)))
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
    val = values.get(f"val/{metric}", {})
    best = best_step(val, metric) if len(val) > 1 and has_best(metric) else None
    lines = [
        Curve("train", values.get(f"train/{metric}", {}), TRAIN),
        Curve("val", val, VAL, best=best),
        Curve("train, log points", values.get(f"train/{metric}_step", {}), TRAIN, is_faint=True),
    ]
    return [line for line in lines if line.values]
