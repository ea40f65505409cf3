"""The records of a run as they are read, complete or damaged."""

import json
import os

import pytest
from helpers import write_run
from hypothesis import HealthCheck, given, settings
from record_strategies import ANY_ENVIRONMENTS, ANY_ROWS

from nnx_alexnet.cli.runs_table import format_runs, sort_runs
from nnx_alexnet.runs.folder import create_run_dir, list_runs
from nnx_alexnet.runs.last_step import write_last_step
from nnx_alexnet.runs.reader import (
    best_step,
    duration,
    larger_is_better,
    metric_names,
    num_epochs,
    parse_row,
    parse_time,
    read_all,
    read_environment,
    read_metrics,
    read_run,
    series,
)
from nnx_alexnet.runs.records import write_end, write_record
from nnx_alexnet.support import printable

ROWS = [
    {"step": 4, "epoch": 0, "train/loss": 2.0, "lr": 0.1},
    {"step": 4, "epoch": 0, "val/accuracy": 0.5},
    {"step": 8, "epoch": 1, "train/loss": 1.0, "val/accuracy": 0.75},
    {"step": 8, "epoch": 1, "val/accuracy": 0.25},
    {"step": 9, "epoch": 2, "train/loss_step": 0.5, "val/accuracy": None},
]


def test_a_series_has_the_newest_finite_value_of_each_step():
    assert series(ROWS, "val/accuracy") == {4: 0.5, 8: 0.25}
    assert series(ROWS, "unknown") == {}


def test_metrics_are_named_in_the_order_of_their_first_appearance():
    assert metric_names(ROWS) == ["train/loss", "lr", "val/accuracy", "train/loss_step"]


def test_an_epoch_counts_once_its_loss_was_logged():
    assert num_epochs(ROWS) == 2
    assert num_epochs(ROWS[-1:]) == 0
    assert num_epochs([]) is None


def test_the_best_step_is_the_earliest_of_equal_values():
    values = {8: 0.5, 4: 0.5, 12: 0.75, 16: 0.75}
    assert best_step(values, "val/loss") == 4
    assert best_step(values, "val/accuracy") == 12


@pytest.mark.parametrize("text", [None, 3, "", "yesterday", "0001-01-01T00:00:00+2359"])
def test_a_time_that_cannot_be_read_is_none(text):
    assert parse_time(text) is None


START = {"started": "2026-11-25T10:00:00+0000", "ended": "2026-11-25T10:01:00+0000"}
BACKWARDS = {"started": "2026-11-25T10:00:00+0000", "ended": "2026-11-25T09:00:00+0000"}


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        (START, 60.0),
        ({**START, "seconds": 12.5}, 12.5),
        ({**START, "before": [START, {"started": "2026-11-25T08:00:00+0000"}]}, 120.0),
        ({"seconds": 3.0, "before": [BACKWARDS]}, 3.0),
    ],
)
def test_a_duration_is_the_sum_of_the_starts_that_ended(environment, seconds):
    assert duration(environment, is_running=False) == seconds


def test_a_running_start_counts_until_now():
    assert duration({"started": "2020-01-01T00:00:00+0000"}, is_running=True) > 10**8


@pytest.mark.parametrize(
    "line",
    [b"[" * 100_000, b'{"step": 1e400}', b'{"step": true}', b'{"step": -1}', b'{"step": [4]}',
     b'{"step": 1' + b"0" * 30 + b"}", b"\x00" * 50, b'{"step": 4, "val/lo', b"3", b"null"],
)  # fmt: skip
def test_a_line_that_is_no_row_is_left_out(tmp_path, line):
    assert parse_row(line) is None
    good = b'{"step": 10, "val/loss": 1.0}'
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([line, good, line]))
    assert read_metrics(tmp_path) == [{"step": 10, "val/loss": 1.0}]


@pytest.mark.parametrize(
    "value", [b"1" + b"0" * 400, b'"0.1"', b"NaN", b"-Infinity", b"true", b"null", b"[1]"]
)
def test_a_value_that_is_no_finite_number_is_left_out(tmp_path, value):
    run_dir = write_run(tmp_path, "a", [0.5])
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 5, "val/loss": ' + value + b"}\n")
    row = read_run(run_dir)
    assert (row["val/loss"], row["best_steps"]["val/loss"]) == (1.0, 10)


def test_metrics_of_another_task_are_read_too(tmp_path):
    run_dir = write_run(tmp_path, "a")
    (run_dir / "metrics.jsonl").write_text(
        '{"step": 2, "val/absolute_error": 1.5}\n{"step": 4, "val/absolute_error": 3.5}\n'
    )
    row = read_run(run_dir)
    assert row["val/absolute_error"] == 3.5  # the newest: it is unknown which one is better
    assert row["best_steps"] == {}


def test_the_last_step_may_be_later_than_the_newest_metrics(tmp_path):
    run_dir = write_run(tmp_path, "a", [0.5])
    write_last_step(run_dir, 13)
    assert read_run(run_dir)["steps"] == 13
    write_last_step(run_dir, 7)  # of a run that was killed between the two writes
    assert read_run(run_dir)["steps"] == 10


