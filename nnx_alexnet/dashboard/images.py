"""Draws the images of a run: filters, mistakes, and results per class.

All drawing functions take NumPy arrays and return `uint8[H, W, 3]`. Pillow draws the sheets of
tiles. Matplotlib draws the charts, on its Agg canvas and without pyplot, so that any thread may
draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nnx_alexnet.dashboard.classification_results import Mistake
from nnx_alexnet.support import RGB, as_pixels, captioned, num_columns, printable

_INK, _PAPER = (32, 33, 36), (255, 255, 255)
_MAX_NUMBERED = 25  # classes up to which each cell has a number and the axes have all names
_MAX_BARS = 40  # classes in the chart of accuracies
_BLUE, _GREY = "#2a6fbb", "#5f6368"


def filters(kernel: NDArray[Any]) -> RGB:
    """Draws the filters of a first convolution as small images, each on its own scale.

    A weight of 0 is grey; the filter's largest absolute weight is black or white. A kernel
    `[11, 11, 3, 96]` gives the layout of figure 3 of the paper.

    Args:
        kernel: `[height, width, channels, filters]`; unless there are 3 channels, their mean is
            drawn.

    Source: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional
    Neural Networks", NIPS 2012, figure 3.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.dashboard.images import filters
        >>> filters(np.ones((11, 11, 3, 96), np.float32)).shape
        (292, 772, 3)
    """
    weights = np.moveaxis(np.nan_to_num(kernel.astype(np.float32)), -1, 0)  # filters H W C
    if weights.shape[-1] != 3:
        weights = weights.mean(axis=-1, keepdims=True)
    largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    pixels = as_pixels(0.5 + weights / np.maximum(2 * largest, np.finfo(np.float32).tiny))
    num, height, width = pixels.shape[:3]
    factor = max(1, 44 // max(height, width))
    tiles = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    gap = max(2, factor)
    columns = 16 if num == 96 else num_columns(num, width / height * 1.5)  # 6 x 16 as in the paper
    rows = -(-num // columns)
    cell_height, cell_width = height * factor + gap, width * factor + gap
    sheet = np.full((rows * cell_height + gap, columns * cell_width + gap, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top = gap + number // columns * cell_height
        left = gap + number % columns * cell_width
        sheet[top : top + height * factor, left : left + width * factor] = tile
    return sheet


def mistakes(worst: Sequence[Mistake], class_names: Sequence[str]) -> RGB:
    """Draws misclassified examples with their class, the predicted class and its probability.

    Args:
        worst: the mistakes, in the order in which to draw them. If there are none, the image
            contains a sentence instead.
        class_names: the name of each class.
    """
    if not worst:
        return _message("No example was misclassified.")
    names = [[printable(class_names[k]) for k in (m.predicted, m.label)] for m in worst]
    # Longer names do not fit next to the word.
    gap = "\n" if any(len(name) > 2 for pair in names for name in pair) else " "
    captions = [
        f"predicted{gap}{predicted} ({m.confidence:.0%}),\ntrue {true}"
        for m, (predicted, true) in zip(worst, names, strict=True)
    ]
    return captioned([m.image for m in worst], captions)


def confusion_matrix(counts: NDArray[Any], class_names: Sequence[str]) -> RGB:
    """Draws the confusion matrix.

    Args:
        counts: `[K, K]`, the number of examples per class (rows) and predicted class (columns).
            The colour of a cell shows its share of the row.
        class_names: the name of each class; if there are many, only some are drawn.
    """
    from matplotlib.colors import LinearSegmentedColormap

    num = len(counts)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    is_numbered = num <= _MAX_NUMBERED
    side = min(9.0, max(4.5, 0.42 * num + 2)) if is_numbered else 9.0
    figure, axes = _figure(side, side * 0.96)
    blues = LinearSegmentedColormap.from_list("blues", ["#ffffff", "#9ec5ee", "#0b3d7a"])
    # The square root makes shares of a few percent visible.
    axes.imshow(np.sqrt(shares), cmap=blues, vmin=0, vmax=1)
    names = [_shortened(str(name), 18) for name in class_names]
    step = 1 if is_numbered else -(-num // 25)
    ticks = range(0, num, step)
    shown = [names[k] for k in ticks]
    axes.set_xticks(ticks, shown, rotation=90 if _are_long(names) else 0, parse_math=False)
    axes.set_yticks(ticks, shown, parse_math=False)
    axes.tick_params(length=0, labelsize=9 if num <= 15 else 7)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    correct, total = int(np.trace(counts)), int(counts.sum())
    title = f"accuracy {correct / max(1, total):.1%} ({correct:,} of {total:,})"
    axes.set_title(title, loc="left", fontsize=11, color=_GREY)
    if is_numbered:
        size = 10 if num <= 12 else 7
        for row, column in np.argwhere(counts > 0):
            axes.text(
                column, row, f"{counts[row, column]:,}",
                ha="center", va="center", fontsize=size,
                color="white" if shares[row, column] > 0.3 else "#202124",
            )  # fmt: skip
    return _rendered(figure)


def class_accuracy(right: NDArray[Any], total: NDArray[Any], class_names: Sequence[str]) -> RGB:
    """Draws the recall per class (the share of its examples that are correct), the lowest first.

    Only the 40 lowest are drawn. Classes without examples are left out.

    Args:
        right: `[K]`, the number of correct predictions per class.
        total: `[K]`, the number of examples per class.
        class_names: the name of each class.
    """
    present = np.flatnonzero(total)
    shares = right[present] / total[present]
    ranked = np.argsort(shares, kind="stable")[:_MAX_BARS]
    figure, axes = _figure(7.0, 1.3 + 0.27 * len(ranked))
    rows = np.arange(len(ranked))
    axes.barh(rows, shares[ranked], height=0.7, color=_BLUE)
    names = [_shortened(str(class_names[k]), 28) for k in present[ranked]]
    axes.set_yticks(rows, names, parse_math=False)
    axes.set_xlim(0, 1.2)
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    axes.tick_params(length=0, labelsize=9)
    for row, k in zip(rows, ranked, strict=True):
        text = f"{shares[k]:.1%} of {total[present[k]]:,}"
        axes.text(1.02, row, text, va="center", fontsize=8, color=_GREY)
    overall = right.sum() / max(1, total.sum())
    axes.axvline(overall, color=_GREY, linewidth=1, linestyle="--")
    title = f"recall per class; dashed: overall {overall:.1%}"
    if len(present) > len(ranked):
        title += f"\nthe lowest {len(ranked)} of {len(present):,} classes"
    axes.set_title(title, loc="left", fontsize=11, color=_GREY)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return _rendered(figure)


def _shortened(text: str, length: int) -> str:
    text = printable(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def _are_long(names: Iterable[str]) -> bool:
    return max(map(len, names)) > 3


def _message(text: str) -> RGB:
    sheet = Image.new("RGB", (420, 60), _PAPER)
    ImageDraw.Draw(sheet).text((16, 20), text, _INK, ImageFont.load_default(16))
    return np.asarray(sheet)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _rendered(figure: Any) -> RGB:
    figure.canvas.draw()
    return np.array(figure.canvas.buffer_rgba())[..., :3]
