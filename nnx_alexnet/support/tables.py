"""Tables as text and as HTML, for `repr` and for notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from nnx_alexnet.support.number_formats import printable

# Notebooks style `dataframe`, the class of pandas' tables, in light and dark themes.
_TABLE = '<table class="dataframe" style="margin:0.5em 0">'


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table whose columns are aligned to the right.

    Args:
        header: the name of each column.
        rows: the cells of each row.

    Example:
        >>> from nnx_alexnet.support.tables import text_table
        >>> print(text_table(["epoch", "val/loss"], [["0", "0.5"], ["1", "0.25"]]))
        epoch  val/loss
            0       0.5
            1      0.25
    """
    lines = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns the HTML of a table whose columns are aligned to the right.

    Args:
        header: the name of each column.
        rows: the cells of each row, as text.

    Example:
        >>> from nnx_alexnet.support.tables import html_table
        >>> "<th>loss &lt; 1</th>" in html_table(["loss < 1"], [["0.5"]])
        True
    """
    head = "".join(f"<th>{_escaped(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:right">{_escaped(c)}</td>' for c in row) + "</tr>"
        for row in rows
    )
    return (
        f'{_TABLE}<thead><tr style="text-align:right">{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def html_facts(facts: Iterable[tuple[str, str]]) -> str:
    """Returns the HTML of a table with a label and a text in each row.

    Args:
        facts: labels with their texts.

    Example:
        >>> from nnx_alexnet.support.tables import html_facts
        >>> html_facts([("data", "digits")]).count("<tr>")
        1
    """
    left = 'style="text-align:left"'
    body = "".join(
        f"<tr><th {left}>{_escaped(label)}</th><td {left}>{_escaped(text)}</td></tr>"
        for label, text in facts
    )
    return f"{_TABLE}<tbody>{body}</tbody></table>"


def _escaped(text: str) -> str:
    return html.escape(printable(text))
