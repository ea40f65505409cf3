"""A parser that builds a configuration, with messages like those of `base_parser`."""

from __future__ import annotations

import contextlib
import re
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from nnx_alexnet.cli.base_parser import USAGE_ERROR, sentence
from nnx_alexnet.cli.option_groups import class_group, known_classes, not_a_class
from nnx_alexnet.cli.suggestions import advice
from nnx_alexnet.cli.value_types import Kinds, in_words, kinds_of

# The lines of jsonargparse's errors.
_KEY = re.compile(r'Parser key "([\w.]+)"')
_CLASS = re.compile(r"Problem with given class_path '([\w.]+)'")
_UNKNOWN = re.compile(
    r"(?:Group '(?P<group>[\w.]+)' does not accept option '|Option '|[uU]nrecognized arguments: --)"
    r"(?P<name>[\w.]+)"
)
_NO_CLASS = re.compile(
    r"(?:Expected a dot import path string:|Not a valid subclass of \w+\. Got value:) (.*)"
)
_NOT_IMPORTED = re.compile(r"No module named .*|module .* has no attribute .*")
_OTHER_CLASS = re.compile(r"Import path (\S+) does not correspond to a subclass of (\w+)")
_REQUIRED = re.compile(r"the following arguments are required: (.+)")
_TYPE = re.compile(r"Expected a (?:<class '([\w.]+)'>|(\S.*?\]))(?:\. Got value: (.*))?")
_VALUE = re.compile(r"Given value: (.*)")
_WITHOUT_MEANING = ("Does not validate", "Subtypes:", "Errors:", "Given value type:")
_NAMES = {"NoneType": "None", "Sequence": "Sequence[str]", "Mapping": "Mapping[str, str]"}
_NAMES |= {"list": "list[str]", "dict": "dict[str, str]"}


class ConfigParser(ArgumentParser):
    """A parser of jsonargparse whose errors are sentences about options.

    Example:
        >>> from nnx_alexnet.cli.config_parser import ConfigParser
        >>> parser = ConfigParser()
        >>> _ = parser.add_argument("--limit", type=int | None)
        >>> parser.parse_args(["--limit", "3"]).limit
        3
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the message without the usage; exits with 2."""
        if not self.exit_on_error:  # a parser of a class, inside another one
            super().error(message, ex)
        self.exit(
            USAGE_ERROR,
            f"{self.prog}: error: {self.explain(message)}\nAll options: {self.prog} --help\n",
        )

    def explain(self, message: str) -> str:
        """Returns an error of this parser as a sentence about an option."""
        keys = self.get_defaults(skip_validation=True).keys()
        return explain(message, [key.replace(".init_args", "") for key in keys])


def explain(message: str, names: list[str]) -> str:
    """Returns an error of jsonargparse as a sentence about an option.

    Args:
        message: the error.
        names: the names of all options, for suggestions.

    Example:
        >>> from nnx_alexnet.cli.config_parser import explain
        >>> explain("Group 'trainer' does not accept option 'max_epoch'", ["trainer.max_epochs"])
        'unknown option --trainer.max_epoch. Did you mean --trainer.max_epochs?'
    """
    key, class_path, value = "", "", None
    kinds: list[str] = []
    others: list[str] = []
    for line in (line.strip().removeprefix("- ") for line in message.splitlines()):
        if found := _KEY.search(line):
            key = f"{key}.{found[1]}" if key and key != found[1] else found[1]
        if found := _CLASS.search(line):
            class_path = found[1]
        elif answer := _answer(line, key, class_path, names):
            return answer
        elif found := _TYPE.search(line):
            kinds += _kinds(found[1], found[2])
            value = found[3]
            if value is not None:
                break
        elif found := _VALUE.search(line):
            value = found[1]
        elif not line.startswith(_WITHOUT_MEANING) and not _KEY.fullmatch(line.rstrip(":")):
            others.append(line)
    if kinds and value is not None:
        return f"--{key} takes {in_words(tuple(dict.fromkeys(kinds)))}, got {value!r}."
    return f"--{key}: {others[0]}" if key and others else sentence(message)


def _answer(line: str, key: str, class_path: str, names: list[str]) -> str | None:
    """Returns the message for a line that is enough to explain the error; None for others."""
    if found := _UNKNOWN.search(line):
        name = ".".join(filter(None, [found["group"] or key, found["name"]]))
        return _unknown(name, class_path, names)
    if class_path and (found := _REQUIRED.search(line)):
        missing = " and ".join(f"--{key}.{name}" for name in found[1].split(", "))
        return f"--{key} (={class_path.rpartition('.')[2]}) needs {missing}."
    if found := _NO_CLASS.search(line):
        return not_a_class(key, found[1])
    if _NOT_IMPORTED.fullmatch(line):
        return f"--{key} (={class_path}) cannot be imported: {line}."
    if found := _OTHER_CLASS.search(line):
        return f"--{key} takes a subclass of {found[2]}, got {found[1]!r}."
    return None


def _kinds(type_name: str | None, annotation: str | None) -> Kinds:
    if annotation is not None:
        with contextlib.suppress(SyntaxError):
            return kinds_of(annotation)
        return (annotation,)
    name = (type_name or "").rpartition(".")[2]
    return (_NAMES.get(name, name),)


def _unknown(name: str, class_path: str, names: list[str]) -> str:
    """Returns the message for an unknown option, which may be an argument of a class."""
    group = name.rpartition(".")[0]
    if class_path and group in ("model", "task", "trainer.callbacks"):
        short = class_path.rpartition(".")[2]
        path = short if short in known_classes(group) else class_path
        with contextlib.suppress(ValueError):
            known = [option.name for option in class_group(group, path).options]
            options = ", ".join(f"--{each}" for each in known)
            return f"unknown option --{name}.{advice(name, known) or f' {short} has {options}.'}"
    return f"unknown option --{name}.{advice(name, names)}"
