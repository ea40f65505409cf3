"""The subcommands and their help."""

import pytest

from nnx_alexnet.cli import main
from nnx_alexnet.cli.parser import COMMANDS, command_parser, parse
from nnx_alexnet.version import __version__


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_each_default_once(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as stopped:
        parse([name, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: nnx-alexnet {name} ")
    assert "None" not in text
    assert not [line for line in text.splitlines() if line.count("default: ") > 1]


def test_the_help_lists_all_commands(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out.partition("Commands:\n")[2].partition("\n\n")[0]
    rows = [line for line in text.splitlines() if not line.startswith("   ")]
    assert [row.split()[0] for row in rows] == [*COMMANDS]


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("got", "meant"), [("train", "fit"), ("evaluate", "validate"), ("sumary", "summary")]
)
def test_an_unknown_command_is_refused_with_the_nearest(got, meant, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([got, "--data", "digits"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert f"unknown command {got!r}. Did you mean {meant}? Commands: fit, validate" in error


def test_a_missing_command_is_reported(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "a command is required. Commands: fit, validate" in capsys.readouterr().err


def test_the_arguments_of_a_command_are_returned():
    values, words = parse(["predict", "RUN", "a.png", "b.png", "--top-k", "3"])
    assert (values.command, values.paths, values.top_k) == ("predict", ["RUN", "a.png", "b.png"], 3)
    assert words == ["RUN", "a.png", "b.png", "--top_k", "3"]


def test_an_option_of_another_command_is_reported(capsys):
    with pytest.raises(SystemExit):
        main(["verify", "RUN", "--top_k", "3"])
    assert "unknown option --top_k. It is an option of predict." in capsys.readouterr().err


def test_options_of_a_command_are_those_of_its_parser():
    assert command_parser("verify").option_names() == ["help", "json"]
