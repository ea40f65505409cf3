"""Errors and exit codes of the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from flax import nnx

from nnx_alexnet.cli import main
from nnx_alexnet.cli.commands import COMMANDS
from nnx_alexnet.data import WorkerDiedError
from nnx_alexnet.support import printable


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "fashon_mnist"], 2,
         "--data (='fashon_mnist') is unknown; did you mean 'fashion_mnist'?"),
        (["--optimizer", "adm"], 2, "--optimizer (='adm') is unknown; did you mean 'adam'?"),
        (["--task.label_smoothing", "2"], 2,
         "--task.label_smoothing (=2.0) must be a number in [0, 1); 0.1"),
        (["--data.image_size", "32"], 2, "--data.image_size (=32) must be an integer"),
        (["--data", "mnist", "--data.root", "nowhere"], 1, "nowhere"),
        (["--optimizer.weight_decay", "0.1"], 2, "--optimizer.weight_decay (=0.1) is not"),
        (["--data.seed", "-1"], 2, "--data.seed (=-1) must be an integer of at least 0."),
        (["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.min_delta", "-1"], 2,
         "--trainer.callbacks.min_delta (=-1.0) must be a number of at least 0."),
        (["--model.dtype", "int8"], 2, "--model.dtype (='int8') must be a floating-point dtype"),
        (["--data", "digits", "--data.batch_size", "5000"], 2, "--data.batch_size (=5000)"),
    ],
)  # fmt: skip
def test_an_invalid_value_is_one_message_about_the_option(
    arguments, code, message, capsys, in_folder
):
    assert main(["fit", *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not any(in_folder.iterdir())


def test_an_error_has_no_note_about_the_traceback_of_jax(capsys, in_folder):
    assert main(["summary", "--image_size", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "nnx-alexnet: error: --image_size (=1) must be an integer of at least 67"
    )


def test_help_and_wrong_options_do_not_load_jax(tmp_path):
    code = (
        "import sys\nfrom nnx_alexnet.cli import main\n"
        "for words in ['--help'], ['fit', '--help'], ['fit', '--lr', '1'], ['runs', '--xyz'], "
        "['fit', '--trainer.max_epochs', 'ten'], ['fit', '--model.help']:\n"
        "    try:\n        main(words)\n    except SystemExit:\n        pass\n"
        "print({'jax', 'torch', 'jsonargparse', 'numpy'} & sys.modules.keys(), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1] == "set()", done.stderr


class Opens(nnx.Module):
    """A model that needs a missing file."""

    def __init__(self, *, rngs):
        Path("weights.bin").read_bytes()


class Mistaken(nnx.Module):
    """A model with a bug."""

    def __init__(self, *, rngs):
        int("x")


def test_a_system_error_is_one_line_and_a_bug_has_a_traceback(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--model", f"{__name__}.Opens"]) == 1
    assert capsys.readouterr().err == (
        "nnx-alexnet: error: No such file or directory: 'weights.bin'\n"
    )
    with pytest.raises(ValueError, match="invalid literal"):
        main(["fit", "--model", f"{__name__}.Mistaken"])
    assert not any(tmp_path.iterdir())


def test_a_dead_worker_is_reported_on_one_line(capsys, tmp_path, monkeypatch):
    def dies(config):
        raise WorkerDiedError("A data worker died.")

    monkeypatch.setitem(COMMANDS, "fit", dies)
    assert main(["fit"]) == 1
    assert capsys.readouterr().err == "nnx-alexnet: error: A data worker died.\n"


def test_a_model_in_the_working_directory_can_be_imported(tmp_path):
    (tmp_path / "mine.py").write_text("from flax import nnx\nclass Net(nnx.Module): pass\n")
    command = Path(sys.executable).with_name("nnx-alexnet")
    argv = [command, "fit", "--model", "mine.Net", "--print_config"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "class_path: mine.Net" in done.stdout


def test_errors_and_results_are_one_line_each(tmp_path, capsys):
    name = "a\x1b[2J\nb\u202e"
    run = tmp_path / name / "version_0"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("{}")
    (run / "environment.json").write_text(json.dumps({"status": "\x1b[31m\n"}))
    assert main(["runs", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{printable(run)}/report.html\n"
    for command in ("validate", "verify"):
        assert main([command, str(run)]) == 2
        captured = capsys.readouterr()
        assert len(captured.err.splitlines()) == 1
        assert not set(captured.err + captured.out) & {"\x1b", "\u202e"}
