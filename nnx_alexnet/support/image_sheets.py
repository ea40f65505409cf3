"""Draws images side by side on a sheet, each with a caption.

All functions take NumPy arrays and return `uint8[H, W, 3]`, except `show`, which draws with
`matplotlib.pyplot`. NumPy, Pillow and Matplotlib are imported when they are needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from nnx_alexnet.support.number_formats import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RGB: TypeAlias = "NDArray[np.uint8]"  # [..., 3]

_TILE = 112  # approximate side of a tile, in pixels
_GAP = 6  # between tiles, in pixels
_CAPTION = 13  # height of a caption's letters, in pixels
_MAX_CHARACTERS = 200  # of a caption's line; fewer fit on a tile
_INK, _PAPER = (32, 33, 36), (255, 255, 255)
_DPI = 100


def captioned(images: Sequence[NDArray[Any]], captions: Sequence[str]) -> RGB:
    """Draws images side by side, each with a caption of any number of lines below it.

    Args:
        images: each `[H, W]` or `[H, W, C]`, all of the same shape; see `as_pixels`.
        captions: one per image; lines that do not fit are cut off.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.support.image_sheets import captioned
        >>> captioned([np.zeros((8, 8, 1)), np.ones((8, 8, 1))], ["black", "white"]).shape[2]
        3
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    tiles = [_scaled(as_pixels(image)) for image in images]
    height, width = tiles[0].shape[:2]
    font = ImageFont.load_default(_CAPTION)
    texts = ["\n".join(_fitting(line, width, font) for line in c.split("\n")) for c in captions]
    lines = max(text.count("\n") + 1 for text in texts)
    cell_height, cell_width = height + lines * (_CAPTION + 4) + _GAP, width + _GAP
    columns = num_columns(len(tiles), cell_width / cell_height)
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


def show(sheet: RGB) -> Any:
    """Shows a sheet with `matplotlib.pyplot`, one pixel of it per pixel of the figure.

    Args:
        sheet: `uint8[H, W, 3]`.

    Returns:
        The `matplotlib.axes.Axes`.

    Example:
        >>> import matplotlib.pyplot as plt, numpy as np
        >>> from nnx_alexnet.support.image_sheets import show
        >>> show(np.zeros((40, 60, 3), np.uint8)).get_images()[0].get_size()
        (40, 60)
        >>> plt.close("all")
    """
    import matplotlib.pyplot as plt

    height, width = sheet.shape[:2]
    figure = plt.figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet, interpolation="none")
    axes.set_axis_off()
    return axes


def as_pixels(image: NDArray[Any]) -> RGB:
    """Returns an image, or several, as `uint8[..., 3]`.

    Args:
        image: `[..., H, W]` or `[..., H, W, C]`; uint8, or float from 0 to 1. If floats are
            below that range, the smallest becomes black; if they are above it, the largest becomes
            white. Of 4 or more channels, the first three are kept; of 2, the first.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.support.image_sheets import as_pixels
        >>> as_pixels(np.array([[[-1.0], [0.0], [1.0]]]))[0, :, 0].tolist()
        [0, 128, 255]
    """
    import numpy as np

    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8:
        image = np.nan_to_num(image.astype(np.float32))
        low, high = min(0.0, float(image.min())), max(1.0, float(image.max()))
        image = np.rint((image - low) / (high - low) * 255).astype(np.uint8)
    channels = image.shape[-1]
    return image[..., :3] if channels >= 3 else image[..., :1].repeat(3, axis=-1)


def num_columns(num: int, aspect: float) -> int:
    """Returns the number of columns for a sheet about 1.6 times as wide as high, with few gaps.

    Args:
        num: the number of tiles.
        aspect: the width of a tile divided by its height.

    Example:
        >>> from nnx_alexnet.support.image_sheets import num_columns
        >>> num_columns(16, 1.0)
        4
    """
    wanted = min(num, math.sqrt(num * 1.6 / aspect))
    near = range(max(1, round(wanted) - 1), min(num, round(wanted) + 2) + 1)
    return min(near, key=lambda columns: (-num % columns, abs(columns - wanted)))


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
    import numpy as np
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def _fitting(text: str, width: int, font: Any) -> str:
    """Returns the text, cut to the width of a tile."""
    text = printable(text[:_MAX_CHARACTERS])  # measuring a very long name would be slow
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
