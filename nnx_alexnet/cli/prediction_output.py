"""Writes the predicted classes of image files as text, JSON or CSV."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, TextIO

import numpy as np

from nnx_alexnet.cli.prediction_table import prediction_table
from nnx_alexnet.dashboard import class_labels
from nnx_alexnet.support import (
    absolute_path,
    escape_unencodable,
    is_terminal,
    printable,
    unencodable_handler,
)

Format = Literal["text", "json", "csv"]
PredictedBatch = list[tuple[str, np.ndarray | str]]
"""Files in order, each with its probabilities, or with the reason why it cannot be read."""

# The characters by which Python represents bytes of a file name that are not text.
_BYTES = "".join(map(chr, range(0xDC80, 0xDD00)))
# Characters that begin a formula in a spreadsheet, or that it skips before one.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def write_predictions(
    batches: Iterable[PredictedBatch],
    class_names: Sequence[str] | None,
    *,
    top_k: int,
    form: Format,
    out: TextIO,
    files: Sequence[str] = (),
) -> list[str]:
    """Writes the most probable classes of each file, batch by batch.

    In text, control characters in names are escaped, so that each file has one line. JSON and CSV
    hold the exact names, with one exception: in CSV, a name that a spreadsheet would read as a
    formula (it begins with `=`, `+`, `-`, `@`, a tab or a line break, and is not a number) gets a
    leading apostrophe, as OWASP recommends. On a terminal, all formats are escaped.

    Args:
        batches: the batches of `predict_files`.
        class_names: in the order of the model's outputs; None numbers the classes from 0.
        top_k: classes per file, the most probable first.
        form: `"text"`, one line per file, or on a terminal a table with one line per class;
            `"json"`, one object per line and file; or `"csv"`, one line per class, below a header.
        out: the stream to write to.
        files: all files, to align the table on a terminal (default: unknown).

    Returns:
        The reasons why files cannot be read, in order.

    Example:
        >>> import sys
        >>> import numpy as np
        >>> from nnx_alexnet.cli.prediction_output import write_predictions
        >>> batch = [("a.png", np.array([0.25, 0.75])), ("b.png", "There is no b.png.")]
        >>> write_predictions([batch], ["cat", "dog"], top_k=2, form="csv", out=sys.stdout)
        file,rank,class,probability
        a.png,1,dog,0.75
        a.png,2,cat,0.25
        ['There is no b.png.']
    """
    from tqdm.std import tqdm

    if form == "text" and is_terminal(out):
        write = prediction_table(files, class_names or (), out)
    else:
        write = _writer(form, out)
    problems = []
    for batch in batches:
        with tqdm.external_write_mode(out):  # so that lines do not break the progress bar
            for file, row in batch:
                if isinstance(row, str):
                    problems.append(row)
                    continue
                best = np.argsort(-row, kind="stable")[:top_k]
                names = class_labels(class_names, len(row))
                write(file, [(names[k], float(row[k])) for k in best])
            out.flush()
    return problems


def _writer(form: Format, out: TextIO) -> Callable[[str, Sequence[tuple[str, float]]], None]:
    """Returns a function that writes the classes of one file, the most probable first."""
    is_shown = is_terminal(out)
    if form == "csv":
        lines = csv.writer(out, lineterminator="\n")
        lines.writerow(["file", "rank", "class", "probability"])
        shown: Callable[[str], str] = printable if is_shown else str
        return lambda file, best: lines.writerows(
            [csv_cell(shown(file)), rank, csv_cell(shown(name)), probability]
            for rank, (name, probability) in enumerate(best, start=1)
        )
    if form == "json":
        return lambda file, best: print(
            json.dumps(
                {
                    "file": file,
                    # JSON has neither NaN nor infinity.
                    "classes": [
                        {"class": k, "probability": p if math.isfinite(p) else None}
                        for k, p in best
                    ],
                }
            ),
            file=out,
        )
    return lambda file, best: print(
        printable(file, keep=_BYTES),
        *(f"{printable(k, keep=_BYTES)} {p:.4f}" for k, p in best),
        sep="  ",
        file=out,
    )


def csv_cell(text: str) -> str:
    """Returns text as a cell of CSV that no spreadsheet reads as a formula.

    Source: OWASP, "CSV Injection", https://owasp.org/www-community/attacks/CSV_Injection.

    Example:
        >>> from nnx_alexnet.cli.prediction_output import csv_cell
        >>> csv_cell("=1+1"), csv_cell("-1"), csv_cell("cat")
        ("'=1+1", '-1', 'cat')
    """
    if not text.startswith(_FORMULA_STARTS):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


@contextmanager
def open_output(output: str | None) -> Iterator[TextIO]:
    """Opens a file, or standard output, which is left open.

    File names that are not text, which Unix allows, are written as their bytes.

    Args:
        output: the path of a file, which is replaced; None is standard output. If there is no
            standard output, the text is discarded.

    Raises:
        ValueError: the file cannot be opened.
        OSError: something inside the block cannot be written.

    Example:
        >>> from nnx_alexnet.cli.prediction_output import open_output
        >>> with open_output(None) as out:
        ...     print("a line", file=out)
        a line
    """
    where = "standard output" if output is None else f"`output` (={output!r})"
    try:
        with _opened(output) as out:
            yield out
            out.flush()
    except BrokenPipeError:  # the reader has closed it
        raise
    except OSError as error:
        text = f"The classes cannot be written to {where}: {error.strerror}."
        raise OSError(error.errno, text) from error


def _opened(output: str | None) -> AbstractContextManager[TextIO]:
    stream: TextIO | None = sys.stdout
    if output is None and stream is not None and not getattr(stream, "closed", False):
        escape_unencodable(stream)
        return nullcontext(stream)
    path = absolute_path(os.devnull if output is None else output, "output", follow_links=False)
    try:
        return path.open("w", encoding="utf-8", errors=unencodable_handler(), newline="")
    except OSError as error:
        raise ValueError(
            f"`output` (={output!r}) must be a file that can be written: {error.strerror}."
        ) from None
