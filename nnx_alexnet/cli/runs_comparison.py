"""The table that compares runs: their results, and the settings that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from nnx_alexnet.cli.runs_table import (
    cell_text,
    first_sentence,
    metric_columns,
    reason_of,
    rendered,
)
from nnx_alexnet.runs import Settings, compare_settings
from nnx_alexnet.support import printable

_UNLIMITED = 1_000_000
_RESULTS = ("status", "epochs", "steps", "duration")


def format_comparison(
    rows: Sequence[Mapping[str, Any]],
    settings: Sequence[Settings],
    width: int | None = None,
) -> str:
    """Returns a table with a column per run: results, then the settings that differ.

    Args:
        rows: the runs, as `list_runs` returns them.
        settings: the settings of each run, as `read_settings` returns them.
        width: the largest number of columns; longer cells are folded. None does not limit it.

    Example:
        >>> from nnx_alexnet.cli.runs_comparison import format_comparison
        >>> rows = [{"run": name, "status": "finished"} for name in "ab"]
        >>> from nnx_alexnet.runs import Settings
        >>> settings = [Settings({"seed": "0", "lr": lr}) for lr in ("0.1", "0.2")]
        >>> print(format_comparison(rows, settings))
                  a         b
        status    finished  finished
        epochs    -         -
        steps     -         -
        duration  -         -
        lr        0.1       0.2
    """
    limit = width or _UNLIMITED
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    # Long names are wrapped only if they need more than half of the width.
    differing, _ = compare_settings(settings)
    names = ["duration", *metric_columns(rows), *differing]
    is_narrow = max(map(len, map(printable, names))) <= limit // 2
    table.add_column("", no_wrap=is_narrow, overflow="fold")
    for row in rows:
        name = printable(row["run"])
        table.add_column(Text(name if width is None else name.replace("/", "/\n")), overflow="fold")
    for name in (*_RESULTS, *metric_columns(rows)):
        cells = (Text(cell_text(name, row.get(name))) for row in rows)
        table.add_row(Text(printable(name)), *cells)
    reasons = [reason_of(row) for row in rows]
    if any(reasons):
        table.add_row("reason", *(Text(first_sentence(reason or "-")) for reason in reasons))
    for name in differing:
        table.add_row(
            Text(printable(name)), *(Text(printable(each.text(name))) for each in settings)
        )
    return "\n".join(rendered(table, limit))
