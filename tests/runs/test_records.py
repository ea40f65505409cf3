"""The records of a run: what it was started with, and how it ended."""

import json
import shutil

import pytest
from helpers import At, press_ctrl_c, trainer_of

from nnx_alexnet.runs.folder import create_run_dir, find_runs, list_runs
from nnx_alexnet.runs.lock import is_locked
from nnx_alexnet.runs.reader import read_run
from nnx_alexnet.runs.records import config_text, write_end, write_record


def test_a_configuration_is_yaml_in_the_order_of_its_keys(tmp_path):
    config = {"seed": 0, "data": {"name": "digits", "std": [1.0, 2.0]}, "root": tmp_path}
    expected = f"seed: 0\ndata:\n  name: digits\n  std:\n  - 1.0\n  - 2.0\nroot: {tmp_path}\n"
    assert config_text(config) == expected


def test_the_start_and_the_end_of_a_run_are_recorded(tmp_path):
    run_dir = create_run_dir(tmp_path, "mine")
    write_record(run_dir, {"seed": 3})
    assert (run_dir / "config.yaml").read_text() == "seed: 3\n"
    started = json.loads((run_dir / "environment.json").read_text())
    assert started["devices"] == ["cpu: cpu"] * 8  # of the tests
    assert started["packages"]["jax"].count(".") == 2
    assert "status" not in started
    write_end(run_dir, "finished", seconds=12.5, stop_reason="enough")
    ended = json.loads((run_dir / "environment.json").read_text())
    assert ended.pop("ended") >= started["started"]
    assert ended == {
        **started, "before": [], "seconds": 12.5, "status": "finished", "stop_reason": "enough",
    }  # fmt: skip


@pytest.mark.parametrize(
    "content", [b"", b'{"a": "\xff"}', b"[1]", b'{"before": 7}', b"[" * 100_000, b'{"a": ' * 900]
)
def test_a_damaged_environment_does_not_prevent_a_resume(tmp_path, content, warnings):
    run_dir = create_run_dir(tmp_path, "mine")
    (run_dir / "environment.json").write_bytes(content)
    write_record(run_dir, {"seed": 1})
    write_end(run_dir, "finished", stop_reason=None)
    record = json.loads((run_dir / "environment.json").read_text())
    assert record["status"] == "finished"
    assert len(record["before"]) == (content == b'{"before": 7}')
    assert ("cannot be read" in warnings.text) == (content != b'{"before": 7}')


@pytest.mark.parametrize("name", ["config.yaml", "environment.json"])
def test_a_folder_named_like_a_record_is_reported_and_the_run_continues(tmp_path, name, warnings):
    run_dir = create_run_dir(tmp_path, "mine")
    (run_dir / name).mkdir()
    write_record(run_dir, {"seed": 1})
    write_end(run_dir, "finished", stop_reason=None)
    assert f"{name} cannot be written: it is a folder" in warnings.text
    assert not [*run_dir.glob("*.tmp"), *run_dir.glob(".*.tmp")]


def test_the_end_is_recorded_even_if_the_environment_was_deleted(tmp_path):
    run_dir = create_run_dir(tmp_path, "mine")
    write_record(run_dir, {})
    (run_dir / "environment.json").unlink()
    write_end(run_dir, "failed", error="boom")
    assert list_runs(tmp_path)[0]["status"] == "failed"


# ---- Records of training ----------------------------------------------------------------------


def fail(_):
    raise RuntimeError("the first line\nthe second line")


def environment_of(trainer):
    return json.loads((trainer.run_dir / "environment.json").read_text())


def test_a_run_records_that_it_finished(tmp_path):
    trainer = trainer_of(log_dir=tmp_path)
    trainer.fit()
    record = environment_of(trainer)
    assert (record["status"], record["stop_reason"]) == ("finished", None)
    assert record["started"] <= record["ended"]
    (row,) = list_runs(tmp_path)
    assert (row["run"], row["status"], row["epochs"], row["steps"]) == (
        "tinynet/version_0", "finished", 2, 8,
    )  # fmt: skip
    best = max(trainer.history, key=lambda row: row["val/accuracy"])
    assert row["val/accuracy"] == best["val/accuracy"]
    assert row["best_steps"]["val/accuracy"] == best["step"]
    assert row["val/loss"] == min(each["val/loss"] for each in trainer.history)
    assert 0 <= row["duration"] < 300


def test_a_run_records_why_a_callback_stopped_it(tmp_path):
    trainer = trainer_of(callbacks=At(3, lambda trainer: trainer.stop("enough")), log_dir=tmp_path)
    trainer.fit()
    record = environment_of(trainer)
    assert (record["status"], record["stop_reason"]) == ("finished", "enough")


def test_ctrl_c_is_recorded_and_a_resumed_start_has_its_own_record(tmp_path):
    trainer = trainer_of(callbacks=At(3, press_ctrl_c), log_dir=tmp_path)
    trainer.fit()
    assert [row["status"] for row in list_runs(tmp_path)] == ["interrupted"]
    resumed = trainer_of(log_dir=tmp_path)
    history = resumed.fit(resume="auto")
    record = environment_of(resumed)
    assert [record["status"], record["before"][0]["status"]] == ["finished", "interrupted"]
    assert history == json.loads(json.dumps(history))
    assert history.to_pandas().index.tolist() == [4, 8]


def test_the_first_line_of_an_error_is_recorded(tmp_path):
    trainer = trainer_of(callbacks=At(3, fail), log_dir=tmp_path)
    with pytest.raises(RuntimeError, match="the first line"):
        trainer.fit()
    (row,) = list_runs(tmp_path)
    assert (row["status"], row["error"]) == ("failed", "RuntimeError: the first line")


def test_a_run_is_running_until_its_process_ends(tmp_path):
    seen = []

    def look(trainer):
        seen.extend(list_runs(tmp_path))
        shutil.copytree(trainer.run_dir, tmp_path / "copy/version_0")

    trainer_of(callbacks=At(3, look), log_dir=tmp_path).fit()
    assert [(row["status"], row["ended"]) for row in seen] == [("running", None)]
    assert seen[0]["duration"] is not None
    # What a killed process leaves: the folder as it was, and no lock.
    killed = next(row for row in list_runs(tmp_path) if row["run"] == "copy/version_0")
    assert (killed["status"], killed["ended"], killed["duration"]) == ("killed", None, None)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), ValueError("damaged")])
def test_an_end_that_cannot_be_recorded_hides_no_other_error(tmp_path, monkeypatch, caplog, error):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr("nnx_alexnet.training.run.write_end", refuse)
    assert len(trainer_of(log_dir=tmp_path).fit()) == 2
    with pytest.raises(RuntimeError, match="the first line"):
        trainer_of(callbacks=At(3, fail), log_dir=tmp_path).fit()
    assert not any(map(is_locked, find_runs(tmp_path)))


def test_a_refused_start_leaves_the_records_unchanged(tmp_path):
    trainer = trainer_of(log_dir=tmp_path)
    trainer.fit()
    before = environment_of(trainer)
    with pytest.raises(ValueError, match="seed"):
        trainer_of(log_dir=tmp_path, seed=3).fit(resume=trainer.run_dir)
    assert environment_of(trainer) == before


@pytest.mark.parametrize(
    ("tags", "shown"), [(["wide", "slow"], "wide, slow"), ("wide", "wide"), ([], None)]
)
def test_the_tags_of_a_run_can_be_listed(tmp_path, tags, shown):
    write_record(tmp_path, {"trainer": {"tags": tags}})
    assert read_run(tmp_path)["tags"] == shown
