"""The table of runs: its columns, its widths and the order of its rows."""

from datetime import UTC, datetime

import pytest
from helpers import HOSTILE, HOSTILE_SHOWN

from nnx_alexnet.cli.runs_table import format_runs, sort_runs
from nnx_alexnet.support import printable

NOW = datetime(2026, 11, 26, 16, 0, tzinfo=UTC)
ROWS = [
    {"run": "alexnet/version_5", "status": "finished", "epochs": 10, "steps": 400,
     "started": "2026-11-25T10:11:12+0000", "duration": 1866.0,
     "val/loss": 0.5476, "val/accuracy": 0.98611, "test/loss": 0.6, "test/accuracy": 0.98},
    {"run": "alexnet/version_6", "status": "interrupted", "epochs": None, "steps": 51111,
     "started": "2026-11-26T10:11:12+0000", "duration": None, "val/loss": 1234.5},
]  # fmt: skip


def test_a_wide_table_has_all_columns():
    lines = [line.split() for line in format_runs(ROWS, None).splitlines()]
    assert lines[0] == [
        "run", "status", "epochs", "steps", "val/loss", "val/accuracy", "test/loss",
        "test/accuracy", "started", "duration",
    ]  # fmt: skip
    first, second = lines[1:]
    assert first[:8] == [
        "alexnet/version_5", "finished", "10", "400", "0.5476", "0.9861", "0.6000", "0.9800",
    ]  # fmt: skip
    assert first[8].startswith("2026-11-2")
    assert first[-1] == "31m06s"
    assert second[:8] == [
        "alexnet/version_6", "interrupted", "-", "51111", "1,234", "-", "-", "-",
    ]  # fmt: skip
    assert second[-1] == "-"


def test_80_columns_show_short_dates_and_no_losses():
    assert format_runs(ROWS, 80, now=NOW).splitlines() == [
        "run               status      ep steps val/acc test/acc started   took",
        "alexnet/version_5 finished    10   400  0.9861   0.9800  25 Nov 31m06s",
        "alexnet/version_6 interrupted  - 51111       -        -   10:11      -",
    ]


def test_a_loss_stays_where_there_is_no_accuracy():
    rows = [{"run": "a" * 60, "status": "finished", "val/loss": 0.5, "test/loss": 0.25}]
    assert "val/loss test/loss" in format_runs(rows, 80, now=NOW)


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 140])
def test_no_line_is_wider_than_the_limit(width):
    lines = format_runs(ROWS, width, now=NOW).splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= width


FAILED = {"run": "bad/version_0", "status": "failed", "error": "E: no loss at step 3. Try this."}


def test_a_terminal_shows_why_a_run_failed_below_its_line():
    stopped = {"run": "a/version_0", "status": "finished", "stop_reason": "enough"}
    lines = format_runs([FAILED, stopped], 80, now=NOW).splitlines()
    assert [line.split()[0] for line in lines] == ["run", "bad/version_0", "E:", "a/version_0"]
    assert lines[2] == "  E: no loss at step 3."
    lines = format_runs([{**FAILED, "error": "word " * 99}], 60, now=NOW).splitlines()
    assert len(lines) == 4
    assert max(map(len, lines)) <= 60
    assert lines[-1].endswith("…")


def test_a_file_has_the_whole_reason_in_the_last_column():
    stopped = {"run": "a/version_0", "status": "finished", "stop_reason": "enough"}
    header, failed, finished = format_runs([FAILED, stopped], None).splitlines()
    assert header.endswith("duration  reason")
    assert failed.endswith("  E: no loss at step 3. Try this.")
    assert finished.endswith("  enough")


def test_names_too_long_for_the_width_keep_their_ends():
    rows = [{"run": f"sweep/{'x' * 99}/version_{k}", "status": "finished"} for k in range(2)]
    lines = format_runs(rows, 60, now=NOW).splitlines()
    assert max(map(len, lines)) <= 60
    assert [line.split()[0][0] for line in lines[1:]] == ["…", "…"]
    assert [line.split()[0][-9:] for line in lines[1:]] == ["version_0", "version_1"]


def test_columns_are_aligned_where_letters_are_two_columns_wide():
    rows = [{"run": "猫/version_0", "status": "finished"}, {"run": "cat/version_0", "status": None}]
    _, first, second = format_runs(rows, None).splitlines()
    assert first.startswith("猫/version_0   finished  ")
    assert second.startswith("cat/version_0  -         ")


@pytest.mark.parametrize("width", [None, 80, 40])
def test_control_characters_in_any_cell_are_escaped(width):
    rows = [{"run": HOSTILE, "status": HOSTILE, f"val/{HOSTILE}": 0.5, "started": HOSTILE}]
    table = format_runs(rows, width, now=NOW)
    assert printable(table, keep="\n") == table
    assert len(table.splitlines()) == 2
    assert HOSTILE_SHOWN in table or width is not None


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("val/accuracy", "bcad"),
        ("val/loss", "bcad"),
        ("run", "abcd"),
        ("steps", "cbad"),
        ("train/loss", "dabc"),
    ],
)
def test_sorting_puts_the_best_first_and_missing_values_last(by, names):
    rows = [
        {"run": "a", "steps": 30, "val/loss": 1.3, "val/accuracy": 0.2},
        {"run": "b", "steps": 20, "val/loss": 0.6, "val/accuracy": 0.9},
        {"run": "c", "steps": 10, "val/loss": 1.1, "val/accuracy": 0.4},
        {"run": "d", "train/loss": 1.0, "best_steps": {}},
    ]
    assert [row["run"] for row in sort_runs(rows, by)] == [*names]


@pytest.mark.parametrize("by", ["val/acuracy", "best_steps"])
def test_sorting_by_an_unknown_column_is_refused(by):
    with pytest.raises(ValueError, match=r"`sort` .*'val/accuracy'"):
        sort_runs([{"run": "a", "val/accuracy": 0.5, "best_steps": {}}], by)


def test_tags_are_a_column_if_a_run_has_some():
    rows = [{"run": "a", "tags": None}, {"run": "b", "tags": "wide, slow"}]
    assert [line.split()[-1] for line in format_runs(rows).splitlines()] == ["tags", "-", "slow"]
    assert "tags" not in format_runs(rows[:1])


def test_single_classes_have_no_columns_and_accuracies_stay_longest():
    metrics = {
        f"{split}/{name}": 0.5
        for split in ("val/clean", "val/night", "test")
        for name in ("loss", "auroc", "f1", "f1/cat", "accuracy")
    }
    rows = [{"run": "mine/version_0", "status": "finished", **metrics}]
    headings = [
        format_runs(rows, width, now=NOW).split("\n")[0].split() for width in (None, 100, 80)
    ]
    shown = [[name for name in line if "/" in name] for line in headings]
    assert shown == [
        [name for name in metrics if not name.endswith("/cat")],
        ["val/clean/auroc", "val/clean/acc", "val/night/acc", "test/acc"],
        ["val/clean/acc", "val/night/acc"],
    ]
    assert "mine/version_0" in format_runs(rows, 80, now=NOW)
