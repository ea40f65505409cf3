"""Runs whose configuration is read."""

import time

import pytest
from helpers import write_run

from nnx_alexnet.cli import main
from nnx_alexnet.cli.saved_run import split_run


@pytest.mark.parametrize(
    ("content", "code"),
    [("model: 3", 2), ("- 1", 1), ("a: [", 1), ("model: {class_path: nope.Nope}", 2)],
)
def test_an_invalid_saved_configuration_is_reported_on_one_line(content, code, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(content)
    (tmp_path / "checkpoints/1/loop").mkdir(parents=True)
    for command in (["validate", str(tmp_path)], ["predict", str(tmp_path), "x.png"]):
        assert main(command) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("nnx-alexnet: error: ")
        assert str(tmp_path) in line


def test_a_run_started_from_python_is_refused_with_a_remedy(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("model:\n  class: TinyNet\n")
    assert main(["test", str(tmp_path)]) == 2
    assert "load_model" in capsys.readouterr().err


def test_a_run_that_the_command_started_is_suggested(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = write_run(tmp_path / "logs", "by_command", [0.5])
    (started / "config.yaml").write_text("model: {class_path: a.Net}")
    time.sleep(0.01)
    newest = write_run(tmp_path / "logs", "by_python", [0.5])
    (newest / "config.yaml").write_text("model: {class: Net}")
    assert main(["test"]) == 2
    hint = "Or name a run that the command started, such as logs/by_command/version_0."
    assert hint in capsys.readouterr().err
    assert main(["test", str(newest)]) == 2
    assert hint not in capsys.readouterr().err


def test_a_run_may_be_named_as_in_the_table_of_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_dir = write_run(tmp_path / "logs", "cc", [0.5])
    (run_dir / "config.yaml").write_text("model: {class: Net}")
    for words in (["test", "cc/version_0"], ["predict", "cc/version_0", "a.png"]):
        assert main(words) == 2
        assert "was started from Python" in capsys.readouterr().err
    for words in (["report", "cc/version_0"], ["report"]):
        assert main(words) == 0
        assert capsys.readouterr().out == f"{run_dir / 'report.html'}\n"
    for words in (["verify", "cc/version_0"], ["verify"]):
        assert main(words) == 2
        assert "logs/cc/version_0') holds no checkpoint" in capsys.readouterr().err


def test_a_missing_run_of_a_report_is_one_message(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "nope"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_missing_run_is_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["test"]) == 2
    assert "RUN (=null) must be the folder of a run" in capsys.readouterr().err


def test_the_first_path_of_predict_may_be_a_run(tmp_path):
    (tmp_path / "copied").mkdir()
    (tmp_path / "copied/config.yaml").touch()
    (tmp_path / "pictures").mkdir()
    copied, pictures = str(tmp_path / "copied"), str(tmp_path / "pictures")
    assert split_run([copied, "a.png"]) == (copied, ["a.png"])
    assert split_run(["missing/version_7", "a.png"]) == ("missing/version_7", ["a.png"])
    assert split_run([pictures, copied]) == (None, [pictures, copied])
    with pytest.raises(ValueError, match="`paths` must be image files"):
        split_run([copied])
