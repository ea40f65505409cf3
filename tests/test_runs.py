"""Run folders: their numbers and names, how a run ended, the table of all, the history."""

import json
import os
import re
import shutil
import signal
import sys
import threading
import time

import pytest
from flax import nnx
from helpers import TinyNet, tiny_arrays

from nnx_alexnet import DataModule, Trainer
from nnx_alexnet.callbacks import Callback
from nnx_alexnet.cli import main
from nnx_alexnet.history import History
from nnx_alexnet.listing import format_runs
from nnx_alexnet.locks import RunLock, is_locked
from nnx_alexnet.runs import check_name, create_run_dir, find_runs, list_runs


@pytest.mark.parametrize("name", ["alexnet", "a/b", "v1.2_x-y", "Größe"])
def test_names_that_stay_inside(name, tmp_path):
    folder = create_run_dir(tmp_path, name)
    assert folder.is_relative_to(tmp_path)
    assert folder.name == "version_0"


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "a/../../x", "/etc", "a//b", "a b", ".", "a\\b", "a\x00"]
)
def test_names_that_would_lead_elsewhere_are_refused(name):
    with pytest.raises(ValueError, match="`name`"):
        check_name(name)


def test_versions_count_up_from_the_largest(tmp_path):
    (tmp_path / "mine/version_7").mkdir(parents=True)
    (tmp_path / "mine/version_old").mkdir()
    assert create_run_dir(tmp_path, "mine").name == "version_8"


def test_runs_are_found_in_the_order_of_their_making(tmp_path):
    made = [create_run_dir(tmp_path, name) for name in ("b", "a/c", "b")]
    for number, run in enumerate(made):
        (run / "config.yaml").touch()
        os.utime(run / "config.yaml", (number, number))
    create_run_dir(tmp_path, "empty")
    assert find_runs(tmp_path) == made


def trainer_of(folder, *callbacks, **arguments):
    split = tiny_arrays(num=64)
    arguments = {"max_epochs": 2, "log_dir": folder, "progress_bar": False, **arguments}
    data = DataModule(split, split, batch_size=16)
    return Trainer(TinyNet(4, rngs=nnx.Rngs(0)), data, callbacks=callbacks, **arguments)


class At(Callback):
    """Does something once three steps are done."""

    def __init__(self, action):
        self.action = action

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        if trainer.global_step == 3:
            self.action(trainer)


def fail(_):
    raise RuntimeError("the first line\nthe second line")


def environment_of(trainer):
    return json.loads((trainer.run_dir / "environment.json").read_text())


def test_a_run_records_that_it_finished(tmp_path):
    trainer = trainer_of(tmp_path)
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
    trainer = trainer_of(tmp_path, At(lambda trainer: trainer.stop("enough")))
    trainer.fit()
    record = environment_of(trainer)
    assert (record["status"], record["stop_reason"]) == ("finished", "enough")


def test_ctrl_c_is_recorded_and_a_resumed_start_has_a_record_of_its_own(tmp_path):
    trainer = trainer_of(tmp_path, At(lambda _: signal.raise_signal(signal.SIGINT)))
    trainer.fit()
    assert [row["status"] for row in list_runs(tmp_path)] == ["interrupted"]
    resumed = trainer_of(tmp_path)
    history = resumed.fit(resume="auto")
    record = environment_of(resumed)
    assert [record["status"], record["before"][0]["status"]] == ["finished", "interrupted"]
    assert history == json.loads(json.dumps(history))
    assert history.to_pandas().index.tolist() == [4, 8]


def test_the_first_line_of_an_error_is_recorded(tmp_path):
    trainer = trainer_of(tmp_path, At(fail))
    with pytest.raises(RuntimeError, match="the first line"):
        trainer.fit()
    (row,) = list_runs(tmp_path)
    assert (row["status"], row["error"]) == ("failed", "RuntimeError: the first line")


def test_a_run_that_is_going_on_is_running_and_one_that_was_killed_has_no_end(tmp_path):
    seen = []

    def look(trainer):
        seen.extend(list_runs(tmp_path))
        shutil.copytree(trainer.run_dir, tmp_path / "copy/version_0")

    trainer_of(tmp_path, At(look)).fit()
    assert [(row["status"], row["ended"]) for row in seen] == [("running", None)]
    assert seen[0]["duration"] is not None
    # What a killed process leaves: the folder as it was, and no lock.
    killed = next(row for row in list_runs(tmp_path) if row["run"] == "copy/version_0")
    assert (killed["status"], killed["ended"], killed["duration"]) == ("killed", None, None)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), ValueError("damaged")])
