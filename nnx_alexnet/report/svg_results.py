"""Draws the results of a classifier: ranking curves, reliability, confusion, class balance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnx_alexnet.report.metric_text import percent
from nnx_alexnet.report.ranking_curves import GRID, RankingCurve
from nnx_alexnet.report.scores import NUM_BINS, Calibration
from nnx_alexnet.report.svg_chart import MEAN, OTHER, SERIES, Line, Tip, draw
from nnx_alexnet.support import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SQUARE = (4.5, 3.3)  # inches
_MAX_NUMBERED = 25  # classes up to which each cell of the confusion matrix has its number
MAX_CELLS = 100  # classes up to which a confusion matrix is drawn
NUM_PARTS = len(SERIES)  # colors of the style
MAX_BARS = 300  # classes up to which the class balance is drawn


def ranking_chart(
    curves: Sequence[RankingCurve],
    names: Sequence[str],
    *,
    labels: tuple[str, str],
    area: str,
    number: str,
) -> str:
    """Returns the chart of precision-recall or ROC curves, as an `<svg>` element.

    Args:
        curves: the mean, then those of some classes.
        names: the name of each class.
        labels: of the horizontal and the vertical axis.
        area: what the area under a curve is called.
        number: makes the identifiers of each chart unique on the page.
    """
    lines = [
        Line(
            "mean of classes" if curve.number is None else shortened(names[curve.number], 16),
            GRID,
            curve.values,
            MEAN if curve.number is None else SERIES[(position - 1) % len(SERIES)],
            is_faint=curve.number is not None,
            in_legend=False,
        )
        for position, curve in enumerate(curves)
    ]
    tips = [
        Tip(
            float(x),
            f"{labels[0]} {x:.0%}",
            [(line.label, percent(line.y[k]), float(line.y[k]), line.color) for line in lines],
        )
        for k, x in enumerate(GRID)
        if k % 4 == 0
    ]
    kind = f"{labels[1]} by {labels[0]}"
    description = f"{kind}; {area} {curves[0].area:.3f}"

    def prepare(axes: Axes) -> None:
        _share_axes(axes, *labels)

    return draw(
        lines, name=description, number=number, tips=tips, prepare=prepare, size=_SQUARE
    )  # fmt: skip


def reliability_chart(found: Calibration, *, number: str) -> str:
    """Returns the reliability diagram, accuracy by confidence, as an `<svg>` element.

    Args:
        found: the bins of confidence.
        number: makes the identifiers of each chart unique on the page.
    """
    known = np.flatnonzero(found.counts)
    x, y = found.confidence[known], found.accuracy[known]
    lines = [
        Line("perfect calibration", [0, 1], [0, 1], MEAN, is_faint=True, is_dashed=True),
        Line("accuracy", x, y, OTHER),
    ]
    tips = [
        Tip(
            float(found.confidence[k]),
            f"confidence {k / NUM_BINS:.0%} to {(k + 1) / NUM_BINS:.0%}",
            [
                ("mean confidence", percent(found.confidence[k]), found.confidence[k], MEAN),
                ("accuracy", percent(found.accuracy[k]), found.accuracy[k], OTHER),
                ("examples", f"{found.counts[k]:,}", found.accuracy[k], OTHER),
            ],
        )
        for k in known
    ]
    shares = found.counts / max(1, found.counts.sum())
    edges = np.linspace(0, 1, NUM_BINS + 1)

    def prepare(axes: Axes) -> None:
        _share_axes(axes, "confidence", "accuracy")
        # The bars show how many examples are in each bin.
        axes.bar(edges[:-1], shares, 1 / NUM_BINS, align="edge", color=OTHER, alpha=0.2, zorder=1)

    name = f"Reliability diagram; expected calibration error {found.ece:.3f}"
    return draw(lines, name=name, number=number, tips=tips, prepare=prepare, size=_SQUARE)


def _share_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.04)


def confusion_chart(confusion: NDArray[Any], names: Sequence[str]) -> str:
    """Returns the confusion matrix as an `<svg>` element; each cell shows its counts.

    Args:
        confusion: `[K, K]`, classes (rows) by predicted classes (columns). The color of a cell
            shows its share of the row.
        names: the name of each class.
    """
    num = len(confusion)
    texts = [shortened(name, 14) for name in names]
    grid = _Grid.of(num, max(map(len, texts)))
    size, margin = num * grid.side, grid.margin
    parts = [f'<rect class="field" x="{margin:.0f}" y="0" width="{size}" height="{size}"/>']
    for row, column in np.argwhere(confusion > 0):
        count, total = confusion[row, column], confusion[row].sum()
        share = f"{count:,} of {total:,} ({count / total:.1%})"
        title = f"{names[row]} predicted as {names[column]}: {share}"
        number = str(count) if num <= _MAX_NUMBERED else ""
        parts.append(grid.cell(row, column, share=count / total, title=title, number=number))
    named = range(0, num, -(-11 // grid.side))
    parts += [grid.names(k, escape(texts[k]), size) for k in named]
    width, height = margin + size + 2, size + margin
    return (
        f'<svg class="matrix" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'style="min-width: {min(width, 300 if num <= _MAX_NUMBERED else 640):.0f}px; '
        f'max-width: {max(360, width * (1 if num > 12 else 1.25)):.0f}px" '
        f'aria-label="Confusion matrix: classes in rows, predicted classes in columns">'
        f"{''.join(parts)}</svg>"
    )


class _Grid(NamedTuple):
    """The sizes of a confusion matrix on the page."""

    side: int
    font: float
    margin: float
    """The width of the names on the left, and the height of those at the bottom."""

    @classmethod
    def of(cls, num_classes: int, num_characters: int) -> _Grid:
        """Returns the sizes for names of at most so many characters."""
        num = num_classes
        side = 28 if num <= 12 else 20 if num <= _MAX_NUMBERED else max(8, 600 // num)
        font = 11 if num <= 12 else 8.5
        return cls(side, font, 16 + 0.62 * font * num_characters)

    def cell(self, row: int, column: int, *, share: float, title: str, number: str) -> str:
        """Returns a cell; without a number if `number` is empty."""
        side, x, y = self.side, self.margin + column * self.side, row * self.side
        text = ""
        if number:
            ink = ' class="on"' if share > 0.3 else ""
            text = (
                f'<text{ink} x="{x + side / 2:.1f}" y="{y + side / 2 + self.font * 0.36:.1f}" '
                f'text-anchor="middle" font-size="{self.font}">{number}</text>'
            )
        return (
            f'<g class="cell"><title>{escape(printable(title))}</title>'
            f'<rect class="{"right" if row == column else "missed"}" '
            f'x="{x:.0f}" y="{y:.0f}" width="{side}" height="{side}" '
            f'fill-opacity="{np.sqrt(share):.2f}"/>{text}</g>'
        )

    def names(self, k: int, text: str, size: int) -> str:
        """Returns the name of a class at its row and at its column of a matrix of `size` pixels."""
        middle = k * self.side + self.side / 2 + self.font * 0.36
        end = f'text-anchor="end" font-size="{self.font}">{text}</text>'
        return (
            f'<text class="name" x="{self.margin - 6:.0f}" y="{middle:.1f}" {end}'
            f'<text class="name" transform="translate({self.margin + middle:.1f} {size + 6}) '
            f'rotate(-90)" {end}'
        )


def balance_chart(counts: Mapping[str, NDArray[Any]], names: Sequence[str]) -> str:
    """Returns the number of examples per class and split as stacked bars, in an `<svg>` element.

    Args:
        counts: `[K]` for each split; at least one split and one class.
        names: the name of each class.
    """
    stacked = np.stack([*counts.values()])
    num, height = stacked.shape[1], 150
    top = int(stacked.sum(axis=0).max()) or 1
    step = max(4, min(60, 900 / num))
    texts = [shortened(name, 14) for name in names]
    is_long = max(map(len, texts)) * 6 > step
    every = max(1, round(11 / step)) if is_long else 1
    foot = 8 + 5.6 * max(map(len, texts)) if is_long else 18
    left = 12 + 6 * len(f"{top:,}")
    parts = [
        f'<text class="name" x="{left - 6}" y="{y}" text-anchor="end" font-size="10">{text}</text>'
        for y, text in ((14, f"{top:,}"), (10 + height, "0"))
    ]
    parts.append(f'<path class="axis" d="M{left} {10 + height}h{step * num:.0f}M{left} 10h4"/>')
    for k in range(num):
        x = left + k * step + step * 0.1
        each = ", ".join(f"{n[k]:,} in {split}" for split, n in counts.items())
        title = f"{escape(printable(names[k]))}: {each}"
        bars = _stacked_bars(x, 10.0 + height, step * 0.8, stacked[:, k] / top * height)
        parts.append(f"<g><title>{title}</title>{bars}</g>")
        if k % every == 0:
            middle = x + step * 0.4
            place = (
                f'transform="translate({middle + 3.5:.1f} {height + 16}) rotate(-90)" '
                'text-anchor="end"'
                if is_long
                else f'x="{middle:.1f}" y="{height + 24}" text-anchor="middle"'
            )
            parts.append(f'<text class="name" {place} font-size="10">{escape(texts[k])}</text>')
    width = left + step * num + 2
    return (
        f'<svg class="balance" viewBox="0 0 {width:.0f} {height + 12 + foot:.0f}" role="img" '
        f'style="min-width: {min(width, 640 if num > 20 else 300):.0f}px; '
        f'max-width: {max(480, width):.0f}px" '
        f'aria-label="Examples per class">{"".join(parts)}</svg>'
    )


def _stacked_bars(x: float, y: float, width: float, heights: NDArray[Any]) -> str:
    """Returns bars on top of each other; `y` is the bottom of the first one."""
    parts = []
    for position, tall in enumerate(heights):
        y -= tall
        parts.append(
            f'<rect class="part-{position % NUM_PARTS}" x="{x:.1f}" y="{y:.1f}" '
            f'width="{width:.1f}" height="{tall:.1f}"/>'
        )
    return "".join(parts)


def shortened(text: str, length: int) -> str:
    """Returns the text, cut to at most `length` characters.

    Example:
        >>> from nnx_alexnet.report.svg_results import shortened
        >>> shortened("labrador retriever", 9)
        'labrador…'
    """
    text = printable(text)
    return text if len(text) <= length else text[: length - 1] + "…"
