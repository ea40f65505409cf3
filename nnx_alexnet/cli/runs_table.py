"""The table of runs that `nnx-alexnet runs` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from nnx_alexnet.runs import larger_is_better, parse_time
from nnx_alexnet.support import format_duration, format_value, printable, unknown

Row = Mapping[str, Any]

_LEFT = ("run", "status")  # the columns of text
_COLUMNS = ("run", "status", "epochs", "steps", "started", "duration")
_SHORT = {"epochs": "ep", "duration": "took", "accuracy": "acc"}


def sort_runs(rows: Sequence[Row], by: str) -> list[Row]:
    """Sorts runs by a column or a metric.

    Args:
        rows: what `list_runs` returned.
        by: a column, or a metric such as `val/accuracy`: of accuracies the largest comes first,
            of everything else the smallest.

    Returns:
        The rows; those without a value come last.

    Raises:
        ValueError: no run has such a value.

    Example:
        >>> from nnx_alexnet.cli.runs_table import sort_runs
        >>> rows = [{"run": "a", "val/accuracy": 0.5}, {"run": "b", "val/accuracy": 0.9}]
        >>> [row["run"] for row in sort_runs(rows, "val/accuracy")]
        ['b', 'a']
    """
    known = {*_COLUMNS} | {name for row in rows for name in row if name != "best_steps"}
    if by not in known:
        raise unknown("sort", by, known)
    there = [row for row in rows if row.get(by) is not None]
    missing = [row for row in rows if row.get(by) is None]
    return [*sorted(there, key=lambda row: row[by], reverse=larger_is_better(by)), *missing]


def format_runs(rows: Sequence[Row], width: int = 80, now: datetime | None = None) -> str:
    """Returns a table of runs, in columns as wide as there is room.

    Where the width does not suffice, dates and headings are shortened, then the test and the
    validation loss are left out, then the runs' names lose their beginnings.

    Args:
        rows: what `list_runs` returned.
        width: columns of the terminal; no line is longer.
        now: of today a short date has the time (default: the present time).

    Example:
        >>> from nnx_alexnet.cli.runs_table import format_runs
        >>> print(format_runs([{"run": "mine/version_0", "status": "killed", "val/loss": 0.5}]))
        run             status  epochs  steps  val/loss  started  duration
        mine/version_0  killed       -      -    0.5000        -         -
    """
    now = datetime.now().astimezone() if now is None else now
    names = dict.fromkeys(name for row in rows for name in row)
    val, test = ([n for n in names if n.startswith(split)] for split in ("val/", "test/"))
    columns = [*_COLUMNS[:4], *val, *test, *_COLUMNS[4:]]
    lines: list[str] = []
    for level in range(6):
        if level == 3:
            columns = _without_loss(columns, "test/")
        if level == 5:
            columns = _without_loss(columns, "val/")
        cells = [[printable(_heading(name, level)) for name in columns]]
        cells += [[_cell(name, row.get(name), level, now) for name in columns] for row in rows]
        cells = [[_printable(cell) for cell in row] for row in cells]
        lines = _aligned(columns, cells, " " if level >= 4 else "  ")
        too_long = max(map(len, lines)) - width
        if too_long <= 0:
            return "\n".join(lines)
    room = max(max(len(row[0]) for row in cells) - too_long, 8)
    for row in cells:
        row[0] = row[0] if len(row[0]) <= room else "…" + row[0][-(room - 1) :]
    lines = _aligned(columns, cells, " ")
    return "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in lines)


def _without_loss(columns: list[str], split: str) -> list[str]:
    """Drops the loss of a split of which an accuracy is shown."""
    if not any(name.startswith(split) and larger_is_better(name) for name in columns):
        return columns
    return [name for name in columns if name != f"{split}loss"]


def _heading(name: str, level: int) -> str:
    if level == 0 or (name == "epochs" and level < 4):
        return name
    *split, last = name.split("/")
    return "/".join([*split, _SHORT.get(last, last)])


def _cell(name: str, value: Any, level: int, now: datetime) -> str:
    if value is None:
        return "-"
    if name == "started":
        return _date(value, level, now)
    if name == "duration":
        return format_duration(value)
    return format_value(value) if "/" in name else printable(value)


def _printable(text: str) -> str:
    """Returns a text without what moves the cursor, or that a terminal cannot show."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _date(text: str, level: int, now: datetime) -> str:
    time = parse_time(text)
    if time is None:
        return "-"
    time = time.astimezone(now.tzinfo)
    if level <= 1:
        return f"{time:%Y-%m-%d %H:%M}" if level == 0 else f"{time:%m-%d %H:%M}"
    if time.date() == now.date():
        return f"{time:%H:%M}"
    return f"{time:%d %b}" if time.year == now.year else f"{time:%Y}"


def _aligned(columns: Sequence[str], cells: Sequence[Sequence[str]], gap: str) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [
            cell.ljust(width) if name in _LEFT else cell.rjust(width)
            for name, cell, width in zip(columns, row, widths, strict=True)
        ]
        lines.append(gap.join(padded).rstrip())
    return lines