def test_an_end_that_cannot_be_recorded_hides_nothing_and_ends_nothing(
    tmp_path, monkeypatch, caplog, error
):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr("nnx_alexnet.resuming.write_end", refuse)
    assert len(trainer_of(tmp_path).fit()) == 2
    with pytest.raises(RuntimeError, match="the first line"):
        trainer_of(tmp_path, At(fail)).fit()
    assert not any(map(is_locked, find_runs(tmp_path)))


def test_a_start_that_is_refused_leaves_the_record_of_the_run_as_it_was(tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.fit()
    before = environment_of(trainer)
    with pytest.raises(ValueError, match="seed"):
        trainer_of(tmp_path, seed=3).fit(resume=trainer.run_dir)
    assert environment_of(trainer) == before


def test_a_run_can_start_while_others_look_at_its_lock(tmp_path):
    stop = threading.Event()

    def look():
        while not stop.is_set():
            is_locked(tmp_path)
            time.sleep(0.0005)

    RunLock(tmp_path).close()
    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(100):
            lock = RunLock(tmp_path)
            assert is_locked(tmp_path)
            lock.close()
    finally:
        stop.set()
        thread.join()


# ---- The table --------------------------------------------------------------------------------


def made(folder, name, accuracies=(), *, status="finished", test=None, **environment):
    """A run folder as a run leaves it, without its training."""
    run_dir = create_run_dir(folder, name)
    (run_dir / "config.yaml").touch()
    lines = [
        {"step": 10 * (k + 1), "epoch": k, "train/loss": 1.0, "lr": 0.1,
         "val/loss": 1.5 - value, "val/accuracy": value}
        for k, value in enumerate(accuracies)
    ]  # fmt: skip
    if test is not None:
        lines.append({"step": 10, "epoch": 9, "test/loss": 1 - test, "test/accuracy": test})
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = {"started": "2026-11-25T10:00:00+0000", "ended": "2026-11-25T11:02:03+0000"}
    (run_dir / "environment.json").write_text(
        json.dumps({**record, "status": status, **environment})
    )
    return run_dir


def table(capsys, *arguments):
    assert main(["runs", *map(str, arguments)]) == 0
    header, *lines = [re.split(" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    return header, lines


def test_the_table_has_a_line_a_run_with_its_best_validation(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    made(tmp_path, "a", [0.5, 0.9, 0.7])
    made(tmp_path, "b", [0.25], test=0.125, status="failed")
    header, lines = table(capsys, tmp_path)
    assert header == [
        "run", "status", "epochs", "steps", "val/loss", "val/accuracy", "test/loss",
        "test/accuracy", "started", "duration",
    ]  # fmt: skip
    assert lines[0][:4] == ["a/version_0", "finished", "3", "30"]
    assert lines[0][4:8] == ["0.6000", "0.9000", "-", "-"]
    assert lines[0][-1] == "1h02m"
    assert lines[1][:8] == [
        "b/version_0", "failed", "1", "10", "1.2500", "0.2500", "0.8750", "0.1250",
    ]  # fmt: skip


@pytest.mark.parametrize("columns", [60, 80, 100, 140])
@pytest.mark.parametrize("test", [None, 0.75])
def test_the_table_fits_the_width_without_wrapping(tmp_path, capsys, monkeypatch, columns, test):
    monkeypatch.setenv("COLUMNS", str(columns))
    made(tmp_path, "alexnet", [0.5, 0.9], test=test, status="interrupted")
    made(tmp_path, "tinynet", [0.5] * 120, test=test)
    assert main(["runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= columns
    if columns >= 80:
        assert "alexnet/version_0" in lines[1]
        assert "0.9000" in lines[1]


def test_names_too_long_for_the_width_keep_their_ends():
    rows = [{"run": f"sweep/{'x' * 99}/version_{k}", "status": "finished"} for k in range(2)]
    lines = format_runs(rows, 60).splitlines()
    assert max(map(len, lines)) <= 60
    assert [line.split()[0][-9:] for line in lines[1:]] == ["version_0", "version_1"]


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("val/accuracy", ["b", "c", "a", "d"]),
        ("val/loss", ["b", "c", "a", "d"]),
        ("run", ["a", "b", "c", "d"]),
        ("steps", ["b", "c", "a", "d"]),
        ("train/loss", ["a", "b", "c", "d"]),
    ],
)
def test_sorting_puts_the_best_first_and_what_is_missing_last(tmp_path, capsys, by, names):
    made(tmp_path, "a", [0.1, 0.2])
    made(tmp_path, "b", [0.9])
    made(tmp_path, "c", [0.4])
    made(tmp_path, "d")
    _, lines = table(capsys, tmp_path, "--sort", by)
    assert [line[0].split("/")[0] for line in lines] == names


def test_sorting_by_what_there_is_not_names_what_there_is(tmp_path, capsys):
    made(tmp_path, "a", [0.5])
    assert main(["runs", str(tmp_path), "--sort", "val/acuracy"]) == 1
    assert "did you mean 'val/accuracy'" in capsys.readouterr().err


def test_json_has_everything(tmp_path, capsys):
    run_dir = made(tmp_path, "a", [0.5, 0.9, 0.7], stop_reason="enough")
    assert main(["runs", str(tmp_path), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "run": "a/version_0", "path": str(run_dir), "status": "finished", "epochs": 3, "steps": 30,
        "started": "2026-11-25T10:00:00+0000", "ended": "2026-11-25T11:02:03+0000",
        "duration": 3723.0, "stop_reason": "enough", "error": None, "train/loss": 1.0, "lr": 0.1,
        "val/loss": 0.6, "val/accuracy": 0.9, "best_steps": {"val/loss": 20, "val/accuracy": 20},
    }  # fmt: skip


def test_another_task_has_the_metrics_that_it_logged(tmp_path, capsys):
    run_dir = made(tmp_path, "a")
    (run_dir / "metrics.jsonl").write_text('{"step": 2, "epoch": 0, "val/absolute_error": 3.5}\n')
    header, lines = table(capsys, tmp_path)
    assert dict(zip(header, lines[0], strict=True))["val/absolute_error"] == "3.5000"


def damage(name, text):
    return lambda run: (run / name).write_bytes(text)


@pytest.mark.parametrize(
    ("break_it", "missing"),
    [
        (damage("metrics.jsonl", b""), {"epochs", "steps"}),
        (damage("metrics.jsonl", b'{"step": 1, "epo'), {"epochs", "steps"}),
        (damage("metrics.jsonl", b"\x00\xff\n[]\n3\nnull\n"), {"epochs", "steps"}),
        (lambda run: (run / "metrics.jsonl").unlink(), {"epochs", "steps"}),
        (damage("environment.json", b""), {"status", "started", "duration"}),
        (damage("environment.json", b"[1]"), {"status", "started", "duration"}),
        (damage("environment.json", b'{"status": "fin'), {"status", "started", "duration"}),
        (lambda run: (run / "environment.json").unlink(), {"status", "started", "duration"}),
        (
            damage("environment.json", b'{"status": "failed", "started": 3, "before": 7}'),
            {"started", "duration"},
        ),
    ],
)
def test_what_cannot_be_read_is_a_dash(tmp_path, capsys, monkeypatch, break_it, missing):
    monkeypatch.setenv("COLUMNS", "200")
    break_it(made(tmp_path, "a", [0.5]))
    header, lines = table(capsys, tmp_path)
    cells = dict(zip(header, lines[0], strict=True))
    assert {name for name, cell in cells.items() if cell == "-"} == missing


def test_whole_lines_of_a_run_that_is_writing_count(tmp_path):
    run_dir = made(tmp_path, "a", [0.5, 0.75])
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "epoch": 2, "val/accu')
    (row,) = list_runs(tmp_path)
    assert (row["steps"], row["val/accuracy"]) == (20, 0.75)


def test_a_hundred_runs_are_listed_at_once(tmp_path):
    first = made(tmp_path, "a", [0.5] * 100)
    for step in (1, 2, 3):
        for item in ("model", "optimizer", "loop", "manifest"):
            (first / f"checkpoints/{step}/{item}/d").mkdir(parents=True)
    for number in range(99):
        shutil.copytree(first, tmp_path / f"a/version_{number + 1}")
    began = time.perf_counter()
    assert len(list_runs(tmp_path)) == 100
    assert time.perf_counter() - began < 5  # half a second where nothing else runs


def test_no_runs_are_no_error(tmp_path, capsys):
    assert main(["runs", str(tmp_path)]) == 0
    assert "There is no run in" in capsys.readouterr().err


# ---- The history ------------------------------------------------------------------------------


def test_the_history_is_a_list_that_turns_into_a_frame(tmp_path):
    trainer = trainer_of(None)
    history = trainer.fit()
    assert history is trainer.history
    assert history == list(history)
    frame = history.to_pandas()
    assert frame.index.name == "step"
    assert frame["val/loss"].tolist() == [row["val/loss"] for row in history]
    assert "step" not in frame.columns
    assert History().to_pandas().index.name == "step"


def test_without_pandas_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        History().to_pandas()
