"""Parses the arguments of the command `nnx-alexnet`, including their short forms."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from jsonargparse.typing import PositiveInt

from nnx_alexnet.cli.base_parser import Parser
from nnx_alexnet.cli.data_option import option_for
from nnx_alexnet.cli.options import add_model, cache_parser, fit_parser
from nnx_alexnet.cli.prediction_output import Format
from nnx_alexnet.cli.saved_run import read_config
from nnx_alexnet.version import __version__

_RUN = "Folder of a run, logs/<name>/version_<n>"
_CHECKPOINT = "auto (the best if a metric ranked them, else the latest), best, last, or a step."


def command_parser(import_path: str | None = None) -> Parser:
    """Returns the parser of the whole command.

    Args:
        import_path: see `fit_parser`.

    Example:
        >>> from nnx_alexnet.cli.parser import command_parser
        >>> command_parser().parse_args(["runs", "--json"]).runs.json
        True
    """
    parser = Parser(
        prog="nnx-alexnet",
        description="Train AlexNet, or a Flax NNX model of your own, and use it.",
        version=__version__,
    )
    commands = parser.add_subcommands(dest="command")
    for name, command in {
        "fit": fit_parser(import_path),
        "validate": _evaluation_parser("validation"),
        "test": _evaluation_parser("test"),
        "predict": _predict_parser(),
        "verify": _verify_parser(),
        "runs": _runs_parser(),
        "report": _report_parser(),
        "summary": _summary_parser(),
        "cache": cache_parser(import_path),
    }.items():
        commands.add_subcommand(name, command, help=command.description)
        command.prog = f"nnx-alexnet {name}"
    return parser


def _evaluation_parser(split: str) -> Parser:
    parser = Parser(description=f"Evaluate a run on the {split} split.")
    parser.add_argument("run", nargs="?", help=f"{_RUN}. By default, the newest run in ./logs.")
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
    parser.add_argument("--top_k", type=PositiveInt, default=1, help="Classes per image.")
    parser.add_argument("--format", type=Format, default="text", help="Output format.")
    parser.add_argument("--output", help="The file to write. By default, standard output.")
    parser.add_argument("--checkpoint", default="auto", help=_CHECKPOINT)
    return parser


def _verify_parser() -> Parser:
    parser = Parser(
        description="Check the files of a run's checkpoints against their digests, and print a "
        "digest of each intact training state."
    )
    parser.add_argument("run", help="Folder of a run, or of one checkpoint in it.")
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
        help="Delete these runs, or all that meet the filters, after a question.",
    )
    parser.add_argument("--yes", action="store_true", help="Delete without a question.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object per run.")
    return parser


def _report_parser() -> Parser:
    parser = Parser(
        description="Write a run as one HTML file: the results of its best checkpoint on its own "
        "data, curves, examples, configuration. With several runs, write their comparison."
    )
    parser.add_argument("run", nargs="+", help=f"{_RUN}; two to ten to compare them.")
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


def _summary_parser() -> Parser:
    parser = Parser(description="Print a model's layers, parameters and batch statistics.")
    add_model(parser)
    for name, default, text in [
        ("num_classes", 10, "Number of classes."),
        ("image_size", 96, "Height and width of the images."),
        ("in_channels", 1, "Channels of the images."),
        ("batch_size", 10, "Images per batch."),
    ]:
        parser.add_argument(f"--{name}", type=PositiveInt, default=default, help=text)
    return parser


def complete(words: Sequence[str]) -> list[str]:
    """Expands the short forms of arguments, and checks configuration files.

    Args:
        words: the arguments of the process.

    Raises:
        ValueError: a configuration file cannot be read.

    Example:
        >>> from nnx_alexnet.cli.parser import complete
        >>> complete(["fit", "--data", "mnist", "--optimizer=sgd"])
        ['fit', '--data.name', 'mnist', '--optimizer.name=sgd']
    """
    # `--data NAME` is short for `--data.name NAME`, unless the value is a configuration file.
    words = list(words)
    for number, word in enumerate(words):
        option, equals, value = word.partition("=")
        if not equals and number + 1 < len(words):
            value = words[number + 1]
        if option == "--data":
            words[number] = option_for(value) + word.removeprefix(option)
        elif option == "--optimizer" and re.fullmatch(r"\w+", value):
            words[number] = f"{option}.name" + word.removeprefix(option)
    words = _with_saved_config(words)
    _check_config(words)
    return words


def _with_saved_config(words: list[str]) -> list[str]:
    """Puts the configuration of a resumed run before the options, which override it."""
    for number, word in enumerate(words):
        name, _, value = word.partition("=")
        run = value or (words[number + 1] if number + 1 < len(words) else "")
        if name == "--resume" and "--config" not in words and words[:1] == ["fit"]:
            config = Path(os.path.expanduser(run)) / "config.yaml"  # noqa: PTH111  # never raises
            if config.is_file():
                saved = ["fit", "--config", str(config)]
                if "--resume-weights-only" in words:  # the schedule fits the length of the new run
                    saved += ["--optimizer.num_steps", "null"]
                return [*saved, *words[1:]]
    return words


def _check_config(words: list[str]) -> None:
    """Raises a `ValueError` if the file after `--config` cannot be used."""
    for number, word in enumerate(words):
        name, _, value = word.partition("=")
        value = value or (words[number + 1] if number + 1 < len(words) else "")
        if name != "--config" or value in ("", "-"):  # "-" is standard input
            continue
        path = os.path.expanduser(value)  # noqa: PTH111  # these functions of os.path never raise
        is_there = os.path.exists(path)  # noqa: PTH110
        is_pipe = is_there and not (os.path.isfile(path) or os.path.isdir(path))  # noqa: PTH112, PTH113
        # Options may be given instead of a file, and a pipe can be read only once.
        is_inline = not is_there and any(mark in value for mark in "{:\n")
        if not (is_pipe or is_inline):
            read_config(Path(path))
