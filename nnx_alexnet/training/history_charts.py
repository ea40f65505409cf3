"""Draws the metrics of a history as charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnx_alexnet.support import unknown

_SPLITS = ("train", "val")
_MAX_COLUMNS = 3
_FEW = 40  # rows up to which each is marked


def draw(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str] = ()) -> list[Any]:
    """Draws a chart per metric; see `History.plot`.

    Args:
        rows: dicts with `step` and metrics.
        metrics: which to draw (default: all, except those of `perf/`).

    Example:
        >>> import matplotlib.pyplot as plt
        >>> from nnx_alexnet.training.history_charts import draw
        >>> len(draw([{"step": 1, "train/loss": 2.0, "val/loss": 1.5}]))
        1
        >>> plt.close("all")
    """
    charts = _charts(rows)
    if not charts:
        raise ValueError(
            "The history has no metrics to plot: no epoch has ended with a validation yet. Call "
            "`fit` first."
        )
    for name in metrics:
        if name not in charts:
            raise unknown("metrics", name, charts)
    shown = metrics or [name for name in charts if not name.startswith("perf/")] or [*charts]

    import matplotlib.pyplot as plt

    num_columns = min(len(shown), 2 if len(shown) == 4 else _MAX_COLUMNS)
    num_rows = -(-len(shown) // num_columns)
    figure, axes = plt.subplots(
        num_rows,
        num_columns,
        figsize=(4.2 * num_columns, 3 * num_rows),
        layout="constrained",
        squeeze=False,
    )
    places = [*axes.flat]
    for name, chart in zip(shown, places, strict=False):
        _draw_chart(chart, name, charts[name])
    for unused in places[len(shown) :]:
        figure.delaxes(unused)
    return places[: len(shown)]


def _charts(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Returns the points of each line of each chart, by the name of the metric."""
    charts: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in rows:
        for name, value in row.items():
            if name in ("epoch", "step"):
                continue
            split, _, rest = name.partition("/")
            metric, line = (rest, split) if split in _SPLITS else (name, "")
            charts.setdefault(metric, {}).setdefault(line, []).append((row["step"], value))
    return charts


def _draw_chart(chart: Any, name: str, lines: Mapping[str, list[tuple[int, float]]]) -> None:
    for line in sorted(lines):
        steps, values = zip(*lines[line], strict=True)
        marker = "." if len(steps) <= _FEW else ""
        # Training is always drawn in the first color, and validation in the second.
        color = {"train": "C0", "val": "C1"}.get(line, "C0")
        chart.plot(steps, values, marker=marker, color=color, label=line)
    chart.set_title(name, loc="left", parse_math=False)
    chart.set_xlabel("step")
    chart.xaxis.get_major_locator().set_params(integer=True)
    chart.grid(visible=True, alpha=0.3)
    chart.spines[["top", "right"]].set_visible(False)
    if any(lines):
        chart.legend(frameon=False)
