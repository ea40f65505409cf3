"""The commands, and the checks of their arguments before anything is loaded."""

from __future__ import annotations

import difflib
import shutil
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from nnx_alexnet.cli.base_parser import Parser, choice, positive_int
from nnx_alexnet.cli.fit_options import cache_options, fit_options, summary_options
from nnx_alexnet.cli.suggestions import hint
from nnx_alexnet.version import __version__

_RUN = "Folder of a run, logs/<name>/version_<n>, or its name in ./logs"
_NEWEST = "By default, the newest run in ./logs."
_CHECKPOINT = "auto (the best if a metric ranked them, else the latest), best, last, or a step."


def parse(words: Sequence[str]) -> tuple[Any, list[str]]:
    """Checks the arguments of the command; prints the help, or a message about a wrong one.

    Args:
        words: the arguments.

    Returns:
        The values, with the name of the subcommand as `command`, and the arguments after it with
        options spelled as they are declared.

    Raises:
        SystemExit: with 0 after the help, with 2 after a wrong argument.
        ValueError: the user's own data or class cannot be imported.

    Example:
        >>> from nnx_alexnet.cli.parser import parse
        >>> parse(["runs", "--json"])[0].json
        True
    """
    if not words or words[0] not in COMMANDS:
        _report_command(main_parser(), words)
    name, *rest = words
    command = command_parser(name, rest)
    return command.parse_args(rest), command.spelled(rest)


def command_parser(name: str, words: Sequence[str] = ()) -> Parser:
    """Returns the parser of a subcommand.

    Args:
        name: one of `COMMANDS`.
        words: the arguments after it, on which the options of some commands depend.

    Raises:
        ValueError: the user's own data or class cannot be imported.

    Example:
        >>> from nnx_alexnet.cli.parser import command_parser
        >>> command_parser("runs").prog
        'nnx-alexnet runs'
    """
    parser = _PARSERS_FOR[name](words) if name in _PARSERS_FOR else _PARSERS[name]()
    parser.prog = f"nnx-alexnet {name}"
    parser.set_defaults(command=name)
    parser.elsewhere = partial(_commands_with, but=name)
    return parser


def main_parser() -> Parser:
    """Returns the parser of the options before a subcommand, whose help lists the subcommands.

    Example:
        >>> from nnx_alexnet.cli.parser import main_parser
        >>> main_parser().prog
        'nnx-alexnet'
    """
    texts = {name: str(command_parser(name).description) for name in COMMANDS}
    width = min(shutil.get_terminal_size().columns, 100) - 2
    rows = "\n".join(
        textwrap.fill(f"  {name:<10}{text.splitlines()[0]}", width, subsequent_indent=" " * 12)
        for name, text in texts.items()
    )
    parser = Parser(
        prog="nnx-alexnet",
        usage="nnx-alexnet COMMAND [OPTIONS]",
        description="Train AlexNet, or a Flax NNX model of your own, and use it.\n\n"
        f"Commands:\n{rows}",
        epilog="Options of a command: nnx-alexnet COMMAND --help",
    )
    parser.add_argument(
        "--version", action="version", version=__version__, help="Print the version."
    )
    return parser


def _report_command(parser: Parser, words: Sequence[str]) -> None:
    """Prints the help or the version, or the message for an unknown subcommand, and exits."""
    if words and words[0].startswith("-"):
        parser.elsewhere = partial(_commands_with, but="")
        parser.parse_args(words[:1])
    got = f"unknown command {words[0]!r}." if words else "a command is required."
    near = difflib.get_close_matches("".join(words[:1]), [*COMMANDS, *_OTHER_NAMES], 1)
    meant = hint([_OTHER_NAMES.get(name, name) for name in near], dashes="")
    parser.error(f"{got}{meant} Commands: {', '.join(COMMANDS)}.")


def _commands_with(option: str, but: str) -> list[str]:
    """Returns the other commands that have an option."""
    others = (name for name in COMMANDS if name != but)
    return [name for name in others if option in command_parser(name).option_names()]


