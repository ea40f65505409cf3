"""Draws the images of a run: examples with captions, filters, and results per class.

All drawing functions take NumPy arrays and return `uint8[H, W, 3]`. Pillow draws the sheets of
tiles. Matplotlib draws the charts, on its Agg canvas and without pyplot, so that any thread may
draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nnx_alexnet.dashboard.classification_results import Mistake
from nnx_alexnet.support import printable

RGB = NDArray[np.uint8]  # [..., 3]

_TILE = 112  # approximate side of a tile, in pixels
_GAP = 6  # between tiles, in pixels
_CAPTION = 13  # height of a caption's letters, in pixels
_MAX_CHARACTERS = 200  # of a caption's line; fewer fit on a tile
_INK, _PAPER = (32, 33, 36), (255, 255, 255)
_MAX_NUMBERED = 25  # classes up to which each cell has a number and the axes have all names
_MAX_BARS = 40  # classes in the chart of accuracies
_BLUE, _GREY = "#2a6fbb", "#5f6368"


def captioned(images: Sequence[NDArray[Any]], captions: Sequence[str]) -> RGB:
    """Draws images side by side, each with a caption of any number of lines below it.

    Args:
        images: each `[H, W]` or `[H, W, C]`, all of the same shape; see `as_pixels`.
        captions: one per image; lines that do not fit are cut off.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.dashboard.images import captioned
        >>> captioned([np.zeros((8, 8, 1)), np.ones((8, 8, 1))], ["black", "white"]).shape[2]
        3
    """
    tiles = [_scaled(as_pixels(image)) for image in images]
    height, width = tiles[0].shape[:2]
    font = ImageFont.load_default(_CAPTION)
    texts = ["\n".join(_fitting(line, width, font) for line in c.split("\n")) for c in captions]
    lines = max(text.count("\n") + 1 for text in texts)
    cell_height, cell_width = height + lines * (_CAPTION + 4) + _GAP, width + _GAP
    columns = _columns(len(tiles), cell_width / cell_height)
    rows = -(-len(tiles) // columns)
    size = columns * cell_width + _GAP, rows * cell_height + _GAP
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (tile, text) in enumerate(zip(tiles, texts, strict=True)):
        left = _GAP + number % columns * cell_width
        top = _GAP + number // columns * cell_height
        sheet.paste(Image.fromarray(tile), (left, top))
        draw.multiline_text((left, top + height + 2), text, _INK, font, spacing=3)
    return np.asarray(sheet)


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
    columns = 16 if num == 96 else _columns(num, width / height * 1.5)  # 6 x 16 as in the paper
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
            contains a sentence that says so.
        class_names: the name of each class.
    """
    if not worst:
        return _message("No example was misclassified.")
    captions = [
        f"true: {printable(class_names[m.label])}\n"
        f"{m.confidence:.0%} {printable(class_names[m.predicted])}"
        for m in worst
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
    axes.set_ylabel("class")
    correct, total = int(np.trace(counts)), int(counts.sum())
    axes.set_title(f"{correct:,} of {total:,} correct", loc="left", fontsize=11, color=_GREY)
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
    """Draws the accuracy per class, the lowest first.

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
    title = f"accuracy per class; {overall:.1%} overall (dashed)"
    if len(present) > len(ranked):
        title += f"\nthe lowest {len(ranked)} of {len(present):,} classes"
    axes.set_title(title, loc="left", fontsize=11, color=_GREY)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return _rendered(figure)


def as_pixels(image: NDArray[Any]) -> RGB:
    """Returns an image, or several, as `uint8[..., 3]`.

    Args:
        image: `[..., H, W]` or `[..., H, W, C]`; uint8, or float from 0 to 1. If floats are
            below that range, the smallest becomes black; if they are above it, the largest becomes
            white. Of 4 or more channels, the first three are kept; of 2, the first.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.dashboard.images import as_pixels
        >>> as_pixels(np.array([[[-1.0], [0.0], [1.0]]]))[0, :, 0].tolist()
        [0, 128, 255]
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8:
        image = np.nan_to_num(image.astype(np.float32))
        low, high = min(0.0, float(image.min())), max(1.0, float(image.max()))
        image = np.rint((image - low) / (high - low) * 255).astype(np.uint8)
    channels = image.shape[-1]
    return image[..., :3] if channels >= 3 else image[..., :1].repeat(3, axis=-1)


def _scaled(pixels: RGB) -> RGB:
    """Enlarges a small image by an integer factor, without smoothing; shrinks a large one."""
    height, width = pixels.shape[:2]
    factor = _TILE // max(height, width)
    if factor > 1:
        return pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    if max(height, width) <= 2 * _TILE:
        return pixels
    share = _TILE * 1.5 / max(height, width)
    size = max(1, round(width * share)), max(1, round(height * share))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def _columns(num: int, aspect: float) -> int:
    """Returns the number of columns for a sheet about 1.6 times as wide as high, with few gaps."""
    wanted = min(num, math.sqrt(num * 1.6 / aspect))
    near = range(max(1, round(wanted) - 1), min(num, round(wanted) + 2) + 1)
    return min(near, key=lambda columns: (-num % columns, abs(columns - wanted)))


def _fitting(text: str, width: int, font: Any) -> str:
    """Returns the text, cut to the width of a tile."""
    text = printable(text[:_MAX_CHARACTERS])  # measuring a very long name would be slow
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


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
