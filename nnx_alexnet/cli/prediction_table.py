"""The table of predictions that `nnx-alexnet predict` prints on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TextIO

from rich.cells import cell_len, set_cell_size

from nnx_alexnet.support import output_columns, printable

_LAST = "  probability"
_MIN_FILE, _MIN_CLASS = 12, 8  # columns that remain of a long name


def prediction_table(
    files: Sequence[str], class_names: Sequence[str], out: TextIO
) -> Callable[[str, Sequence[tuple[str, float]]], None]:
    """Prints the header of a table, and returns a function that prints the rows of a file.

    Each class has a row; the file is named in the first of them. If the table is wider than the
    terminal, files lose their beginnings, then classes lose their ends.

    Args:
        files: the names of all files.
        class_names: the names of all classes; empty if classes are numbers.
        out: the stream.

    Example:
        >>> import sys
        >>> from nnx_alexnet.cli.prediction_table import prediction_table
        >>> write = prediction_table(["a.png"], ["cat", "dog"], sys.stdout)
        file   class  probability
        >>> write("a.png", [("dog", 0.75), ("cat", 0.25)])
        a.png  dog         0.7500
               cat         0.2500
    """
    file_width = _longest("file", files)
    class_width = _longest("class", class_names)
    room = (output_columns() or 80) - len(_LAST) - len("  ")
    file_width = min(file_width, max(_MIN_FILE, room - class_width))
    class_width = min(class_width, max(_MIN_CLASS, room - file_width))

    def write(file: str, best: Sequence[tuple[str, float]]) -> None:
        shown = _without_beginning(printable(file), file_width)
        for name, probability in best:
            label = _without_end(printable(name), class_width)
            print(f"{shown}  {label}{probability:{len(_LAST)}.4f}", file=out)
            shown = " " * file_width

    print(f"{'file':<{file_width}}  {'class':<{class_width}}{_LAST}", file=out)
    return write


def _longest(heading: str, names: Sequence[str]) -> int:
    return max(cell_len(heading), *(cell_len(printable(name)) for name in names), 0)


def _without_beginning(text: str, width: int) -> str:
    if cell_len(text) > width:
        while cell_len(text) > width - 1:
            text = text[1:]
        text = f"…{text}"
    return set_cell_size(text, width)


def _without_end(text: str, width: int) -> str:
    if cell_len(text) > width:
        text = f"{set_cell_size(text, width - 1).rstrip()}…"
    return set_cell_size(text, width)