def _evaluation_parser(split: str) -> Parser:
    parser = Parser(description=f"Evaluate a run on the {split} split.")
    parser.add_argument("run", nargs="?", help=f"{_RUN}. {_NEWEST}")
    parser.add_argument("--checkpoint", default="auto", help=_CHECKPOINT)
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    return parser


def _predict_parser() -> Parser:
    parser = Parser(description="Predict the classes of image files, with their probabilities.")
    parser.add_argument(
        "paths",
        nargs="+",
        help=f"{_RUN} (by default, the newest run in ./logs); then image files, and folders of "
        "image files.",
    )
    parser.add_argument(
        "--top_k", type=positive_int, default=1, metavar="N", help="Classes per image. (default: 1)"
    )
    parser.add_argument(
        "--format",
        type=choice("text", "json", "csv"),
        default="text",
        metavar="{text,json,csv}",
        help="Output format. (default: text)",
    )
    parser.add_argument("--output", help="The file to write. By default, standard output.")
    parser.add_argument("--checkpoint", default="auto", help=_CHECKPOINT)
    return parser


def _verify_parser() -> Parser:
    parser = Parser(
        description="Check the files of a run's checkpoints against their digests, and print a "
        "digest of each intact training state."
    )
    parser.add_argument(
        "run", nargs="?", help=f"Folder of a run, or of one checkpoint in it. {_NEWEST}"
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object per checkpoint.")
    return parser


def _runs_parser() -> Parser:
    parser = Parser(description="Print a table of runs with their metrics; compare or delete runs.")
    parser.add_argument("logs", nargs="?", default="logs", help="Folder of runs.")
    parser.add_argument(
        "--sort", help="Column or metric to sort by, such as val/accuracy; the best run is first."
    )
    parser.add_argument(
        "--filter",
        action="append",
        help="Only runs that meet a condition: status=failed, 'run=sweep/*', 'val/accuracy>0.9'. "
        "May be repeated.",
    )
    parser.add_argument(
        "--compare",
        nargs="*",
        metavar="RUN",
        help="Compare results and settings of these runs, or of all that meet the filters.",
    )
    parser.add_argument(
        "--delete",
        nargs="*",
        metavar="RUN",
        help="Delete these runs, or all that meet the filters, after asking.",
    )
    parser.add_argument("--yes", action="store_true", help="Delete without asking.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object per run.")
    return parser


def _report_parser() -> Parser:
    parser = Parser(
        description="Write a run as one HTML file: the results of its best checkpoint, curves, "
        "examples, configuration. With several runs, write their comparison."
    )
    parser.add_argument("run", nargs="*", help=f"{_RUN}; two to ten to compare them. {_NEWEST}")
    parser.add_argument(
        "--output",
        help="The file to write. By default, report.html in the folder of the run, or "
        "comparison.html in the folder that holds all of the runs.",
    )
    parser.add_argument(
        "--checkpoint",
        default="auto",
        help=f"The checkpoint to measure: {_CHECKPOINT[:-1]}; or none, to import none of the run's "
        "code and show only what it recorded.",
    )
    return parser


_PARSERS: dict[str, Callable[[], Parser]] = {
    "validate": partial(_evaluation_parser, "validation"),
    "test": partial(_evaluation_parser, "test"),
    "predict": _predict_parser,
    "verify": _verify_parser,
    "runs": _runs_parser,
    "report": _report_parser,
}
# The commands whose options depend on their other arguments.
_PARSERS_FOR: dict[str, Callable[[Sequence[str]], Parser]] = {
    "fit": fit_options,
    "summary": summary_options,
    "cache": cache_options,
}
COMMANDS = ("fit", *_PARSERS, "summary", "cache")
# Names that these commands have in other programs.
_OTHER_NAMES = {
    "train": "fit", "training": "fit", "eval": "validate", "evaluate": "validate",
    "val": "validate", "infer": "predict", "inference": "predict", "list": "runs", "ls": "runs",
    "check": "verify", "tune": "fit", "info": "summary", "model": "summary", "help": "--help",
}  # fmt: skip
