"""Draws metrics over the optimizer step, with an axis of epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnx_alexnet.report.metric_text import has_unit, is_share, metric_text
from nnx_alexnet.report.svg_chart import (
    Line,
    Tip,
    draw,
    drawable,
    nearest_values,
    needed_digits,
    number_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]


class Curve(NamedTuple):
    """One metric in a chart.

    Attributes:
        label: its text in the legend.
        values: the values by optimizer step, or by epoch.
        color: one of the colors of `svg_chart`.
        is_faint: whether the line is thin, and drawn behind the others.
        is_dashed: whether the line is dashed.
        best: the step, or the epoch, to mark; None for none.
        in_legend: whether the legend has it.
    """

    label: str
    values: Mapping[Any, float]
    color: str
    is_faint: bool = False
    is_dashed: bool = False
    best: int | None = None
    in_legend: bool = True


class Epochs:
    """Converts between optimizer steps and epochs.

    Args:
        rows: the logged metrics; those at the ends of epochs have `train/loss`.

    Attributes:
        ends: the steps at which epochs ended; empty if that is not known.

    Example:
        >>> from nnx_alexnet.report.svg_curves import Epochs
        >>> rows = [{"step": step, "epoch": step // 40 - 1, "train/loss": 1} for step in (40, 80)]
        >>> epochs = Epochs(rows)
        >>> epochs.text(40), epochs.text(50), float(epochs.at(60))
        ('epoch 1', 'in epoch 2', 1.5)
    """

    def __init__(self, rows: Rows) -> None:
        found = {
            row["step"]: row["epoch"] + 1
            for row in rows
            if "train/loss" in row and type(row.get("epoch")) is int and row["epoch"] < 2**53
        }
        ends = dict(sorted({epoch: step for step, epoch in found.items()}.items()))
        if any(a >= b for a, b in pairwise(ends.values())) or any(
            each <= 0 for each in (*ends, *ends.values())
        ):
            ends = {}  # of a file that was changed by hand
        self.ends = [*ends.values()]
        self._numbers = [0, *ends]
        self._steps = [0, *ends.values()]

    def at(self, step: Any) -> Any:
        """Returns the number of epochs that have passed at a step, or at each of an array."""
        return self._line(step, self._steps, self._numbers)

    def steps(self, epoch: Any) -> Any:
        """Returns the step at a number of epochs, or at each of an array."""
        return self._line(epoch, self._numbers, self._steps)

    def _line(self, x: Any, known: list[int], values: list[int]) -> Any:
        """Interpolates, and continues the last part for larger values."""
        slope = (values[-1] - values[-2]) / (known[-1] - known[-2])
        inside = np.interp(x, known, values)
        return inside + slope * (np.maximum(x, known[-1]) - known[-1])

    def text(self, step: int) -> str:
        """Returns the epoch of a step for a reader; empty if that is not known."""
        if not self.ends:
            return ""
        passed = float(self.at(step))
        if step in self.ends:
            return f"epoch {round(passed)}"
        return f"in epoch {int(passed) + 1}"


def draw_curves(
    curves: Sequence[Curve],
    *,
    metric: str,
    name: str,
    figure: str,
    epochs: Epochs | None = None,
    by_epoch: bool = False,
    from_zero: bool = False,
) -> str:
    """Returns a chart of curves over the optimizer step, as an `<svg>` element.

    Args:
        curves: the curves, each with at least one value.
        metric: the name of the metric, which determines how its values are shown.
        name: describes the chart to screen readers.
        figure: makes the identifiers of each chart unique on the page.
        epochs: adds an axis of epochs; None for none.
        by_epoch: whether the values are by epoch.
        from_zero: whether the vertical axis begins at 0.
    """
    ordered = [dict(sorted(curve.values.items())) for curve in curves]
    lines = [
        Line(
            curve.label, [*values], [*values.values()], curve.color,
            is_faint=curve.is_faint, is_dashed=curve.is_dashed, in_legend=curve.in_legend,
            marked=None if curve.best is None else [*values].index(curve.best),
        )
        for curve, values in zip(curves, ordered, strict=True)
    ]  # fmt: skip
    axis = epochs if epochs is not None and epochs.ends else None
    heights = [y for line in lines for y in line.y]
    is_percent = is_share(metric) and min(heights) >= 0 and max(heights) <= 1

    def prepare(axes: Axes) -> None:
        from matplotlib.ticker import FuncFormatter

        _prepare(axes, axis, "epoch" if by_epoch else "optimizer step")
        low, high = limits(heights, from_zero=from_zero, top=1.0 if is_percent else math.inf)
        axes.set_ylim(low, high)
        if is_percent:
            axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.4g}%")
        elif has_unit(metric):
            axes.yaxis.set_major_formatter(lambda y, _: metric_text(metric, y) if y else "0")
        else:
            text = partial(number_text, digits=needed_digits(low, high))
            axes.yaxis.set_major_formatter(FuncFormatter(text))

    tips = [*_tips(lines, metric, axis, "epoch" if by_epoch else "step")]
    if len(lines) == 1:
        lines = [lines[0]._replace(in_legend=False)]
    height = 2.8 if axis is None else 3.1
    return draw(
        lines, name=name, number=figure, tips=tips, prepare=prepare, size=(4.5, height)
    )  # fmt: skip


def _tips(lines: Sequence[Line], metric: str, epochs: Epochs | None, noun: str) -> Iterable[Tip]:
    """Yields what is shown at each step; at log points only if no other line has values."""
    clear = [line for line in lines if not line.is_faint or line.is_dashed] or lines
    for step in sorted({step for line in clear for step in line.x}):
        when = "" if epochs is None else f", {epochs.text(int(step))}"
        values = [
            (line.label, metric_text(metric, value), value, line.color)
            for line, value in nearest_values(clear, step)
        ]
        yield Tip(step, f"{noun} {_place(step)}{when}", values)


def _place(x: float) -> str:
    return f"{x:,.0f}" if x == int(x) else f"{x:.4g}"


def limits(
    values: Sequence[float], *, from_zero: bool = False, top: float = math.inf
) -> tuple[float, float]:
    """Returns the limits of the vertical axis, with room for the width of the lines.

    Args:
        values: all values of the chart.
        from_zero: whether the axis begins at 0, unless a value is negative.
        top: the largest value that is possible.

    Example:
        >>> from nnx_alexnet.report.svg_curves import limits
        >>> limits([39.0, 41.0]), limits([0.0, 2.0]), limits([0.5, 1.0], top=1.0)
        ((38.8, 41.2), (-0.04, 2.2), (0.45, 1.01))
        >>> limits([2.0, 4.0], from_zero=True), limits([0.5, 0.5])
        ((-0.08, 4.4), (0.475, 0.525))
    """
    low, high = drawable(min(values)), drawable(max(values))
    is_positive = low >= 0
    if from_zero and is_positive:
        low = 0.0
    # Equal values are in the middle.
    margin = 0.1 * (high - low) or 0.05 * abs(high) or 0.5
    bottom = low - margin
    if is_positive and bottom < 0:
        bottom = -0.02 * (high or 1)
    highest = high + margin
    if highest > top:
        highest = top + 0.02 * (top - low or margin)
    return bottom, highest


def _prepare(axes: Axes, epochs: Epochs | None, label: str) -> None:
    """Sets the ticks and the horizontal margins."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlabel(label, loc="right", labelpad=1)
    whole: Any = {"nbins": 6, "steps": [1, 2, 5, 10], "integer": True, "min_n_ticks": 1}
    axes.xaxis.set_major_locator(MaxNLocator(**whole))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(number_text))
    axes.margins(x=0.03)
    if epochs is not None:
        second = axes.secondary_xaxis(-0.19, functions=(epochs.at, epochs.steps))
        second.set_xlabel("epoch", loc="right", labelpad=1)
        second.xaxis.set_major_locator(MaxNLocator(**whole))
        second.xaxis.set_major_formatter(FuncFormatter(number_text))
