"""Draws charts of lines as SVG elements that follow the colors of the page and show values."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Matplotlib draws with these colors. They are replaced with the variables of its style, which
# are different in dark mode.
_INK, _MUTED, _LINE, _AXIS = "#010101", "#010102", "#010103", "#010104"
TRAIN, VAL, OTHER, MEAN = "#010105", "#010106", "#010107", "#010108"
SERIES = tuple(f"#0102{number:02x}" for number in range(10))  # classes, or runs
COLORS = {
    _INK: "ink", _MUTED: "muted", _LINE: "line", _AXIS: "axis",
    TRAIN: "train", VAL: "val", OTHER: "other", MEAN: "ink",
    **{color: f"series-{number}" for number, color in enumerate(SERIES)},
}  # fmt: skip
_MAX_DRAWN = 1e300
_MAX_COLUMNS = 5  # of a legend
_MAX_HOVERED = 60  # places of a chart that show their values

_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's own font
    "svg.hashsalt": "nnx_alexnet",  # the same run produces the same file
    "text.parse_math": False,  # a metric may be called $x
    "font.size": 9,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],  # its widths determine the layout
    "text.color": _INK,
    "axes.edgecolor": _AXIS,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


class Line(NamedTuple):
    """One line of a chart.

    Attributes:
        label: its text in the legend.
        x: its places on the horizontal axis, in ascending order.
        y: its values.
        color: one of the colors of this module.
        is_faint: whether the line is thin, and drawn behind the others.
        is_dashed: whether the line is dashed.
        marked: the position of a point to mark in `x`; None for none.
        in_legend: whether the legend has the line.
    """

    label: str
    x: Sequence[float] | NDArray[Any]
    y: Sequence[float] | NDArray[Any]
    color: str
    is_faint: bool = False
    is_dashed: bool = False
    marked: int | None = None
    in_legend: bool = True


class Tip(NamedTuple):
    """What a chart shows while the pointer is at a place of its horizontal axis.

    Attributes:
        x: the place.
        title: the first line of the text.
        values: label, text and height of the value of each line, in their order, with its color.
    """

    x: float
    title: str
    values: list[tuple[str, str, float, str]]


def draw(
    lines: Sequence[Line],
    *,
    name: str,
    number: str,
    tips: Sequence[Tip] = (),
    prepare: Callable[[Axes], None] | None = None,
    size: tuple[float, float] = (4.5, 2.8),
) -> str:
    """Returns a chart as an `<svg>` element.

    Args:
        lines: the lines, each with at least one value.
        name: describes the chart to screen readers.
        number: makes the identifiers of each chart unique on the page.
        tips: the values to show under the pointer, in the order of their places.
        prepare: sets the labels, limits and ticks of the axes.
        size: width and height in inches; the page scales it.

    Example:
        >>> from nnx_alexnet.report.svg_chart import TRAIN, Line, draw
        >>> draw([Line("train", [1, 2], [0.5, 0.25], TRAIN)], name="loss", number="0")[:4]
        '<svg'
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        # 72 dots per inch, so that dots are the units of the file.
        figure = Figure(figsize=size, dpi=72, layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            _plot(axes, line)
        if prepare is not None:
            prepare(axes)
        if any(line.in_legend for line in lines):
            axes.legend(
                loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderaxespad=0.2,
                handlelength=1.6, columnspacing=1.4, handletextpad=0.5,
                ncols=_num_columns(axes.get_legend_handles_labels()[1], 65 * size[0]),
            )  # fmt: skip
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        hovered = _hovered(figure, axes, _thinned(tips))
    return _inline(file.getvalue(), f"figure{number}-", name, hovered)


def _plot(axes: Axes, line: Line) -> None:
    y = [drawable(value) for value in line.y]
    clear = 1.9 if len(y) <= 150 else 1.2
    is_sparse = len(y) == 1 or (len(y) <= 12 and not line.is_faint)
    axes.plot(
        line.x,
        y,
        label=line.label if line.in_legend else "_",
        color=line.color,
        linewidth=0.9 if line.is_faint else clear,
        alpha=0.65 if line.is_faint else 1,
        zorder=2 if line.is_faint else 3,
        linestyle=(0, (3, 2)) if line.is_dashed else "-",
        marker="o" if is_sparse else "",
        markersize=3.2,
        markerfacecolor="none" if line.is_dashed else line.color,
        solid_capstyle="round",
        solid_joinstyle="round",
    )
    if line.marked is not None:
        axes.plot(
            [line.x[line.marked]],
            [y[line.marked]],
            label=f"best {line.label}" if line.in_legend else "_",
            zorder=4,
            linestyle="",
            marker="o",
            markersize=8,
            markerfacecolor="none",
            markeredgecolor=line.color,
            markeredgewidth=1.4,
        )


def _num_columns(labels: Sequence[str], width: float) -> int:
    """Returns how many columns of a legend fit into a width, in points."""
    widths = [30 + 4.8 * len(label) for label in labels]
    for num in range(min(_MAX_COLUMNS, len(widths)), 1, -1):
        # Matplotlib fills the columns one after the other.
        columns = np.array_split(widths, num)
        if sum(float(column.max()) for column in columns) <= width:
            return num
    return 1


def drawable(value: float) -> float:
    """Limits a value so that Matplotlib's margins around it do not overflow."""
    return min(max(value, -_MAX_DRAWN), _MAX_DRAWN)


def number_text(value: float, _position: int | None = None, *, digits: int = 4) -> str:
    """Returns the text of a tick.

    Args:
        value: where the tick is.
        digits: the significant digits that tell the ticks apart (default 4).

    Example:
        >>> from nnx_alexnet.report.svg_chart import number_text
        >>> [number_text(value) for value in (0.25, 1200, 12_345, 2_500_000)]
        ['0.25', '1,200', '12,345', '2.5M']
        >>> [number_text(value, digits=6) for value in (144.002, 1200.25)]
        ['144.002', '1,200.25']
    """
    if abs(value) >= 1e6:
        return f"{value / 1e6:.{max(6, digits)}g}M"
    return f"{value:,.{max(digits, len(str(int(abs(value)))))}g}"


def needed_digits(low: float, high: float) -> int:
    """Returns the significant digits that tell the ticks of an axis apart, at least 4.

    Args:
        low: the lower limit of the axis.
        high: the upper limit.

    Example:
        >>> from nnx_alexnet.report.svg_chart import needed_digits
        >>> needed_digits(0, 2), needed_digits(144.001, 144.009)
        (4, 7)
    """
    ratio = max(abs(low), abs(high)) / (high - low)
    return max(4, math.ceil(math.log10(ratio)) + 2)


def _thinned(tips: Sequence[Tip]) -> list[Tip]:
    if len(tips) <= _MAX_HOVERED:
        return [*tips]
    kept = np.unique(np.linspace(0, len(tips) - 1, _MAX_HOVERED).round().astype(int))
    return [tips[position] for position in kept]


def _hovered(figure: Figure, axes: Axes, tips: Sequence[Tip]) -> str:
    """Returns the strips of a chart that show values under the pointer, without a script."""
    if not tips:
        return ""
    box = axes.get_window_extent()
    width, height = figure.get_size_inches() * 72
    top, bottom = height - box.y1, height - box.y0
    places = [axes.transData.transform((tip.x, 0))[0] for tip in tips]
    edges = [box.x0, *((a + b) / 2 for a, b in pairwise(places)), box.x1]
    parts = []
    for tip, x, left, right in zip(tips, places, edges, edges[1:], strict=False):
        dots = [
            (height - axes.transData.transform((tip.x, drawable(value)))[1], color)
            for _, _, value, color in tip.values
        ]
        parts.append(
            f'<g class="tip"><rect x="{left:.1f}" y="{top:.1f}" width="{max(0, right - left):.1f}" '
            f'height="{bottom - top:.1f}"/><g>'
            f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>'
            + "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{c}"/>' for y, c in dots)
            + _box(tip, x, top, width)
            + "</g></g>"
        )
    return "".join(parts)


def _box(tip: Tip, x: float, top: float, width: float) -> str:
    """Returns the text of a tip in a box, on the side that has more room."""
    texts = [(tip.title, _MUTED), *((f"{label} {text}", c) for label, text, _, c in tip.values)]
    box_width = 12 + 4.9 * max(len(text) for text, _ in texts)
    left = x + 7 if x + 7 + box_width <= width or x < width / 2 else x - 7 - box_width
    left = max(0.0, min(left, width - box_width))
    lines = "".join(
        f'<text x="{left + 6:.1f}" y="{top + 11 + 11 * row:.1f}"'
        + (f' fill="{color}">' if row == 0 else ">")
        + (f'<tspan fill="{color}">■ </tspan>' if row else "")
        + f"{escape(text)}</text>"
        for row, (text, color) in enumerate(texts)
    )
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{box_width + 8:.1f}" '
        f'height="{6 + 11 * len(texts)}" rx="3"/>{lines}'
    )


