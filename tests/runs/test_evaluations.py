"""The records of evaluations after a run."""

import math

import pytest

from nnx_alexnet.runs import read_all, read_evaluations, record_evaluation, recorded_tests


def test_records_are_kept_in_their_order_and_the_newest_test_is_shown(tmp_path):
    for step, loss in ((4, 0.5), (8, 0.25)):
        record_evaluation(tmp_path, {"test/loss": loss}, split="test", step=step, reason="best")
    record_evaluation(tmp_path, {"val/loss": math.nan}, split="val", step=8)
    rows = read_evaluations(tmp_path)
    assert [(row["split"], row["step"]) for row in rows] == [("test", 4), ("test", 8), ("val", 8)]
    assert [row.get("test/loss") for row in rows] == [0.5, 0.25, None]
    assert rows[2]["val/loss"] is None, "JSON has no NaN"
    assert [path.name for path in tmp_path.iterdir()] == ["evaluations.jsonl"]
    assert read_all(tmp_path)[0]["test/loss"] == 0.25


def test_the_newest_test_is_last_even_if_its_step_was_tested_before(tmp_path):
    for step, loss in ((8, 0.5), (4, 0.75), (8, 0.25)):
        record_evaluation(tmp_path, {"test/loss": loss}, split="test", step=step)
    assert recorded_tests(tmp_path) == [
        {"step": 4, "test/loss": 0.75},
        {"step": 8, "test/loss": 0.25},
    ]


@pytest.mark.parametrize("content", [b"\xff{", b'[1]\n{"split": 3}\n{"st', b""])
def test_lines_that_are_no_records_are_left_out(content, tmp_path):
    (tmp_path / "evaluations.jsonl").write_bytes(content)
    assert read_evaluations(tmp_path) == []
    record_evaluation(tmp_path, {"test/loss": 1.0}, split="test", step=1)
    assert [row["test/loss"] for row in read_evaluations(tmp_path)] == [1.0]


def test_a_folder_that_cannot_be_written_is_only_a_warning(tmp_path, caplog):
    record_evaluation(tmp_path / "gone", {"test/loss": 1.0}, split="test", step=1)
    assert "could not be recorded" in caplog.text
