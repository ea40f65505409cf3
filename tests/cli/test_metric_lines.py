from helpers import HOSTILE, HOSTILE_SHOWN

from nnx_alexnet.cli.metric_lines import metric_lines


def test_each_validation_set_has_a_table_of_its_classes():
    values = {"val/a/loss": 2.0, "val/a/f1": 0.5, "val/a/f1/0": 1.0, "val/a/recall": 0.25,
              "val/a/recall/0": 0.5, "val/a/recall/1": 0.0, "val/b/f1": 0.75,
              "val/b/f1/0": float("nan")}  # fmt: skip
    assert metric_lines(values) == [
        "val/a/loss    2.0000",
        "val/a/f1      0.5000",
        "val/a/recall  0.2500",
        "val/b/f1      0.7500",
        "class  val/a/f1  val/a/recall",
        "    0    1.0000        0.5000",
        "    1         -        0.0000",
        "class  val/b/f1",
        "    0       nan",
    ]


def test_without_single_classes_there_is_no_table():
    assert metric_lines({"test/loss": 0.5}) == ["test/loss  0.5000"]
    assert metric_lines({}) == []


def test_names_cannot_control_the_terminal():
    lines = metric_lines({"test/f1": 0.5, f"test/f1/{HOSTILE}": 0.5, HOSTILE: 1.0})
    assert lines[1] == f"{HOSTILE_SHOWN}  1.0000"
    assert lines[3].split("  ")[0] == HOSTILE_SHOWN
