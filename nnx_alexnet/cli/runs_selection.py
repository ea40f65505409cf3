"""Selects runs by their names and by conditions on their columns."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nnx_alexnet.support import unknown

Row = Mapping[str, Any]

_CONDITION = re.compile(r"([^<>=!]+?)\s*(<=|>=|!=|=|<|>)\s*(.+)")
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def filter_runs(rows: Sequence[Row], conditions: Sequence[str]) -> list[Row]:
    """Returns the runs that meet all conditions.

    Args:
        rows: what `list_runs` returned.
        conditions: each a column or metric, `=`, `!=`, `<`, `<=`, `>` or `>=`, and a value. Text is
            compared with a pattern of `*` and `?`. A run without the value meets only `!=`.

    Raises:
        ValueError: a condition has another form, or no run has such a column.

    Example:
        >>> from nnx_alexnet.cli.runs_selection import filter_runs
        >>> rows = [{"run": "a/version_0", "steps": 5}, {"run": "b/version_0", "steps": 50}]
        >>> [row["run"] for row in filter_runs(rows, ["steps>=10"])]
        ['b/version_0']
        >>> [row["run"] for row in filter_runs(rows, ["run=a/*", "steps<10"])]
        ['a/version_0']
    """
    meets = [_parse(condition, rows) for condition in conditions]
    return [row for row in rows if all(each(row) for each in meets)]


def _parse(condition: str, rows: Sequence[Row]) -> Callable[[Row], bool]:
    match = _CONDITION.fullmatch(condition.strip())
    if match is None:
        raise ValueError(
            f"`filter` (={condition!r}) must be a column, a comparison and a value, such as "
            "status=failed, run=sweep/* or val/accuracy>0.9."
        )
    name, comparison, value = match.groups()
    known = {column for row in rows for column in row} - {"best_steps"}
    if rows and name not in known:
        raise unknown("filter", name, known)
    if comparison in ("=", "!="):
        return lambda row: _is_equal(row.get(name), value) == (comparison == "=")
    order = _ORDERS[comparison]
    number = _number(value)
    if number is None and any(isinstance(row.get(name), int | float) for row in rows):
        raise ValueError(f"`filter` (={condition!r}) must compare {name} with a number.")

    def meets(row: Row) -> bool:
        found = row.get(name)
        if isinstance(found, str):  # such as a time: 2026-11-27T10:00:00
            return order(found, value)
        return found is not None and order(found, number)

    return meets


def _is_equal(found: Any, value: str) -> bool:
    if isinstance(found, int | float):
        return found == _number(value)
    return found is not None and (str(found) == value or fnmatchcase(str(found), value))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def named_runs(rows: Sequence[Row], names: Sequence[str], argument: str) -> list[Row]:
    """Returns the runs with some names, in the order of the names.

    Args:
        rows: what `list_runs` returned.
        names: each a run as the table shows it, a pattern such as `sweep/*`, or a folder.
        argument: the option that has the names, for errors.

    Raises:
        ValueError: a name matches no run.

    Example:
        >>> from nnx_alexnet.cli.runs_selection import named_runs
        >>> rows = [{"run": name, "path": f"/logs/{name}"} for name in ("a/0", "b/0")]
        >>> [row["run"] for row in named_runs(rows, ["b/0", "a/*"], "compare")]
        ['b/0', 'a/0']
    """
    found: dict[str, Row] = {}
    for name in names:
        # A folder may have a name with brackets, which would match others as a pattern.
        matching = [row for row in rows if row["run"] == name or _is_folder(row, name)]
        matching = matching or [row for row in rows if fnmatchcase(row["run"], name)]
        if not matching:
            raise unknown(argument, name, [row["run"] for row in rows])
        found |= {row["run"]: row for row in matching}
    return [*found.values()]


def _is_folder(row: Row, name: str) -> bool:
    try:
        folder = Path(row["path"])
        logs = folder.parents[row["run"].count("/")]
        # A name may lead through a link in the log folder, which lists each run once.
        return folder.resolve() in (Path(name).resolve(), (logs / name).resolve())
    except (OSError, ValueError, RuntimeError, IndexError):
        return False
