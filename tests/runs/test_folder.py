"""Run folders: their numbers and names, how a run ended, the table of all, the history."""

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from warnings import catch_warnings

import pytest
from flax import nnx
from helpers import TinyNet, tiny_arrays
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnx_alexnet import DataModule, Trainer
from nnx_alexnet.callbacks import Callback
from nnx_alexnet.cli.commands import main
from nnx_alexnet.cli.runs_table import format_runs, sort_runs
from nnx_alexnet.report.html_report import write_report
from nnx_alexnet.runs.folder import (
    check_name,
    choose_run_dir,
    create_run_dir,
    find_runs,
    list_runs,
    write_end,
    write_record,
)
from nnx_alexnet.runs.lock import is_locked
from nnx_alexnet.runs.reader import duration, read_all, read_environment
from nnx_alexnet.support import printable
from nnx_alexnet.training.history import History


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


@pytest.mark.parametrize(
    "stray", ["version_²", "version_٣", "version_07", "version_-1", "version_"]
)
def test_a_folder_whose_number_is_not_canonical_is_no_run(tmp_path, stray):
    (tmp_path / "mine/version_0/checkpoints").mkdir(parents=True)
    (tmp_path / "mine" / stray).mkdir()
    (tmp_path / "mine" / stray / "config.yaml").touch()
    assert choose_run_dir(tmp_path, "mine", "auto").name == "version_0"
    assert choose_run_dir(tmp_path, "mine", "never").name == "version_1"
    assert find_runs(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "link", "link to nothing", "fifo"])
@pytest.mark.parametrize("number", [1, 7])
def test_what_is_no_folder_is_no_run_and_in_nobodys_way(tmp_path, kind, number):
    first = create_run_dir(tmp_path, "mine")
    (first / "config.yaml").touch()
    stray = tmp_path / f"mine/version_{number}"
    if kind == "file":
        stray.touch()
    elif kind == "fifo":
        os.mkfifo(stray)
    else:
        stray.symlink_to(first if kind == "link" else tmp_path / "nothing")
    assert choose_run_dir(tmp_path, "mine", "auto") == first
    assert find_runs(tmp_path) == [first]
    new = choose_run_dir(tmp_path, "mine", "never")
    assert new.name == ("version_2" if number == 1 else "version_1")
    assert new.is_dir()


@pytest.mark.parametrize("name", ["version_3", "a/version_0/b"])
def test_a_name_cannot_be_that_of_a_run_folder(name):
    with pytest.raises(ValueError, match=r"`name`.*version_"):
        check_name(name)


def test_runs_behind_a_link_to_a_folder_elsewhere_are_found_once(tmp_path):
    (tmp_path / "disk/alexnet").mkdir(parents=True)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/alexnet").symlink_to(tmp_path / "disk/alexnet")
    (tmp_path / "disk/alexnet/loop").symlink_to(tmp_path / "disk")
    run = create_run_dir(tmp_path / "logs", "alexnet")
    (run / "config.yaml").touch()
    (tmp_path / "logs/latest").symlink_to(run)
    assert choose_run_dir(tmp_path / "logs", "alexnet", "auto") == run
    assert find_runs(tmp_path / "logs") == [run]
    assert [row["run"] for row in list_runs(tmp_path / "logs")] == ["alexnet/version_0"]
    (tmp_path / "link").symlink_to(tmp_path / "logs")
    assert [row["run"] for row in list_runs(tmp_path / "link")] == ["alexnet/version_0"]


def test_a_run_that_vanishes_while_runs_are_listed_is_left_out(tmp_path, monkeypatch):
    made = [create_run_dir(tmp_path, "mine") for _ in range(3)]
    for run in made:
        write_record(run, {})
    lstat = os.lstat

    def vanish(path, *arguments, **options):
        if str(path).endswith("version_1/config.yaml"):
            shutil.rmtree(made[1], ignore_errors=True)
        return lstat(path, *arguments, **options)

    monkeypatch.setattr(os, "lstat", vanish)
    assert find_runs(tmp_path) == [made[0], made[2]]


def test_a_run_started_last_is_the_newest_though_the_clock_was_set_back(tmp_path):
    first, second = (create_run_dir(tmp_path, "mine") for _ in range(2))
    write_record(first, {})
    future = time.time() + 10**7
    os.utime(first / "config.yaml", (future, future))
    write_record(second, {})
    assert find_runs(tmp_path) == [first, second]
    write_record(first, {})  # it is resumed
    assert find_runs(tmp_path) == [second, first]


