"""Draws the metrics of a history as charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnx_alexnet.runs import class_metrics, validation_splits
from nnx_alexnet.support import unknown

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
    names = [*dict.fromkeys(name for row in rows for name in row)]
    splits = ["train", *validation_splits(names), "val"]
    charts = _charts(rows, splits)
    if not charts:
        raise ValueError(
            "The history has no metrics to plot: no epoch has ended with a validation yet. Call "
            "`fit` first."
        )
    for name in metrics:
        if name not in charts:
            raise unknown("metrics", name, charts)
    classes = {_place(name, splits)[0] for name in class_metrics(names)}
    left_out = {name for name in charts if name in classes or name.startswith("perf/")}
    shown = metrics or [name for name in charts if name not in left_out] or [*charts]

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


def _charts(
    rows: Sequence[Mapping[str, Any]], splits: Sequence[str]
) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Returns the points of each line of each chart, by the name of the metric."""
    charts: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in rows:
        for name, value in row.items():
            if name in ("epoch", "step"):
                continue
            metric, line = _place(name, splits)
            charts.setdefault(metric, {}).setdefault(line, []).append((row["step"], value))
    return charts


def _place(name: str, splits: Sequence[str]) -> tuple[str, str]:
    """Returns the chart and the line of a metric; the line is its split, or empty."""
    split = next((split for split in splits if name.startswith(f"{split}/")), "")
    return name.removeprefix(f"{split}/"), split


def _draw_chart(chart: Any, name: str, lines: Mapping[str, list[tuple[int, float]]]) -> None:
    # Training is always drawn in the first color, and validation in the next ones.
    others = [line for line in lines if line != "train"]
    first = 0 if others == [""] else 1
    colors = {"train": "C0", **{line: f"C{first + k}" for k, line in enumerate(others)}}
    for line in sorted(lines, key=lambda line: line != "train"):
        steps, values = zip(*lines[line], strict=True)
        marker = "." if len(steps) <= _FEW else ""
        chart.plot(steps, values, marker=marker, color=colors[line], label=line)
    chart.set_title(name, loc="left", parse_math=False)
    chart.set_xlabel("step")
    chart.xaxis.get_major_locator().set_params(integer=True)
    chart.grid(visible=True, alpha=0.3)
    chart.spines[["top", "right"]].set_visible(False)
    if any(lines):
        chart.legend(frameon=False)
