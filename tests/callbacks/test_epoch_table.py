import pytest

from nnx_alexnet.callbacks.epoch_table import EpochRow, EpochTable

METRICS = {
    "val/loss": 0.5,
    "val/accuracy": 1.0,
    "train/loss": 0.00012,
    "train/accuracy": 0.98,
    "lr": 0.1,
}


def row(**changes):
    given = EpochRow(9, 100, 360, 4000, METRICS, 51111.4, 4021.0)
    return given._replace(**changes)


def test_an_80_column_terminal_shows_all_metrics_of_a_classifier():
    assert EpochTable().lines(row(), width=79) == [
        "                    train                 val",
        "  epoch    step      loss  accuracy      loss  accuracy  examples/s    time",
        "  9/100     360   0.00012    0.9800    0.5000    1.0000      51,111   1h07m",
    ]


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (70, ["epoch", "loss", "accuracy", "loss", "accuracy", "examples/s", "time"]),
        (57, ["epoch", "loss", "accuracy", "loss", "accuracy", "time"]),
        (50, ["epoch", "loss", "loss", "accuracy", "time"]),
        (35, ["epoch", "loss", "loss", "time"]),
        (1, []),
    ],
)
def test_a_narrow_table_omits_the_columns_of_least_interest(width, headings):
    lines = EpochTable().lines(row(), width=width)
    assert lines[-2].split() == headings if headings else lines == [""]
    assert max(map(len, lines)) <= width


def test_the_metrics_of_a_validation_precede_others_of_training():
    metrics = {"train/loss": 1.0, "train/mae": 2.0, "val/loss": 3.0, "val/mean_absolute_error": 4.0}
    _, headings, cells = EpochTable().lines(row(metrics=metrics), width=60)
    assert headings.split() == ["epoch", "loss", "loss", "mean_absolute_error", "time"]
    assert cells.split() == ["9/100", "1.0000", "3.0000", "4.0000", "1h07m"]


def test_the_accuracies_of_all_sets_precede_other_metrics():
    metrics = {f"val/{k}/{name}": 1.0 for k in "ab" for name in ("loss", "f1", "accuracy")}
    _, headings, _ = EpochTable().lines(row(metrics=metrics), width=60)
    assert headings.split() == ["epoch", "loss", "accuracy", "loss", "accuracy", "time"]


def test_the_name_of_a_set_extends_over_its_columns():
    metrics = {f"val/{name}/{each}": 1.0 for name in ("shifted", "b") for each in ("loss", "mae")}
    assert EpochTable().lines(row(metrics=metrics), width=60)[:2] == [
        "         val/shifted            val/b",
        "  epoch      loss       mae      loss       mae    time",
    ]


def test_the_header_is_repeated_after_20_rows_and_for_other_columns():
    table = EpochTable()
    counts = [len(table.lines(row(epoch=k), width=79)) for k in range(1, 42)]
    assert counts == [3, *[1] * 19, 3, *[1] * 19, 3]
    assert len(table.lines(row(), width=60)) == 3
    assert len(table.lines(row(), width=60)) == 1
    assert len(table.lines(row(metrics={}), width=60)) == 2  # no splits


def test_rows_are_aligned_however_large_their_values():
    table = EpochTable()
    header = table.lines(row(), width=79)[1]
    for value in (float("nan"), float("inf"), 123456.7, 1.23e10, -0.5, 1e-9):
        (line,) = table.lines(row(metrics=dict.fromkeys(METRICS, value), seconds=0.04), width=79)
        assert len(line) == len(header)
        assert line.endswith("  0.0s")


def test_a_run_of_unknown_length_shows_numbers_only():
    _, headings, cells = EpochTable().lines(row(max_epochs=None, last_step=None), width=79)
    assert cells.split()[:2] == ["9", "360"]
    assert len(headings) == len(cells)


def test_names_cannot_control_the_terminal():
    lines = EpochTable().lines(row(metrics={"val/a\x1b[2J": 0.5}), width=79)
    assert lines[1].split()[2] == r"a\x1b[2J"
    lines = EpochTable().lines(row(metrics={"val/\x1b[2J/a": 0.5}), width=79)
    assert lines[0].split() == ["val/\\x1…"]


def test_a_long_group_is_cut_to_its_column():
    metrics = {"val/mean_average_precision/large": 0.5, "val/loss": 1.0}
    groups, headings, _ = EpochTable().lines(row(metrics=metrics), width=50)
    assert groups.split() == ["val/mea…", "val"]
    assert max(len(groups), len(headings)) <= 50
    assert groups.index("…") == headings.index("large") + 4


def test_metrics_of_single_classes_have_no_columns():
    given = row(metrics={**METRICS, "val/f1": 0.5, "val/f1/cat": 0.25, "train/accuracy/cat": 1.0})
    lines = EpochTable().lines(given, width=200)
    assert lines[0].split() == ["train", "val"]
    assert "0.2500" not in lines[2]
