"""Draws the results of a classifier: ranking curves, reliability, confusion, class balance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnx_alexnet.report.metric_text import percent
from nnx_alexnet.report.scores import GRID, NUM_BINS, Calibration, RankingCurve
from nnx_alexnet.report.svg_chart import MEAN, OTHER, SERIES, Line, Tip, draw
from nnx_alexnet.support import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SQUARE = (4.5, 3.3)  # inches
_MAX_NUMBERED = 25  # classes up to which each cell of the confusion matrix has its number
MAX_CELLS = 100  # classes up to which a confusion matrix is drawn
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
    side = 28 if num <= 12 else 20 if num <= _MAX_NUMBERED else max(8, 600 // num)
    font = 11 if num <= 12 else 8.5
    every = -(-11 // side)
    margin = 16 + 0.62 * font * max(map(len, texts))
    totals = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    size = num * side
    parts = [f'<rect class="field" x="{margin:.0f}" y="0" width="{size}" height="{size}"/>']
    for row, column in np.argwhere(confusion > 0):
        x, y = margin + column * side, row * side
        share, count = shares[row, column], confusion[row, column]
        kind = "right" if row == column else "missed"
        title = (
            f"{names[row]} predicted as {names[column]}: {count:,} of {totals[row, 0]:,} "
            f"({share:.1%})"
        )
        parts.append(
            f'<g class="cell"><title>{escape(printable(title))}</title><rect class="{kind}" '
            f'x="{x:.0f}" y="{y:.0f}" width="{side}" height="{side}" '
            f'fill-opacity="{np.sqrt(share):.2f}"/>'
        )
        if num <= _MAX_NUMBERED:
            ink = ' class="on"' if share > 0.3 else ""
            parts.append(
                f'<text{ink} x="{x + side / 2:.1f}" y="{y + side / 2 + font * 0.36:.1f}" '
                f'text-anchor="middle" font-size="{font}">{count}</text>'
            )
        parts.append("</g>")
    for k in range(0, num, every):
        middle = k * side + side / 2
        text = escape(texts[k])
        parts.append(
            f'<text class="name" x="{margin - 6:.0f}" y="{middle + font * 0.36:.1f}" '
            f'text-anchor="end" font-size="{font}">{text}</text>'
            f'<text class="name" transform="translate({margin + middle + font * 0.36:.1f} '
            f'{size + 6}) rotate(-90)" text-anchor="end" font-size="{font}">{text}</text>'
        )
    width, height = margin + size + 2, size + margin
    return (
        f'<svg class="matrix" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'style="min-width: {min(width, 300 if num <= _MAX_NUMBERED else 640):.0f}px; '
        f'max-width: {max(360, width * (1 if num > 12 else 1.25)):.0f}px" '
        f'aria-label="Confusion matrix: classes in rows, predicted classes in columns">'
        f"{''.join(parts)}</svg>"
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
        x, y = left + k * step + step * 0.1, 10.0 + height
        each = ", ".join(f"{n[k]:,} in {split}" for split, n in counts.items())
        parts.append(f"<g><title>{escape(printable(names[k]))}: {each}</title>")
        for position, value in enumerate(stacked[:, k]):
            tall = value / top * height
            y -= tall
            parts.append(
                f'<rect class="part-{position}" x="{x:.1f}" y="{y:.1f}" '
                f'width="{step * 0.8:.1f}" height="{tall:.1f}"/>'
            )
        parts.append("</g>")
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


def shortened(text: str, length: int) -> str:
    """Returns the text, cut to at most `length` characters.

    Example:
        >>> from nnx_alexnet.report.svg_results import shortened
        >>> shortened("labrador retriever", 9)
        'labrador…'
    """
    text = printable(text)
    return text if len(text) <= length else text[: length - 1] + "…"
