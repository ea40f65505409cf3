"""Puts the names of options into errors that were written for Python."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence

# The group whose arguments the code of a module checks.
_GROUPS = {
    "nnx_alexnet.data": "data",
    "nnx_alexnet.models": "model",
    "nnx_alexnet.task": "task",
    "nnx_alexnet.optimizers": "optimizer",
    "nnx_alexnet.callbacks": "trainer.callbacks",
    "nnx_alexnet.trainer": "trainer",
    "nnx_alexnet.training": "trainer",
    "nnx_alexnet.devices.coordinator": "distributed",
    "nnx_alexnet.devices.join_job": "distributed",
    "nnx_alexnet.devices": "trainer",
}
# The names of function arguments on the command line, where they differ.
_OTHER_NAMES = {"path": "run", "which": "checkpoint"}
# Options of these names have a shorter form.
_SHORT = {"data.name": "data", "optimizer.name": "optimizer"}
# Calls of Python, and what the command has in their place.
_CALLS = {
    "call load_checkpoint(path, model) and fit()": "add --resume-weights-only",
    "call load_checkpoint(run, model) first": "add --resume-weights-only",
    "To use its weights in a new run, call load_checkpoint(run, model).": "To use its weights in a "
    "new run, add --resume-weights-only.",
}
_ACCEPT = re.compile(r"fit\(resume=\.\.\., accept=\[([^\]]*)\]\)")
_ABOUT_OPTION = re.compile(r"--[\w.+-]+: |(--[\w.+-]+|[A-Z]+) (\(=|takes |needs )")


def as_options(
    text: str, options: Sequence[str], positionals: Sequence[str], group: str | None
) -> str:
    """Returns a message with options in place of Python arguments.

    Args:
        text: the message, with arguments in backticks.
        options: the names of the options of the command, without dashes.
        positionals: the names of its other arguments.
        group: the group that the error is about, which decides between options with the same last
            part.

    Example:
        >>> from nnx_alexnet.cli.option_messages import as_options
        >>> options = ["trainer.max_epochs", "data.seed", "seed"]
        >>> as_options("`max_epochs` (=0) must be positive or None.", options, [], None)
        '--trainer.max_epochs (=0) must be positive or null.'
        >>> as_options("`seed` (=-1) must not be negative.", options, [], "data")
        '--data.seed (=-1) must not be negative.'
        >>> as_options("`run` (='x') is missing.", options, ["run"], None)
        "RUN (='x') is missing."
    """

    def option(name: str) -> str | None:
        other = _OTHER_NAMES.get(name, name)
        name = other if other in (*positionals, *options) else name
        if name in positionals:
            return name.upper()
        named = [each for each in options if each.rpartition(".")[2] == name]
        found = next((each for each in named if each.rpartition(".")[0] == group), None)
        if found is None and group == "trainer.callbacks" and not named:
            return f"--trainer.callbacks.{name}" if f"`{name}` (=" in text else None
        found = found or (name if name in named else named[0] if len(named) == 1 else None)
        return None if found is None else f"--{_SHORT.get(found, found)}"

    def in_backticks(match: re.Match[str]) -> str:
        if match[1].startswith("--"):
            return match[1]
        name, equals, value = match[1].partition("=")
        found = option(name)
        return match[0] if found is None else f"{found} {_value(value)}" if equals else found

    def with_value(match: re.Match[str]) -> str:
        found = option(match[1])
        return match[0] if found is None else f"{found} {_value(match[2])}"

    if "resume-weights-only" in options:
        for call, written in _CALLS.items():
            text = text.replace(call, written)
        text = _ACCEPT.sub(_resume_accept, text)
    result = re.sub(r"`([^`\n]+)`", in_backticks, text)
    result = re.sub(r"(?<![\w(`.])(?<!, )([a-z_]+)=(\"[^\"]*\"|\w+)", with_value, result)
    if result == text:
        return text
    for python, written in {"None": "null", "True": "true", "False": "false"}.items():
        result = re.sub(rf"(?<=\b(?:or|is) ){python}\b|(?<=\(=){python}(?=\))", written, result)
    return result


def _resume_accept(match: re.Match[str]) -> str:
    return " ".join(["--resume-accept", *(name.strip("' ") for name in match[1].split(","))])


def _value(text: str) -> str:
    value = text.strip("\"'")
    return {"None": "null", "True": "true", "False": "false"}.get(value, value)


def group_of(error: BaseException) -> str | None:
    """Returns the group of options that an error is about: that of the innermost code."""
    modules = [
        str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    for module in reversed(modules):
        for prefix, group in _GROUPS.items():
            if module == prefix or module.startswith(f"{prefix}."):
                return group
    return None


def is_about_option(text: str) -> bool:
    """Returns whether a message refuses the value of an option or argument.

    Example:
        >>> from nnx_alexnet.cli.option_messages import is_about_option
        >>> is_about_option("--trainer.max_epochs (=0) must be positive.")
        True
        >>> is_about_option("No space left on device")
        False
    """
    return _ABOUT_OPTION.match(text) is not None
