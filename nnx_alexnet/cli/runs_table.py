"""The table of runs that `nnx-alexnet runs` prints."""

from __future__ import annotations

import io
import textwrap
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from nnx_alexnet.runs import class_metrics, larger_is_better, parse_time
from nnx_alexnet.support import format_duration, format_value, printable, unknown

Row = Mapping[str, Any]
Lines = list[str]

_COLUMNS = ("run", "status", "epochs", "steps", "started", "duration")
_TEXT_COLUMNS = ("run", "status", "tags", "reason")
_SHORT_HEADINGS = {"epochs": "ep", "duration": "took", "accuracy": "acc"}
_NAME_WIDTH = 24  # of run names that are cut to make room for metrics
_MIN_NAME_WIDTH = 9  # of run names that are cut
_MAX_WIDTH = 1_000_000  # of a table without a limit


def sort_runs(rows: Sequence[Row], by: str) -> list[Row]:
    """Sorts runs by a column or a metric.

    Args:
        rows: what `list_runs` returned.
        by: a column, or a metric such as `val/accuracy`. Accuracies are sorted in descending
            order, all other values in ascending order.

    Returns:
        The rows; those without a value are last.

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
    present = [row for row in rows if row.get(by) is not None]
    missing = [row for row in rows if row.get(by) is None]
    return [*sorted(present, key=lambda row: row[by], reverse=larger_is_better(by)), *missing]


def format_runs(rows: Sequence[Row], width: int | None = 80, *, now: datetime | None = None) -> str:
    """Returns a table with one line per run.

    Without a limit, the last column has the reasons why runs ended. With a limit, the error of a
    run that failed follows its line. A table that is too wide is shortened in this order: dates and
    headings are abbreviated; losses of splits with a score are left out; names of more than 24
    characters lose their beginnings; metrics are left out, accuracies last; all names lose their
    beginnings; the right end is cut off.

    Args:
        rows: what `list_runs` returned.
        width: the largest number of columns (default 80); None does not limit it.
        now: short dates of today show the time (default: the present time).

    Example:
        >>> from nnx_alexnet.cli.runs_table import format_runs
        >>> print(format_runs([{"run": "mine/version_0", "status": "killed", "val/loss": 0.5}]))
        run             status  epochs  steps  val/loss  started  duration
        mine/version_0  killed       -      -    0.5000        -         -
    """
    now = datetime.now().astimezone() if now is None else now
    limit = _MAX_WIDTH if width is None else width
    metrics = metric_columns(rows)
    last = [*_COLUMNS[4:], *(["tags"] if any(row.get("tags") for row in rows) else [])]
    last += ["reason"] if width is None and any(map(reason_of, rows)) else []

    def lines_of(shown: Sequence[str], *, is_short: bool = True, width: int = _MAX_WIDTH) -> Lines:
        columns = [*_COLUMNS[:4], *shown, *last]
        return rendered(_table(rows, columns, now if is_short else None), width)

    longest = max(len(printable(row.get("run"))) for row in rows)
    lines = lines_of(metrics, is_short=False)
    if _width(lines) > limit:
        choices = _choices(metrics)
        # Each choice is narrower than the one before it.
        room = limit + max(0, longest - _NAME_WIDTH)
        place = bisect_left(choices, True, key=lambda shown: _width(lines_of(shown)) <= room)
        shown = choices[min(place, len(choices) - 1)]
        lines = lines_of(shown)
    if (natural_width := _width(lines)) > limit:
        spare = max(0, longest - _MIN_NAME_WIDTH)
        lines = lines_of(shown, width=max(limit, natural_width - spare))
        lines = [line if len(line) <= limit else f"{line[: limit - 1]}…" for line in lines]
    if width is None:
        return "\n".join(lines)
    below = [_failure_lines(row, limit) for row in rows]
    return "\n".join(
        line for first, more in zip(lines, [[], *below], strict=True) for line in (first, *more)
    )


def metric_columns(rows: Sequence[Row]) -> list[str]:
    """Returns the metrics of validations, then those of tests, without those of single classes."""
    names = dict.fromkeys(name for row in rows for name in row)
    left_out = class_metrics(names)
    found = [name for split in ("val/", "test/") for name in names if name.startswith(split)]
    return [name for name in found if name not in left_out]


def reason_of(row: Row) -> str | None:
    """Returns why a run ended: its error, or why it stopped; None if that is not recorded."""
    return row.get("error") or row.get("stop_reason")


def first_sentence(text: str) -> str:
    """Returns the first sentence of an error; JSON has all of it.

    Example:
        >>> from nnx_alexnet.cli.runs_table import first_sentence
        >>> first_sentence("ValueError: `rate` (=0.0) must be positive. Pass another one.")
        'ValueError: `rate` (=0.0) must be positive.'
    """
    first, end, _ = printable(text).partition(". ")
    return first + end.rstrip()


def _failure_lines(row: Row, width: int) -> list[str]:
    """Returns the error of a run that failed, on at most two lines."""
    if row.get("status") != "failed" or not row.get("error"):
        return []
    indent = "  " if width > _MIN_NAME_WIDTH else ""
    return textwrap.wrap(
        first_sentence(row["error"]),
        width,
        max_lines=2,
        placeholder="…",
        initial_indent=indent,
        subsequent_indent=indent,
    )


def _choices(metrics: Sequence[str]) -> list[list[str]]:
    """Returns which metrics a table can show, from all of them to the most important one."""
    splits = {name.rpartition("/")[0] for name in metrics if larger_is_better(name)}
    fewer = [name for name in metrics if name not in {f"{split}/loss" for split in splits}]
    ranked = sorted(fewer, key=lambda name: not name.endswith("/accuracy"))
    kept = [ranked[:num] for num in range(len(ranked), 0, -1)]
    return [[*metrics], *([name for name in fewer if name in names] for names in kept)]


def _width(lines: Sequence[str]) -> int:
    return max(map(len, lines))


def _table(rows: Sequence[Row], columns: Sequence[str], now: datetime | None) -> Table:
    """Returns the table with all its texts; those of a short one depend on the time `now`."""
    gap = 2 if now is None else 1
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="")
    for name in columns:
        heading = Text(printable(_heading(name, is_short=now is not None)))
        is_run = name == "run"  # the only column that rich may narrow
        table.add_column(
            heading,
            justify="left" if name in _TEXT_COLUMNS else "right",
            no_wrap=not is_run,
        )
    for row in rows:
        values = {**row, "reason": reason_of(row)}
        run, *others = (cell_text(name, values.get(name), now) for name in columns)
        table.add_row(_RunName(run), *map(Text, others))
    return table


def rendered(table: Table, width: int) -> list[str]:
    """Returns the lines of a table as plain text."""
    written = io.StringIO()  # standard output may be missing or closed
    console = Console(
        file=written, width=width, color_system=None, force_terminal=False, force_jupyter=False
    )
    console.print(table)
    return [line.rstrip() for line in written.getvalue().splitlines()]


class _RunName:
    """A name that loses its beginning where there is no room for it."""

    def __init__(self, name: str) -> None:
        self._name = Text(name)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, self._name.cell_len).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        name = self._name
        while name.cell_len > options.max_width and len(name) > 1:
            name = Text("…") + name[2:]
        yield name


def _heading(name: str, *, is_short: bool) -> str:
    if not is_short:
        return name
    *split, last = name.split("/")
    return "/".join([*split, _SHORT_HEADINGS.get(last, last)])


def cell_text(name: str, value: Any, now: datetime | None = None) -> str:
    """Returns the text of a value in a column; that of dates depends on the time `now`."""
    if value is None:
        return "-"
    if name == "started":
        return _date(value, now)
    if name == "duration":
        return format_duration(value)
    return format_value(value) if "/" in name else printable(value)


def _date(text: str, now: datetime | None) -> str:
    """Returns date and time; if `now` is given, the time of today's and the date of others."""
    time = parse_time(text)
    if time is None:
        return "-"
    if now is None:
        return f"{time.astimezone():%Y-%m-%d %H:%M}"
    time = time.astimezone(now.tzinfo)
    if time.date() == now.date():
        return f"{time:%H:%M}"
    return f"{time:%d %b}" if time.year == now.year else f"{time:%Y}"
