"""Parts of an HTML page: notes, tables, figures and embedded images."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from nnx_alexnet.support import first_line


def section(title: str, make_body: Callable[[], str]) -> str:
    """Returns a section, which shows the error if building its body fails.

    Args:
        title: also the target of the page's navigation, in lower case.
        make_body: returns the content; no section is shown if it is empty.
    """
    try:
        body = make_body()
    except Exception as error:  # the records of a run may hold anything
        body = note(f"This section cannot be shown: {type(error).__name__}: {first_line(error)}")
    if not body:
        return ""
    return f'<section id="{anchor(title)}">\n<h2>{title}</h2>\n{body}\n</section>'


def anchor(title: str) -> str:
    """Returns the target of links to a section."""
    return title.lower().replace(" ", "-")


def note(text: str) -> str:
    """Returns a paragraph for what is missing or left out."""
    return f'<p class="note">{escape(text)}</p>'


def heading(text: str, hint: str = "") -> str:
    """Returns a heading inside a section, with a remark."""
    remark = f" <span>{escape(hint)}</span>" if hint else ""
    return f"<h3>{escape(text)}{remark}</h3>"


def figure(caption: str, body: str, hint: str = "") -> str:
    """Returns a figure with its caption."""
    remark = f" <span>{escape(hint)}</span>" if hint else ""
    return f"<figure><figcaption>{escape(caption)}{remark}</figcaption>{body}</figure>"


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "", texts: int = 1
) -> str:
    """Returns a table that scrolls sideways where the page is too narrow for it.

    Args:
        head: the headings, as text.
        rows: the cells of each row, as HTML.
        kind: a class of the page's style.
        texts: how many columns hold text, which is aligned to the left.

    Example:
        >>> from nnx_alexnet.report.html_parts import table
        >>> "<tr><th><b>a</b></th><td>1</td></tr>" in table(["name", "value"], [["<b>a</b>", "1"]])
        True
    """

    def row(cells: Sequence[str]) -> str:
        tags = ["th" if column == 0 else "td" for column in range(len(cells))]
        left = ["", *(' class="text"' if c < texts else "" for c in range(1, len(cells)))]
        parts = zip(tags, left, cells, strict=True)
        return f"<tr>{''.join(f'<{t}{a}>{cell}</{t}>' for t, a, cell in parts)}</tr>"

    names = f' class="{kind}"' if kind else ""
    body = "".join(map(row, rows))
    heads = row([breakable(text) for text in head])
    return (
        f'<div class="wide"><table{names}><thead>{heads}</thead><tbody>{body}</tbody></table></div>'
    )


def breakable(name: str) -> str:
    """Returns a name as HTML that may break after slashes and underscores."""
    return re.sub(r"([/_])", r"\1<wbr>", escape(name))


def bar(share: float) -> str:
    """Returns a small bar for a share from 0 to 1."""
    return f'<i class="bar"><i style="width:{100 * min(max(share, 0), 1):.1f}%"></i></i>'


def collapsed(title: str, body: str) -> str:
    """Returns content that a click shows."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def picture(pixels: NDArray[np.uint8], alt: str, *, side: int = 0) -> str:
    """Returns an embedded image.

    Args:
        pixels: `[H, W]` or `[H, W, 3]`.
        alt: describes the image.
        side: the longest side on the page, in pixels; larger images are reduced to twice that
            (default 0: as they are).
    """
    from PIL import Image

    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]  # a grey image has a smaller file
    image = Image.fromarray(pixels)
    if side and max(image.size) > 2 * side:
        image.thumbnail((2 * side, 2 * side))
    file = io.BytesIO()
    image.save(file, format="png", optimize=True)
    factor = side / max(image.size) if side else 1
    width, height = (max(1, round(length * factor)) for length in image.size)
    return embedded(file.getvalue(), alt, (width, height), is_small=factor > 1.5)


def embedded(png: bytes, alt: str, size: tuple[int, int], *, is_small: bool) -> str:
    """Returns a PNG file as an image of the page.

    Args:
        png: the bytes of the file.
        alt: describes the image.
        size: width and height on the page, in pixels.
        is_small: whether the image is enlarged, without smoothing.
    """
    small = ' class="small"' if is_small else ""
    data = base64.b64encode(png).decode()
    return (
        f'<img{small} width="{size[0]}" height="{size[1]}" alt="{escape(alt)}" '
        f'src="data:image/png;base64,{data}">'
    )
