"""Completion in the shell."""

import os
import subprocess
import sys

import pytest

from nnx_alexnet.cli.completion import completion_parser
from nnx_alexnet.cli.parser import COMMANDS
from nnx_alexnet.data import DATASETS
from nnx_alexnet.optimizers import OPTIMIZERS


def values(line, name):
    """Returns the values that are offered for an option or argument of the command in a line."""
    (commands,) = completion_parser(line)._subparsers._group_actions
    command = commands.choices[line.split()[1]]
    for action in command._actions:
        if name in (*action.option_strings, action.dest):
            return action.completer()
    raise KeyError(name)


def test_all_commands_are_offered():
    (commands,) = completion_parser("nnx-alexnet ")._subparsers._group_actions
    assert list(commands.choices) == [*COMMANDS]


@pytest.mark.parametrize(
    ("line", "name", "expected"),
    [
        ("nnx-alexnet fit --data ", "--data", [*DATASETS]),
        ("nnx-alexnet fit 'a", "--optimizer", [*OPTIMIZERS]),
        ("nnx-alexnet fit --model no.Model", "--data.augment", ["true", "false"]),
        ("nnx-alexnet fit ", "--data.keep_on_device", ["true", "false", "auto"]),
        ("nnx-alexnet predict ", "--format", ["text", "json", "csv"]),
        ("nnx-alexnet test ", "--checkpoint", ["auto", "best", "last"]),
        ("nnx-alexnet test ", "run", ["logs/a/version_0", "logs/a/version_1"]),
    ],
)
def test_values_are_offered(line, name, expected, tmp_path, monkeypatch):
    for number in range(2):
        (tmp_path / f"logs/a/version_{number}").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert values(line, name) == expected


def test_callbacks_are_offered():
    assert "EarlyStopping" in values("nnx-alexnet fit ", "--trainer.callbacks")


def test_the_shell_receives_the_options_that_begin_like_the_word(tmp_path):
    pytest.importorskip("argcomplete")
    line = "nnx-alexnet fit --trainer.max"
    environment = {
        "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "found"),
    }  # fmt: skip
    code = "import sys; sys.argv = ['nnx-alexnet']; from nnx_alexnet.cli import main; main()"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, check=True)
    found = (tmp_path / "found").read_text().split()
    assert found == ["--trainer.max_epochs", "--trainer.max_steps"]