def test_a_metric_cannot_take_the_name_of_a_column(tmp_path):
    run_dir = write_run(tmp_path, "a")
    (run_dir / "metrics.jsonl").write_text('{"step": 2, "status": 0.5, "steps": 7.0}\n')
    row = read_run(run_dir)
    assert (row["status"], row["steps"]) == ("finished", 2)


def damage(name, content):
    return lambda run_dir: (run_dir / name).write_bytes(content)


@pytest.mark.parametrize(
    ("break_it", "missing"),
    [
        (damage("metrics.jsonl", b""), {"epochs", "steps"}),
        (damage("metrics.jsonl", b'{"step": 1, "epo'), {"epochs", "steps"}),
        (damage("metrics.jsonl", b"\x00\xff\n[]\n3\nnull\n"), {"epochs", "steps"}),
        (lambda run_dir: (run_dir / "metrics.jsonl").unlink(), {"epochs", "steps"}),
        (damage("environment.json", b""), {"status", "started", "ended", "duration"}),
        (damage("environment.json", b"[1]"), {"status", "started", "ended", "duration"}),
        (damage("environment.json", b'{"status": "f'), {"status", "started", "ended", "duration"}),
        (
            lambda run_dir: (run_dir / "environment.json").unlink(),
            {"status", "started", "ended", "duration"},
        ),
        (
            damage("environment.json", b'{"status": "failed", "started": 3, "before": 7}'),
            {"started", "ended", "duration"},
        ),
    ],
)
def test_what_cannot_be_read_is_none(tmp_path, break_it, missing):
    run_dir = write_run(tmp_path, "a", [0.5], stop_reason="enough", error="boom")
    break_it(run_dir)
    row = read_run(run_dir)
    found = {name for name in ("status", "epochs", "steps", "started", "ended", "duration")
             if row[name] is None}  # fmt: skip
    assert found == missing


def test_the_complete_lines_of_a_run_that_is_still_writing_count(tmp_path):
    run_dir = write_run(tmp_path, "a", [0.5, 0.75])
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "epoch": 2, "val/accu')
    row = read_run(run_dir)
    assert (row["steps"], row["val/accuracy"]) == (20, 0.75)


@pytest.mark.parametrize(
    "name", ["config.yaml", "metrics.jsonl", "environment.json", ".lock", ".step"]
)
@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_only_regular_files_are_read(tmp_path, name, kind):
    run_dir = write_run(tmp_path / "logs", "mine", [0.5])
    (tmp_path / "secret").write_text('{"step": 4, "val/loss": 0.1, "status": "failed"}\nsecret')
    (run_dir / name).unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(run_dir / name)
    elif kind == "link":
        (run_dir / name).symlink_to(tmp_path / "secret")
    else:
        (run_dir / name).mkdir()
    row, rows, environment = read_all(run_dir)
    assert row.get("val/loss") == (None if name == "metrics.jsonl" else 1.0)
    assert row["status"] == (None if name == "environment.json" else "finished")
    assert (rows == []) == (name == "metrics.jsonl")
    assert (environment == {}) == (name == "environment.json")
    assert len(list_runs(tmp_path / "logs")) == (name != "config.yaml")


@given(rows=ANY_ROWS, environment=ANY_ENVIRONMENTS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_a_run_with_any_records_is_listed_with_the_others(tmp_path_factory, rows, environment):
    logs = tmp_path_factory.mktemp("logs")
    write_run(logs, "good", [0.5])
    run_dir = create_run_dir(logs, "bad")
    (run_dir / "config.yaml").touch()
    (run_dir / "metrics.jsonl").write_bytes(rows)
    (run_dir / "environment.json").write_bytes(environment)
    listed = list_runs(logs)
    good, bad = (next(row for row in listed if row["run"].startswith(n)) for n in ("good", "bad"))
    assert good["val/accuracy"] == 0.5
    assert bad["status"] in (None, "finished", "interrupted", "failed", "killed")
    for width in (100, None):
        lines = format_runs(listed, width).splitlines()
        assert len(lines) == 3
        assert all(printable(line) == line for line in lines)
    json.dumps(listed)
    for name in {name for row in listed for name in row} - {"best_steps"}:
        assert len(sort_runs(listed, name)) == 2
    write_record(run_dir, {})
    write_end(run_dir, "finished", seconds=1.0)
    assert read_environment(run_dir)["status"] == "finished"


def test_a_resumed_run_has_its_first_start_and_its_newest_end(tmp_path):
    run_dir = write_run(tmp_path, "a", [0.5], before=[{"started": "2026-11-20T08:00:00+0000"}])
    run = read_run(run_dir)
    assert run["started"] == "2026-11-20T08:00:00+0000"
    assert run["ended"] == "2026-11-25T11:02:03+0000"


@pytest.mark.parametrize("name", ["val/f1", "val/f1/cat", "val/auroc", "train/recall_step"])
def test_larger_scores_of_classes_are_better(name):
    assert larger_is_better(name)
    assert not larger_is_better("val/loss")
    assert not larger_is_better("val/f1/loss")  # of a validation set with this name