def test_a_duration_is_what_was_measured_though_the_clock_was_set(tmp_path):
    run = create_run_dir(tmp_path, "mine")
    write_record(run, {})
    record = json.loads((run / "environment.json").read_text())
    record["started"] = "2026-11-25T10:00:00+0000"
    (run / "environment.json").write_text(json.dumps(record))
    write_end(run, "finished", seconds=12.5)
    assert list_runs(tmp_path)[0]["duration"] == 12.5
    starts = {
        "before": [{"started": "2026-11-25T10:00:00+0000", "ended": "2026-11-25T09:00:00+0000"}]
    }
    assert duration({**starts, "seconds": 3.0}, is_running=False) == 3.0


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

    monkeypatch.setattr("nnx_alexnet.training.run.write_end", refuse)
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


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**30), 2**53, 2**63, 1e308, -1e308, 5e-324, -1])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["finished", "0001-01-01T00:00:00+2359", "9999-12-31T23:59:59-2359"]),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=8,
)
NAMES = ["step", "epoch", "val/loss", "val/accuracy", "train/loss", "train/loss_step", "lr",
         "perf/images_per_second", "test/accuracy", "run", "status", "best_steps", "val/\n|\x1b[2J",
         "val/$\\frac", "<b>", "duration"]  # fmt: skip
ROWS = st.lists(
    st.dictionaries(st.sampled_from(NAMES), JSON, max_size=5).map(json.dumps).map(str.encode)
    | st.builds(
        lambda step, rest: json.dumps({"step": step, "epoch": 0, **rest}).encode(),
        st.integers(0, 2**53),
        st.dictionaries(st.sampled_from(NAMES[2:]), JSON, max_size=4),
    )
    | st.binary(max_size=30),
    max_size=5,
).map(b"\n".join)
ENVIRONMENTS = (
    st.dictionaries(
        st.sampled_from(
            ["status", "before", "started", "ended", "seconds", "stop_reason", "error",
             "command", "packages", "devices", "git_commit"]
        ),
        JSON,
    ).map(json.dumps).map(str.encode)
    | st.binary(max_size=30)
    | st.sampled_from([b"", b"[" * 100_000, b'{"a": ' * 2000, b"\x00" * 9, b'{"a": "\xff"}'])
)  # fmt: skip


