"""A parser whose messages are sentences about options; it loads nothing but argparse."""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from nnx_alexnet.cli.suggestions import advice, hint
from nnx_alexnet.cli.value_types import POSITIVE, Kinds, fits, in_words, one_of, placeholder

USAGE_ERROR = 2
_OPTION = re.compile(r"--?[^\W\d][^=\s]*")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows each placeholder once, and arguments without dashes in capitals.

    Lines are wrapped to the terminal, and names such as `nnx-alexnet` stay on one line.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = (
            textwrap.fill(line, width, initial_indent=indent, break_on_hyphens=False)
            for line in text.splitlines()
        )
        return "\n".join(lines)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _get_default_metavar_for_positional(self, action: argparse.Action) -> str:
        return action.dest.upper()

    def _format_action_invocation(self, action: argparse.Action) -> str:
        text = super()._format_action_invocation(action)
        if not action.option_strings or action.nargs == 0:
            return text
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


class Parser(argparse.ArgumentParser):
    """A parser of one command, or of all.

    Args:
        description: the first line of the help.
        open_prefixes: options that begin with one of these are not checked here.
        **options: of `argparse.ArgumentParser`.

    Example:
        >>> from nnx_alexnet.cli.base_parser import Parser, positive_int
        >>> parser = Parser(description="Predicts.")
        >>> _ = parser.add_argument("--top_k", type=positive_int, default=1)
        >>> parser.parse_args(["--top-k", "3"]).top_k
        3
    """

    def __init__(
        self,
        *,
        description: str = "",
        open_prefixes: Sequence[str] = (),
        add_help: bool = True,
        **options: Any,
    ) -> None:
        defaults = {"allow_abbrev": False, "formatter_class": HelpFormatter, "add_help": False}
        super().__init__(description=description, **{**defaults, **options})
        self.open_prefixes = tuple(open_prefixes)
        # Returns the other commands that have an option.
        self.elsewhere: Callable[[str], list[str]] | None = None
        self._positionals.title, self._optionals.title = "Arguments", "Options"
        if add_help:
            self.add_argument("-h", "--help", action="help", help="Show this help.")

    def add_option(
        self,
        group: argparse._ActionsContainer,
        *names: str,
        kinds: Kinds,
        help: str,
        value: str | None = None,
    ) -> None:
        """Adds an option whose value is checked, but not converted.

        Args:
            group: where the help lists it.
            *names: with their dashes.
            kinds: the values that it accepts.
            help: its text in the help.
            value: what stands for the value in the help (default: by `kinds`).
        """
        metavar = value or placeholder(kinds)
        text = help.replace("%", "%%")
        group.add_argument(*names, type=Value(kinds), metavar=metavar, help=text)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Returns the values of the options; exits with 2 after a wrong one."""
        words = self.spelled(list(args or ()))
        self._check_names(words)
        found, others = self.parse_known_args(words, namespace)
        previous = ""
        for word in others:  # options of classes that are not loaded have values
            if not previous.startswith("--") and not word.startswith("--"):
                self.error(f"unexpected argument {word!r}.")
            previous = word
        return found

    def spelled(self, words: Sequence[str]) -> list[str]:
        """Returns the words with hyphens and underscores of options as they are declared."""
        spellings = {name.replace("_", "-"): name for name in self._option_string_actions}
        result = list(words)
        for number, word in enumerate(words):
            if word == "--":
                break
            name, equals, value = word.partition("=")
            if name.startswith("--") and name not in self._option_string_actions:
                result[number] = spellings.get(name.replace("_", "-"), name) + equals + value
        return result

    def option_names(self) -> list[str]:
        """Returns the names of all options, without dashes."""
        return [name[2:] for name in self._option_string_actions if name.startswith("--")]

    def _check_names(self, words: Sequence[str]) -> None:
        for word in words:
            name = word.partition("=")[0].replace(".init_args", "")
            if word == "--":
                return
            if not _OPTION.fullmatch(name) or name in self._option_string_actions:
                continue
            if name.startswith(self.open_prefixes):
                continue
            bare = name.lstrip("-")
            known = [known for known in self.option_names() if not known.endswith("+")]
            near = advice(bare, known)
            others = [] if near or self.elsewhere is None else self.elsewhere(bare)
            also = f" It is an option of {_listed(others)}." if others else ""
            self.error(f"unknown option {name}.{near}{also}")

    def error(self, message: str) -> NoReturn:
        """Prints the message without the usage; exits with 2."""
        text = f"{self.prog}: error: {sentence(message)}\nAll options: {self.prog} --help\n"
        self.exit(USAGE_ERROR, text)


class Value:
    """The `type` of an option: checks a value, and returns it as text.

    Args:
        kinds: the values that the option accepts.

    Example:
        >>> from nnx_alexnet.cli.base_parser import Value
        >>> Value(("int", "None"))("ten")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: takes an integer or null, got 'ten'.
        >>> Value(("bool", "'auto'")).choices
        ['true', 'false', 'auto']
    """

    def __init__(self, kinds: Kinds) -> None:
        self.kinds = kinds
        self.choices = ["true", "false"] if "bool" in kinds else []
        self.choices += [kind[1:-1] for kind in kinds if kind[0] in "'\""]

    def __call__(self, value: str) -> str:
        """Returns the value, or raises the error that argparse expects."""
        if fits(value, self.kinds):
            return value
        near = difflib.get_close_matches(value, self.choices, n=1, cutoff=0.6)
        raise argparse.ArgumentTypeError(
            f"takes {in_words(self.kinds)}, got {value!r}.{hint(near, dashes='')}"
        )


def choice(*values: str) -> Value:
    """Returns the `type` of an option that accepts only these values.

    Example:
        >>> from nnx_alexnet.cli.base_parser import choice
        >>> choice("text", "json")("jsn")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: takes text or json, got 'jsn'. Did you mean json?
    """
    return Value(one_of(values))


def positive_int(value: str) -> int:
    """Returns a positive integer; the `type` of an option.

    Example:
        >>> from nnx_alexnet.cli.base_parser import positive_int
        >>> positive_int("3")
        3
    """
    return int(Value((POSITIVE,))(value))


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


# The errors of argparse, and sentences in their place.
_SENTENCES = [
    (r"argument ([^:/]+)\S*: (takes .*)", r"\1 \2"),
    (r"argument ([^:/]+)\S*: expected (?:one|at least one) argument", r"\1 requires a value."),
    (r"argument ([^:/]+)\S*: ignored explicit argument (.*)", r"\1 takes no value, got \2."),
]


def sentence(message: str) -> str:
    """Returns an error of argparse as a sentence, and others unchanged.

    Example:
        >>> from nnx_alexnet.cli.base_parser import sentence
        >>> sentence("argument --data.batch_size: expected one argument")
        '--data.batch_size requires a value.'
    """
    missing = message.removeprefix("the following arguments are required: ")
    if missing != message:
        return f"missing: {f'--{missing}' if '.' in missing else missing.upper()}."
    for pattern, template in _SENTENCES:
        if re.fullmatch(pattern, message, re.DOTALL):
            return re.sub(pattern, template, message, flags=re.DOTALL)
    return message
