"""Completes commands, options and values in the shell, with argcomplete."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

from nnx_alexnet.cli.base_parser import Parser, Value
from nnx_alexnet.cli.option_groups import known_classes
from nnx_alexnet.cli.parser import COMMANDS, command_parser, main_parser
from nnx_alexnet.cli.signatures import read_keys


def complete_in_shell() -> None:
    """Prints completions and ends the process, if a shell asks for them."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    argcomplete.autocomplete(completion_parser(os.environ.get("COMP_LINE", "")))


def completion_parser(line: str) -> argparse.ArgumentParser:
    """Returns a parser whose arguments have the attribute `completer` of argcomplete.

    Args:
        line: the command line so far.

    Example:
        >>> from nnx_alexnet.cli.completion import completion_parser
        >>> type(completion_parser("nnx-alexnet fit --tr")).__name__
        'Parser'
    """
    try:
        words = shlex.split(line)
    except ValueError:  # a quote is open
        words = line.split()
    parser = main_parser()
    commands = parser.add_subparsers(parser_class=argparse.ArgumentParser)
    for name in COMMANDS:
        commands.add_parser(name, add_help=False)
        if words[1:2] == [name]:
            chosen = _command(name, words[2:])
            for action in chosen._actions:
                _add_completer(action)
            commands.choices[name] = chosen
    return parser


def _command(name: str, words: list[str]) -> Parser:
    try:
        return command_parser(name, words)
    except ValueError:  # a class cannot be imported
        return command_parser(name)


def _add_completer(action: argparse.Action) -> None:
    names = {*action.option_strings, action.dest if not action.option_strings else ""}
    found: Callable[[], Iterable[str]] | None = None
    if "--data" in names:
        found = _datasets
    elif "--optimizer" in names:
        found = _optimizers
    elif names & {"--trainer.callbacks", "--trainer.callbacks.help"}:
        found = _callbacks
    elif names & {"run", "paths", "--resume"}:
        found = _runs
    elif "--checkpoint" in names:
        found = _checkpoints
    elif isinstance(action.type, Value) and action.type.choices:
        found = action.type.choices.copy
    if found is not None:
        completer = found
        action.completer = lambda **kwargs: [*completer()]  # type: ignore[attr-defined]  # noqa: ARG005


def _datasets() -> list[str]:
    return read_keys("data/datasets.py", "DATASETS")


def _optimizers() -> list[str]:
    return read_keys("optimizers/registry.py", "OPTIMIZERS")


def _callbacks() -> list[str]:
    return [*known_classes("trainer.callbacks")]


def _checkpoints() -> list[str]:
    return ["auto", "best", "last"]


def _runs() -> list[str]:
    return [str(path) for path in sorted(Path("logs").glob("**/version_*")) if path.is_dir()]
