"""`nnx-alexnet runs`: lists, compares and deletes runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from jsonargparse import Namespace

from nnx_alexnet.cli.runs_comparison import format_comparison
from nnx_alexnet.cli.runs_selection import filter_runs, named_runs
from nnx_alexnet.cli.runs_table import format_runs, metric_columns, sort_runs
from nnx_alexnet.runs import compare_settings, delete_run, folder_size, list_runs, read_settings
from nnx_alexnet.support import (
    absolute_path,
    format_bytes,
    format_count,
    is_terminal,
    output_columns,
    print_result,
    printable,
    write_message,
)

Rows = Sequence[Mapping[str, Any]]
_FAILED = 1


def runs(arguments: Namespace) -> int:
    """Prints a table of runs, or compares or deletes some of them."""
    if arguments.delete is not None and arguments.compare is not None:
        raise ValueError("`--compare` needs a command of its own, without `--delete`.")
    rows: Rows = list_runs(arguments.logs)
    if not rows:
        write_message(f"There are no runs in {printable(arguments.logs)}.")
        return 0
    if arguments.sort is not None:
        rows = sort_runs(rows, arguments.sort)
    rows = filter_runs(rows, arguments.filter or ())
    if arguments.delete is not None:
        if not arguments.delete and not arguments.filter:
            raise ValueError("`delete` needs the names of runs, or `--filter` to select them.")
        rows = named_runs(rows, arguments.delete, "delete") if arguments.delete else rows
        return _delete(rows, arguments)
    if arguments.compare:
        rows = named_runs(rows, arguments.compare, "compare")
    if not rows:
        write_message("No run meets the filter.")
    elif arguments.json:
        if arguments.compare is not None:
            rows = [{**row, "settings": read_settings(Path(row["path"])).values} for row in rows]
        print_result("\n".join(map(json.dumps, rows)))
    elif arguments.compare is not None:
        _compare(rows)
    else:
        print_result(format_runs(rows, output_columns()))  # a file gets all columns
        if metric_columns(rows):
            write_message(
                "Losses and scores in val/ are the best of each run; others are the newest."
            )
    return 0


def _compare(rows: Rows) -> None:
    settings = [read_settings(Path(row["path"])) for row in rows]
    print_result(format_comparison(rows, settings, output_columns()))
    differing, unrecorded = compare_settings(settings)
    if len(rows) > 1 and not differing:
        write_message("The settings of these runs are the same.")
    if unrecorded:
        text = printable(f"Not recorded by runs from Python: {', '.join(unrecorded)}.")
        write_message(fill(text, output_columns() or len(text), break_on_hyphens=False))


def _delete(rows: Rows, arguments: Namespace) -> int:
    """Deletes runs after a confirmation; refuses all of them if one is being written."""
    if not rows:
        write_message("No run meets the filter.")
        return 0
    for row in rows:
        if row["status"] == "running":
            raise ValueError(
                f"The run {row['path']} is being written. Wait until it ends, or leave it out."
            )
    size = format_bytes(sum(folder_size(Path(row["path"])) for row in rows))
    if not arguments.yes and not _is_confirmed(rows, size):
        write_message("Nothing was deleted.")
        return _FAILED
    for row in rows:
        delete_run(Path(row["path"]), absolute_path(arguments.logs, "logs"))
        print_result(printable(f"Deleted {row['path']}"))
    return 0


def _is_confirmed(rows: Rows, size: str) -> bool:
    """Shows the runs, and asks whether to delete them."""
    count = format_count(len(rows), "run")
    if not is_terminal(sys.stdin):
        raise ValueError(
            f"`delete` asks before it deletes {count} ({size}), but standard input is not a "
            "terminal. Add `--yes` to delete without asking."
        )
    print_result(format_runs(rows, output_columns()))
    write_message(f"Delete {count} ({size}) with all checkpoints? [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")
