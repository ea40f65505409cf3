"""`nnx-alexnet runs`: the list of runs as the command prints it."""

import io
import json
import re

import pytest
from helpers import write_run

from nnx_alexnet.cli import main
from nnx_alexnet.runs.folder import list_runs
from nnx_alexnet.runs.lock import RunLock


def table(capsys, *arguments):
    assert main(["runs", *map(str, arguments)]) == 0
    header, *lines = [re.split(" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    return header, lines


def test_the_table_has_one_line_per_run_with_its_best_validation(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    write_run(tmp_path, "a", [0.5, 0.9, 0.7])
    write_run(tmp_path, "b", [0.25], test_accuracy=0.125, status="failed")
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


@pytest.mark.parametrize("columns", [80, 140])
def test_the_table_fits_the_terminal(tmp_path, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    write_run(tmp_path, "alexnet", [0.5, 0.9], test_accuracy=0.75, status="interrupted")
    write_run(tmp_path, "tinynet", [0.5] * 120, test_accuracy=0.75)
    assert main(["runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= columns
    assert "alexnet/version_0" in lines[1]
    assert "0.9000" in lines[1]


def test_runs_are_sorted_by_a_metric(tmp_path, capsys):
    for name, accuracies in {"a": [0.1, 0.2], "b": [0.9], "c": [0.4], "d": []}.items():
        write_run(tmp_path, name, accuracies)
    _, lines = table(capsys, tmp_path, "--sort", "val/accuracy")
    assert [line[0].split("/")[0] for line in lines] == ["b", "c", "a", "d"]


def test_sorting_by_an_unknown_metric_suggests_a_known_one(tmp_path, capsys):
    write_run(tmp_path, "a", [0.5])
    assert main(["runs", str(tmp_path), "--sort", "val/acuracy"]) == 2
    assert "did you mean 'val/accuracy'" in capsys.readouterr().err


def test_json_has_one_line_per_run_with_everything_that_is_known(tmp_path, capsys):
    write_run(tmp_path, "a", [0.5, 0.9, 0.7], stop_reason="enough")
    write_run(tmp_path, "b", [0.5])
    assert main(["runs", str(tmp_path), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == list_runs(tmp_path)


def test_no_runs_are_no_error(tmp_path, capsys):
    assert main(["runs", str(tmp_path)]) == 0
    assert "There are no runs in" in capsys.readouterr().err


class Answer(io.StringIO):
    def isatty(self):
        return True


def test_filters_select_runs_for_every_form(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    write_run(tmp_path, "a", [0.5], status="failed")
    write_run(tmp_path, "b", [0.9])
    _, lines = table(capsys, tmp_path, "--filter", "val/accuracy>0.4", "--filter", "status=failed")
    assert [line[0] for line in lines] == ["a/version_0"]
    assert main(["runs", str(tmp_path), "--filter", "run=b/*", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == "b/version_0"
    assert main(["runs", str(tmp_path), "--filter", "status=killed", "--sort", "val/loss"]) == 0
    assert "No run meets the filter" in capsys.readouterr().err


def test_runs_are_compared_by_their_settings(tmp_path, capsys):
    for name, seed in (("a", 0), ("b", 1), ("c", 1)):
        (write_run(tmp_path, name, [0.5]) / "config.yaml").write_text(f"seed: {seed}\nlr: 0.1\n")
    assert main(["runs", str(tmp_path), "--compare", "a/version_0", "b/version_0"]) == 0
    shown = capsys.readouterr()
    assert re.search(r"^seed +0 +1$", shown.out, re.MULTILINE)
    assert "lr" not in shown.out
    assert main(["runs", str(tmp_path), "--compare", "--filter", "run=[bc]/*"]) == 0
    assert "settings of these runs are the same" in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "is_deleted"), [("y\n", True), ("\n", False), ("", False)])
def test_runs_are_deleted_after_a_confirmation(tmp_path, capsys, monkeypatch, answer, is_deleted):
    bad, good = write_run(tmp_path, "a", [0.5], status="failed"), write_run(tmp_path, "b", [0.9])
    monkeypatch.setattr("sys.stdin", Answer(answer))
    code = main(["runs", str(tmp_path), "--delete", "--filter", "status=failed"])
    shown = capsys.readouterr()
    assert (code, bad.exists()) == ((0, False) if is_deleted else (1, True))
    assert "a/version_0" in shown.out
    assert "Delete 1 run" in shown.err
    assert good.exists()


def test_without_a_terminal_a_deletion_must_be_explicit(tmp_path, capsys, monkeypatch):
    run_dir = write_run(tmp_path, "a", [0.5])
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(["runs", str(tmp_path), "--delete", "a/version_0"]) != 0
    assert "--yes" in capsys.readouterr().err
    assert main(["runs", str(tmp_path), "--delete"]) != 0
    assert "or --filter to select them" in capsys.readouterr().err
    assert run_dir.exists()
    assert main(["runs", str(tmp_path), "--delete", "a/version_0", "--yes"]) == 0
    assert not run_dir.exists()


def test_a_run_that_is_being_written_stops_a_deletion(tmp_path, capsys):
    first, second = write_run(tmp_path, "a", [0.5]), write_run(tmp_path, "b", [0.5])
    lock = RunLock(second)
    assert main(["runs", str(tmp_path), "--delete", "*", "--yes"]) != 0
    assert f"{second} is being written" in capsys.readouterr().err
    assert first.exists()
    lock.close()


def test_json_of_a_comparison_has_the_settings(tmp_path, capsys):
    run_dir = write_run(tmp_path, "a", [0.5])
    (run_dir / "config.yaml").write_text("optimizer: {lr: 0.1}")
    assert main(["runs", str(tmp_path), "--compare", "a/version_0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"] == {"optimizer.lr": "0.1"}


def test_deleting_and_comparing_at_once_is_refused(tmp_path, capsys):
    run_dir = write_run(tmp_path, "a", [0.5])
    words = ["runs", str(tmp_path), "--delete", "a/version_0", "--compare", "a/version_0", "--yes"]
    assert main(words) == 2
    assert "--compare needs a command of its own" in capsys.readouterr().err
    assert run_dir.is_dir()


def test_a_run_may_be_named_through_a_link_in_the_log_folder(tmp_path, capsys):
    run_dir = write_run(tmp_path, "real", [0.5])
    (tmp_path / "zlink").symlink_to(run_dir.parent)
    assert main(["runs", str(tmp_path), "--delete", "zlink/version_0", "--yes"]) == 0
    assert not run_dir.exists()
