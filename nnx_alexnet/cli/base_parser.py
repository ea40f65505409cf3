"""A parser of options whose help shows each default once and whose errors are short."""

from __future__ import annotations

import difflib
import inspect
import re
from argparse import Action
from collections.abc import Iterator
from typing import Any, NoReturn

from flax import nnx
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from nnx_alexnet.callbacks import Callback
from nnx_alexnet.task import Task

# The errors of jsonargparse for a name that it does not know.
_UNKNOWN = re.compile(
    r"(?:(?:[Oo]ption|[Kk]ey|Group) '|[Uu]nrecognized arguments: --|import path string: )([\w.]+)"
)
# Its error for a value that fits none of several types.
_NO_TYPE = re.compile(
    r'Parser key "(?P<key>[\w.]+)":\s+Does not validate against any of the Union subtypes'
    r".*?Errors:\n(?P<reasons>.*?)\n\s*Given value type: .*?Given value: (?P<value>.*)",
    re.DOTALL,
)
_EXPECTED_TYPE = re.compile(r"Expected a <class '([\w.]+)'>")
_TYPES = {"int": "an integer", "float": "a number", "str": "text", "NoneType": "null"}
_TYPES |= {"list": "a list such as [a,b]", "dict": "a dict such as {a: b}"}


class HelpFormatter(DefaultHelpFormatter):
    """Leaves out a default that is null, and one that the docstring repeats."""

    def _get_help_string(self, action: Action) -> str:
        text = super()._get_help_string(action)
        if action.default is not None:
            return re.sub(r' \(default `?"?[\w.]+"?`?\)', "", text)
        text = text.replace(", default: %(default)s", "")
        return text.replace(" (default: %(default)s)", "")


class Parser(ArgumentParser):
    """A parser whose errors suggest the nearest known name."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": HelpFormatter, **options})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the message with the nearest known names, without the usage; exits with 2."""
        parser = getattr(ex, "subcommand_parser", None) or self
        text = shorten(message)
        if "Did you mean" not in message:  # a parser inside this one may have suggested a name
            for got in dict.fromkeys(_UNKNOWN.findall(message)):
                name = nearest(got, [*parser._names()])
                if name is not None:
                    text += f"\n  Did you mean {name!r} instead of {got!r}?"
        if not self.exit_on_error:
            super().error(text, ex)
        self.exit(2, f"{parser.prog}: error: {text}\nAll options: {parser.prog} --help\n")

    def _names(self) -> Iterator[str]:
        """Yields every option and group of options, and every class that has a short name."""
        for key in self.get_defaults(skip_validation=True).keys():  # noqa: SIM118
            name = key.replace(".init_args", "")
            yield name
            if "." in name:
                yield name.split(".", 1)[0]
        for base in (Callback, Task, nnx.Module):
            for subclass in _subclasses(base):
                yield subclass.__name__
                yield from inspect.signature(subclass.__init__).parameters


def _subclasses(base: type[Any]) -> Iterator[type[Any]]:
    for subclass in base.__subclasses__():
        if subclass.__module__.startswith("nnx_alexnet."):
            yield subclass
        yield from _subclasses(subclass)


def nearest(got: str, known: list[str]) -> str | None:
    """Returns the known name that is nearest to an unknown one, or None.

    A name may be given without its group: `max_epochs` is near `trainer.max_epochs`.

    Example:
        >>> from nnx_alexnet.cli.base_parser import nearest
        >>> known = ["data", "data.name", "trainer.max_epochs"]
        >>> nearest("dat", known), nearest("max_epoch", known), nearest("xyz", known)
        ('data', 'trainer.max_epochs', None)
    """
    if near := difflib.get_close_matches(got, known, n=1):
        return near[0] if near[0] != got else None
    by_last_part = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    near = difflib.get_close_matches(got.rsplit(".", 1)[-1], by_last_part, n=1)
    return by_last_part[near[0]] if near else None


def shorten(message: str) -> str:
    """Returns an error of jsonargparse without its list of types.

    Example:
        >>> from nnx_alexnet.cli.base_parser import Parser, shorten
        >>> parser = Parser(exit_on_error=False)
        >>> _ = parser.add_argument("--limit", type=int | None)
        >>> parser.parse_args(["--limit", "many"])
        Traceback (most recent call last):
        argparse.ArgumentError: `limit` (=many) must be an integer or null.
    """
    found = _NO_TYPE.match(message)
    if found is None:
        return message
    key, value = found["key"], found["value"].strip()
    reasons = [reason.strip() for reason in re.split(r"^\s*- ", found["reasons"], flags=re.M)]
    types = [match[1] for reason in reasons if (match := _EXPECTED_TYPE.fullmatch(reason))]
    problems = dict.fromkeys(
        reason for reason in reasons if reason and not _EXPECTED_TYPE.fullmatch(reason)
    )
    if not problems:
        known = [_TYPES.get(name, name) for name in types]
        return f"`{key}` (={value}) must be {' or '.join(known)}."
    lines = [f"`{key}`:" if value.startswith("NestedArg") else f"`{key}` (={value}):"]
    for problem in problems:
        name = problem.removeprefix("Expected a dot import path string: ")
        text = problem if name == problem else f"{name} is not a class that can be imported."
        lines += [line.strip() for line in text.splitlines()]
    return "\n  ".join(lines)
