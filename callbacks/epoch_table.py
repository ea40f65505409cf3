"""Formats the metrics of epochs as the rows of a table, one line per epoch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nnx_alexnet.runs import class_metrics
from nnx_alexnet.support import format_duration, format_value, printable

_GAP = "  "
_ROWS_PER_HEADER = 20  # so that a terminal always shows a header
_MIN_WIDTH = 8  # of a metric: 0.1234, 123,456 and 1.23e-05 fit


class EpochRow(NamedTuple):
    """A row of the table.

    Attributes:
        epoch: the number of the epoch, from 1.
        max_epochs: the last epoch; None if that is not known.
        step: the optimizer step at the end of the epoch.
        last_step: the last step of the run; None if that is not known.
        metrics: the metrics of the epoch by their names, such as "val/loss".
        examples_per_second: the speed of training; None if that is not known.
        seconds: the duration of the epoch; None if that is not known.
    """

    epoch: int
    max_epochs: int | None
    step: int
    last_step: int | None
    metrics: Mapping[str, float]
    examples_per_second: float | None
    seconds: float | None

    @property
    def position(self) -> str:
        """The number of the epoch and, if it is known, that of the last one."""
        return f"{self.epoch}" if self.max_epochs is None else f"{self.epoch}/{self.max_epochs}"

    @property
    def time(self) -> str:
        """The duration as text."""
        if self.seconds is None or self.seconds >= 60:
            return format_duration(self.seconds)
        return f"{self.seconds:.1f}s"


class _Column(NamedTuple):
    name: str  # of a metric, or a heading
    width: int

    @property
    def group(self) -> str:
        return self.name.rpartition("/")[0] if self.is_metric else ""

    @property
    def heading(self) -> str:
        return self.name.rpartition("/")[2] if self.is_metric else self.name

    @property
    def is_metric(self) -> bool:
        return "/" in self.name and self.name != "examples/s"


class EpochTable:
    """Formats one line per epoch; a header precedes the first one.

    The header is repeated when the columns change and after every 20 rows. If the columns do not
    fit, the least important ones are omitted: the step, the speed, then metrics other than losses;
    the accuracies of validations are the last of these.

    Example:
        >>> from nnx_alexnet.callbacks.epoch_table import EpochRow, EpochTable
        >>> table, metrics = EpochTable(), {"train/loss": 2.3, "val/loss": 2.2, "val/accuracy": 0.1}
        >>> for line in table.lines(EpochRow(1, 10, 40, 400, metrics, 1790.4, 10.1), width=79):
        ...     print(line)
                         train       val
        epoch    step     loss      loss  accuracy  examples/s    time
         1/10      40   2.3000    2.2000    0.1000       1,790   10.1s
    """

    def __init__(self) -> None:
        self._columns: list[_Column] = []
        self._num_rows = 0

    def lines(self, row: EpochRow, *, width: int) -> list[str]:
        """Returns the line of an epoch, after the lines of the header if one is due.

        Args:
            row: the epoch.
            width: the largest number of characters in a line.
        """
        columns = _columns(row, width)
        is_new = columns != self._columns
        self._num_rows = 1 if is_new else self._num_rows + 1
        self._columns = columns
        cells = _cells(row)
        line = _line(columns, [cells[column.name] for column in columns])
        has_header = self._num_rows % _ROWS_PER_HEADER == 1
        return [*(_header(columns) if has_header else []), line]


def _cells(row: EpochRow) -> dict[str, str]:
    """Returns the texts of a row by the names of the columns, in the order of the columns."""
    cells = {"epoch": row.position, "step": str(row.step)}
    left_out = class_metrics(row.metrics)
    for split in ("train/", "val/"):
        for name, value in row.metrics.items():
            if name.startswith(split) and name not in left_out:
                cells[name] = format_value(value)
    if row.examples_per_second is not None:
        cells["examples/s"] = f"{row.examples_per_second:,.0f}"
    cells["time"] = row.time
    return cells


def _columns(row: EpochRow, width: int) -> list[_Column]:
    """Returns the columns that fit; the least important ones are omitted first."""
    widths = {
        "epoch": 5 if row.max_epochs is None else 2 * len(str(row.max_epochs)) + 1,
        "step": max(6, len(str(row.last_step or ""))),
        "time": 6,
    }
    columns = [
        _Column(name, max(len(_heading(name)), widths.get(name, _MIN_WIDTH)))
        for name in _cells(row)
    ]
    chosen: set[_Column] = set()
    room = width + len(_GAP)
    for column in sorted(columns, key=_rank):
        if len(_GAP) + column.width <= room:
            room -= len(_GAP) + column.width
            chosen.add(column)
    return [column for column in columns if column in chosen]


def _rank(column: _Column) -> int:
    """Returns the position of a column in the order of importance."""
    name = column.name
    if name in ("epoch", "time"):
        return 0
    if column.is_metric:
        if column.heading == "loss":
            return 1
        if column.name.startswith("val/"):
            return 2 if column.heading == "accuracy" else 3
        return 4
    return 5 if name == "examples/s" else 6


def _heading(name: str) -> str:
    return printable(_Column(name, 0).heading)


def _header(columns: Sequence[_Column]) -> list[str]:
    """Returns the splits above their columns, and the headings."""
    headings = _line(columns, [_heading(column.name) for column in columns])
    cells = []
    for group, found in itertools.groupby(columns, key=lambda column: column.group):
        widths = [column.width for column in found]
        whole = sum(widths) + len(_GAP) * (len(widths) - 1)
        cells.append(_cut(printable(group), whole).rjust(widths[0]).ljust(whole))
    return [line for line in (_GAP.join(cells).rstrip(), headings) if line]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _line(columns: Sequence[_Column], texts: Sequence[str]) -> str:
    cells = (text.rjust(column.width) for column, text in zip(columns, texts, strict=True))
    return _GAP.join(cells).rstrip()
