"""Draws curves as SVG elements for an HTML page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _MUTED, _GRID = "#1f2933", "#616e7c", "#e4e7eb"
_MAX_DRAWN = 1e300
TRAIN, VAL, OTHER = "#2f6fdb", "#e0662b", "#3d8b6d"

_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's own font
    "svg.hashsalt": "nnx_alexnet",  # the same run produces the same file
    "text.parse_math": False,  # a metric may be called $x
    "font.size": 9,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],  # its widths determine the layout
    "text.color": _INK,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


class Curve(NamedTuple):
    """One line of a figure.

    Attributes:
        label: its text in the legend.
        values: the values by optimizer step.
        color: the color of the line.
        faint: whether the line is thin, and drawn behind the others.
        best: the step to mark; None for none.
    """

    label: str
    values: Mapping[int, float]
    color: str
    faint: bool = False
    best: int | None = None


def draw(curves: Sequence[Curve], *, name: str, number: int, from_zero: bool = False) -> str:
    """Returns a figure of curves over the optimizer step, as an `<svg>` element.

    Args:
        curves: the curves, each with at least one value.
        name: describes the figure to screen readers.
        number: makes the identifiers of each figure unique on the page.
        from_zero: whether the vertical axis begins at 0.

    Example:
        >>> from nnx_alexnet.report.svg_curves import TRAIN, Curve, draw
        >>> draw([Curve("train", {1: 0.5, 2: 0.25}, TRAIN)], name="loss", number=0)[:4]
        '<svg'
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.9, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for curve in curves:
            _plot(axes, curve)
        _format(axes, from_zero)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inline(file.getvalue(), f"figure{number}-", name)


def _plot(axes: Axes, curve: Curve) -> None:
    steps = [*curve.values]
    values = [_drawable(value) for value in curve.values.values()]
    is_sparse = len(steps) == 1 or (len(steps) <= 12 and not curve.faint)
    axes.plot(
        steps,
        values,
        label=curve.label,
        color=curve.color,
        linewidth=0.9 if curve.faint else 1.9,
        alpha=0.45 if curve.faint else 1,
        zorder=2 if curve.faint else 3,
        marker="o" if is_sparse else "",
        markersize=3.2,
        solid_capstyle="round",
        solid_joinstyle="round",
    )
    if curve.best is not None:
        axes.plot(
            [curve.best],
            [_drawable(curve.values[curve.best])],
            label=f"best {curve.label}",
            zorder=4,
            linestyle="",
            marker="o",
            markersize=8,
            markerfacecolor="none",
            markeredgecolor=curve.color,
            markeredgewidth=1.4,
        )


def _format(axes: Axes, from_zero: bool) -> None:
    """Sets the ticks, the margins and the legend."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlabel("optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_tick))
    axes.margins(x=0.03, y=0.1)
    if from_zero:
        axes.set_ylim(bottom=0)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=4, borderaxespad=0.2,
        handlelength=1.6, columnspacing=1.4, handletextpad=0.5,
    )  # fmt: skip


def _drawable(value: float) -> float:
    """Limits a value so that Matplotlib's margins around it do not overflow."""
    return min(max(value, -_MAX_DRAWN), _MAX_DRAWN)


def _tick(value: float, _position: int | None = None) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _inline(svg: str, prefix: str, name: str) -> str:
    """Returns only the `<svg>` element, without links and with `prefix` before identifiers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', lambda match: match[1] + prefix, svg)
    # The page determines the size; the viewBox keeps the proportions.
    box = re.search(r'viewBox="[^"]*"', svg)
    body = svg[svg.index(">") + 1 :].strip()
    return f'<svg {box[0] if box else ""} role="img" aria-label="{escape(name)}">{body}'
