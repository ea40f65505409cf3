"""The folder of a run: its name, its lock, and its records."""

from nnx_alexnet.runs.folder import (
    check_name,
    choose_run_dir,
    find_runs,
    list_runs,
)
from nnx_alexnet.runs.lock import RunLock
from nnx_alexnet.runs.reader import (
    best_step,
    has_best,
    larger_is_better,
    metric_names,
    parse_row,
    parse_time,
    read_all,
    series,
)
from nnx_alexnet.runs.records import config_text, write_end, write_record

__all__ = [
    "RunLock",
    "best_step",
    "check_name",
    "choose_run_dir",
    "config_text",
    "find_runs",
    "has_best",
    "larger_is_better",
    "list_runs",
    "metric_names",
    "parse_row",
    "parse_time",
    "read_all",
    "series",
    "write_end",
    "write_record",
]