@given(rows=ROWS, environment=ENVIRONMENTS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_a_record_holds_all_other_runs_are_listed(tmp_path_factory, rows, environment):
    logs = tmp_path_factory.mktemp("logs")
    made(logs, "good", [0.5])
    run_dir = create_run_dir(logs, "bad")
    (run_dir / "config.yaml").touch()
    (run_dir / "metrics.jsonl").write_bytes(rows)
    (run_dir / "environment.json").write_bytes(environment)
    listed = list_runs(logs)
    good, bad = (next(row for row in listed if row["run"].startswith(n)) for n in ("good", "bad"))
    assert good["val/accuracy"] == 0.5
    assert bad["status"] in (None, "finished", "interrupted", "failed", "killed")
    lines = format_runs(listed, None).splitlines()
    assert [line.split("/")[0] for line in lines[1:]] == [
        row["run"].split("/")[0] for row in listed
    ]
    for width in (100, None):
        table = format_runs(listed, width)
        assert printable(table, keep="\n") == table
    json.dumps(listed)
    for name in {name for row in listed for name in row} - {"best_steps"}:
        assert len(sort_runs(listed, name)) == 2
    write_record(run_dir, {})
    write_end(run_dir, "finished", seconds=1.0)
    assert read_environment(run_dir)["status"] == "finished"


@given(rows=ROWS, environment=ENVIRONMENTS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_a_record_holds_the_report_shows_the_rest(tmp_path_factory, rows, environment):
    run_dir = create_run_dir(tmp_path_factory.mktemp("logs"), "bad")
    (run_dir / "config.yaml").write_bytes(b"the: configuration\xff")
    (run_dir / "metrics.jsonl").write_bytes(rows)
    (run_dir / "environment.json").write_bytes(environment)
    with warnings_ignored():
        page = write_report(run_dir).read_text()
    assert "the: configuration" in page
    assert page.count("<section>") == 6
    assert page.rstrip().endswith("</html>")


@contextlib.contextmanager
def warnings_ignored():
    """Fonts have no glyph for whatever letters a name may have."""
    with catch_warnings(action="ignore"):
        yield


@pytest.mark.parametrize(
    "line",
    [b"[" * 100_000, b'{"step": 5, "val/loss": 1' + b"0" * 400 + b"}", b'{"step": 1e400}',
     b'{"step": true}', b'{"step": -1}', b'{"step": 1' + b"0" * 30 + b"}", b'{"step": [4]}',
     b"\x00" * 50, b'{"step": 5, "val/loss": "0.1"}', b'{"step": 5, "val/loss": NaN}'],
)  # fmt: skip
def test_a_bad_line_is_left_out_and_the_others_are_shown(tmp_path, line):
    run_dir = made(tmp_path, "a", [0.5])
    good = (run_dir / "metrics.jsonl").read_bytes()
    (run_dir / "metrics.jsonl").write_bytes(line + b"\n" + good + line)
    row, _, _ = read_all(run_dir)
    assert (row["val/loss"], row["best_steps"]["val/loss"]) == (1.0, 10)


@pytest.mark.parametrize(
    "content", [b"", b'{"a": "\xff"}', b"[1]", b'{"before": 7}', b"[" * 100_000, b'{"a": ' * 900]
)
def test_a_run_is_resumed_whatever_its_environment_holds(tmp_path, content, warnings):
    run_dir = create_run_dir(tmp_path, "mine")
    (run_dir / "environment.json").write_bytes(content)
    write_record(run_dir, {"seed": 1})
    write_end(run_dir, "finished", stop_reason=None)
    record = json.loads((run_dir / "environment.json").read_text())
    assert record["status"] == "finished"
    assert len(record["before"]) == (content == b'{"before": 7}')
    assert ("cannot be read" in warnings.text) == (content != b'{"before": 7}')


@pytest.mark.parametrize("name", ["config.yaml", "environment.json"])
def test_a_folder_in_the_place_of_a_record_does_not_keep_a_run_from_going_on(
    tmp_path, name, warnings
):
    run_dir = create_run_dir(tmp_path, "mine")
    (run_dir / name).mkdir()
    write_record(run_dir, {"seed": 1})
    write_end(run_dir, "finished", stop_reason=None)
    assert f"{name} cannot be written: a folder has this name" in warnings.text
    assert not [*run_dir.glob("*.tmp"), *run_dir.glob(".*.tmp")]


def test_an_environment_deleted_meanwhile_still_gets_the_end(tmp_path):
    run_dir = create_run_dir(tmp_path, "mine")
    write_record(run_dir, {})
    (run_dir / "environment.json").unlink()
    write_end(run_dir, "failed", error="boom")
    assert list_runs(tmp_path)[0]["status"] == "failed"


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "environment.json", ".lock"])
@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_nothing_but_files_is_read_of_a_run(tmp_path, name, kind, capsys):
    run_dir = made(tmp_path / "logs", "mine", [0.5])
    (tmp_path / "secret").write_text('{"step": 4, "val/loss": 77.0, "status": "finished"}\nsecret')
    (run_dir / "metrics.jsonl").rename(run_dir / "kept.jsonl")
    if name != "metrics.jsonl":
        (run_dir / "kept.jsonl").rename(run_dir / "metrics.jsonl")
    (run_dir / name).unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(run_dir / name)
    elif kind == "link":
        (run_dir / name).symlink_to(tmp_path / "secret")
    else:
        (run_dir / name).mkdir()
    assert main(["runs", str(tmp_path / "logs"), "--json"]) == 0
    assert "77.0" not in capsys.readouterr().out
    if name == "config.yaml":
        (run_dir / "metrics.jsonl").touch()
    page = write_report(run_dir).read_text()
    assert "secret" not in page
    assert "77.0000" not in page


def test_event_files_that_are_no_files_do_not_block_a_report(tmp_path):
    run_dir = made(tmp_path / "logs", "mine", [0.5])
    os.mkfifo(run_dir / "events.out.tfevents.1.fifo")
    (tmp_path / "secret").write_bytes(b"x" * 100)
    (run_dir / "events.out.tfevents.2.link").symlink_to(tmp_path / "secret")
    assert "has no pictures" in write_report(run_dir).read_text()


@pytest.mark.parametrize("kind", ["device", "fifo", "folder"])
def test_a_report_is_not_written_over_a_device(tmp_path, kind):
    run_dir = made(tmp_path / "logs", "mine", [0.5])
    output = Path(os.devnull) if kind == "device" else tmp_path / "output"
    if kind == "fifo":
        os.mkfifo(output)
    elif kind == "folder":
        output.mkdir()
    with pytest.raises(ValueError, match=r"`output` .* must be a file"):
        write_report(run_dir, output)
    assert not output.is_file()


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
