"""`metrics.jsonl` has every row once and only complete lines, whatever happened to the file."""

import json
import math
import os
from types import SimpleNamespace

import pytest
from fake_trainer import FakeTrainer
from helpers import Dense, tiny_arrays, trainer_of

from nnx_alexnet import DataModule
from nnx_alexnet.callbacks import JSONLogger
from nnx_alexnet.runs.last_step import read_last_step, write_last_step
from nnx_alexnet.runs.reader import read_metrics
from nnx_alexnet.training.history import History

ROWS = [
    (4, 0, {"train/loss": 0.5, "val/loss": 0.75}),
    (8, 1, {"train/loss": 0.25, "val/loss": 0.5}),
]


def lines(directory):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (directory / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_each_line_is_one_json_object(tmp_path):
    trainer = FakeTrainer([JSONLogger()], run_dir=tmp_path)
    trainer.run_fit([{"train/loss": 1.0, "val/loss": 0.5}, {"train/loss": 0.5}])
    assert lines(tmp_path) == [
        {"step": 10, "epoch": 0, "train/loss": 1.0, "val/loss": 0.5},
        {"step": 20, "epoch": 1, "train/loss": 0.5},
    ]


def test_a_resume_that_fails_before_its_state_is_restored_keeps_the_last_step(tmp_path):
    write_last_step(tmp_path, 7)
    trainer, logger = FakeTrainer([], run_dir=tmp_path), JSONLogger()
    logger.setup(trainer, "fit")
    logger.on_fit_start(trainer)
    logger.teardown(trainer, "fit")
    assert read_last_step(tmp_path) == 7


@pytest.mark.parametrize("failure", [None, RuntimeError("boom"), KeyboardInterrupt()])
def test_the_last_step_is_known_however_the_fit_ends(tmp_path, failure):
    trainer = FakeTrainer([JSONLogger()], run_dir=tmp_path)
    trainer.begin()
    assert read_last_step(tmp_path) == 0
    trainer.run_epoch({}, steps=3)
    assert read_last_step(tmp_path) == 1  # what a killed run leaves; the next write is due later
    trainer.end(failure)
    assert read_last_step(tmp_path) == 3


def test_values_that_are_not_finite_are_null(tmp_path):
    trainer = FakeTrainer([JSONLogger()], run_dir=tmp_path)
    trainer.log({"a": math.nan, "b": -math.inf, "c": 1.0})
    assert lines(tmp_path) == [{"step": 0, "epoch": 0, "a": None, "b": None, "c": 1.0}]


def test_a_new_run_in_a_used_folder_starts_an_empty_log(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    FakeTrainer([JSONLogger()], run_dir=tmp_path).run_fit([{"train/loss": 1.0}])
    assert [line["step"] for line in lines(tmp_path)] == [10]


def test_without_a_run_folder_nothing_is_written(tmp_path, monkeypatch, warnings):
    monkeypatch.chdir(tmp_path)
    FakeTrainer([JSONLogger()]).run_fit([{"train/loss": 1.0}])
    assert not list(tmp_path.iterdir())
    assert not warnings.records


def test_a_log_that_cannot_be_written_is_reported_once(tmp_path, warnings):
    (tmp_path / "file").touch()
    FakeTrainer([JSONLogger()], run_dir=tmp_path / "file").run_fit([{"train/loss": 1.0}] * 3)
    assert len(warnings.records) == 1


@pytest.fixture
def run(tmp_path):
    """A trainer after two epochs, as `JSONLogger` sees it, and the log of both."""
    trainer = SimpleNamespace(run_dir=tmp_path, epoch=0, global_step=8, history=History())
    logger = JSONLogger()
    logger.on_fit_start(trainer)
    logger.on_train_start(trainer)
    logger.on_log(trainer, {"train/loss_step": 0.625}, 2)
    for step, epoch, metrics in ROWS:
        trainer.epoch = epoch
        logger.on_log(trainer, metrics, step)
        trainer.history.append({"epoch": epoch, "step": step, **metrics})
    trainer.state = logger.state_dict()
    trainer.file = tmp_path / "metrics.jsonl"
    return trainer


def resume(trainer):
    """Resumes the run and logs one more row; returns the other rows."""
    logger = JSONLogger()
    logger.on_fit_start(trainer)
    logger.load_state_dict(trainer.state)
    logger.on_train_start(trainer)
    logger.on_log(trainer, {"train/loss_step": 0.125}, 10)
    rows = [json.loads(line) for line in trainer.file.read_text().splitlines()]
    assert rows == read_metrics(trainer.run_dir)
    assert rows[-1] == {"step": 10, "epoch": 1, "train/loss_step": 0.125}
    return rows[:-1]


def expected():
    rows = [{"step": step, "epoch": epoch, **metrics} for step, epoch, metrics in ROWS]
    return [{"step": 2, "epoch": 0, "train/loss_step": 0.625}, *rows]


def test_lines_of_repeated_steps_are_removed_and_tests_are_kept(run):
    later = [{"step": 9, "train/loss_step": 1.0}, {"step": 8, "epoch": 2, "test/loss": 0.5}]
    with run.file.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in later)
        file.write('{"step": 8, "test/acc')
    assert resume(run) == [*expected(), later[1]]


@pytest.mark.parametrize("lost", [1, 2, 20, 70, 130, 10_000])
def test_lost_rows_of_epochs_are_written_again(run, lost):
    size = run.file.stat().st_size
    os.truncate(run.file, max(0, size - lost))
    rows = resume(run)
    assert rows[-2:] == expected()[-2:]
    assert rows == expected() or lost > size - 50


@pytest.mark.parametrize("zeros", [1, 30, 100])
def test_zeros_from_a_power_failure_are_removed(run, zeros):
    content = run.file.read_bytes()
    run.file.write_bytes(content[:-zeros] + b"\0" * zeros)
    assert resume(run) == expected()


def test_a_row_that_lost_its_second_line_is_completed(run):
    lines = run.file.read_bytes().splitlines(keepends=True)
    part = b'{"step": 8, "epoch": 1, "train/loss": 0.25}\n'
    run.file.write_bytes(b"".join(lines[:-1]) + part)
    *rows, train, val = resume(run)
    assert rows == expected()[:-1]
    assert {**train, **val} == expected()[-1]


def test_damage_in_the_middle_loses_no_row_of_an_epoch(run):
    content = run.file.read_bytes().replace(b'"val/loss": 0.75', b'"val/l\0\0\xff": 0.')
    run.file.write_bytes(content[: run.state["size"]])
    assert resume(run) == expected()


def test_a_deleted_file_is_written_again(run):
    run.file.unlink()
    assert resume(run) == expected()[1:]


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_a_path_that_is_not_a_file_is_left_alone_and_reported_once(run, tmp_path, kind, warnings):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    run.file.unlink()
    if kind == "link":
        run.file.symlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(run.file)
    else:
        run.file.mkdir()
    logger = JSONLogger()
    logger.load_state_dict(run.state)
    logger.on_train_start(run)
    for step in (10, 12):
        logger.on_log(run, {"train/loss_step": 0.125}, step)
    assert warnings.text.count("metrics.jsonl could not be written, training continues") == 1
    assert "is not a regular file" in warnings.text
    assert victim.read_text() == "precious"


def test_a_log_that_shrinks_during_the_run_still_gets_complete_lines(run):
    logger = JSONLogger()
    logger.load_state_dict(run.state)
    logger.on_train_start(run)
    os.truncate(run.file, 0)
    for step in (10, 12):
        logger.on_log(run, {"lr": 0.5}, step)
    assert [row["step"] for row in read_metrics(run.run_dir)] == [10, 12]


def test_a_resumed_run_has_every_row_after_the_log_lost_its_end(tmp_path):
    split = tiny_arrays(num=16)
    data = DataModule(split, split, batch_size=16)

    def fit(max_epochs, resume):
        trainer = trainer_of(Dense(), data, max_epochs=max_epochs, log_dir=tmp_path)
        trainer.fit(resume=resume)
        return trainer

    trainer = fit(2, "never")
    log = trainer.run_dir / "metrics.jsonl"
    os.truncate(log, log.stat().st_size - 20)
    history = fit(3, "auto").history
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["val/loss"] for row in rows] == [row["val/loss"] for row in history]