def _inline(svg: str, prefix: str, name: str, added: str) -> str:
    """Returns only the `<svg>` element, without links and with `prefix` before identifiers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', lambda match: match[1] + prefix, svg)
    # The page determines the size; the viewBox keeps the proportions.
    box = re.search(r'viewBox="[^"]*"', svg)
    body = svg[svg.index(">") + 1 :].strip().removesuffix("</svg>") + added
    return themed(
        f'<svg {box[0] if box else ""} role="img" aria-label="{escape(name)}">{body}</svg>'
    )


def themed(svg: str) -> str:
    """Replaces the colors of this module with the variables of the page's style.

    Example:
        >>> from nnx_alexnet.report.svg_chart import TRAIN, themed
        >>> themed(f'<path stroke="{TRAIN}"/>')
        '<path stroke="var(--train)"/>'
    """
    svg = re.sub(r'fill="(#01\w{4})"', r'style="fill: \1"', svg)  # attributes have no variables
    return re.sub(r"#01\w{4}\b", lambda match: f"var(--{COLORS.get(match[0], match[0])})", svg)


def nearest_values(lines: Iterable[Line], x: float) -> list[tuple[Line, float]]:
    """Returns the lines that have a value at exactly this place, with the value."""
    found = []
    for line in lines:
        position = int(np.searchsorted(line.x, x))
        if position < len(line.x) and line.x[position] == x:
            found.append((line, float(line.y[position])))
    return found
