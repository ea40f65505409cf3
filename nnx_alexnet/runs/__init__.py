"""The folder of a run: its name, its lock, and its records."""

from nnx_alexnet.runs.deletion import delete_run, folder_size
from nnx_alexnet.runs.evaluations import read_evaluations, record_evaluation
from nnx_alexnet.runs.folder import (
    check_name,
    choose_run_dir,
    find_runs,
    list_runs,
)
from nnx_alexnet.runs.last_step import write_last_step
from nnx_alexnet.runs.lock import RunLock
from nnx_alexnet.runs.metric_parts import class_metrics, class_tables, validation_splits
from nnx_alexnet.runs.reader import (
    best_step,
    has_best,
    larger_is_better,
    metric_names,
    parse_row,
    parse_time,
    read_all,
    recorded_tests,
    series,
)
from nnx_alexnet.runs.records import config_text, write_end, write_record
from nnx_alexnet.runs.settings import Settings, compare_settings, read_settings

__all__ = [
    "RunLock",
    "Settings",
    "best_step",
    "check_name",
    "choose_run_dir",
    "class_metrics",
    "class_tables",
    "compare_settings",
    "config_text",
    "delete_run",
    "find_runs",
    "folder_size",
    "has_best",
    "larger_is_better",
    "list_runs",
    "metric_names",
    "parse_row",
    "parse_time",
    "read_all",
    "read_evaluations",
    "read_settings",
    "record_evaluation",
    "recorded_tests",
    "series",
    "validation_splits",
    "write_end",
    "write_last_step",
    "write_record",
]
