"""The arguments of the command `nnx-alexnet`: its parser, and what may be written shorter."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from jsonargparse.typing import PositiveInt

from nnx_alexnet.cli.options import Parser, add_model, fit_parser, read_config
from nnx_alexnet.cli.prediction_output import Format
from nnx_alexnet.version import __version__


def command_parser() -> Parser:
    """Returns the parser of the whole command.

    Example:
        >>> from nnx_alexnet.cli.parser import command_parser
        >>> command_parser().parse_args(["runs", "--json"]).runs.json
        True
    """
    parser = Parser(
        prog="nnx-alexnet",
        description="Train AlexNet, or a Flax NNX model of your own, and use it.",
        allow_abbrev=False,
        version=__version__,
    )
    commands = parser.add_subcommands(dest="command")
    commands.add_subcommand("fit", fit_parser(), help="Train a model.")
    which_help = "auto (the best if a metric ranked them, else the latest), best, last, or a step."
    for name, text in [
        ("validate", "Evaluate a run on the validation split."),
        ("test", "Evaluate a run on the test split."),
        ("predict", "Write classes and probabilities of image files."),
    ]:
        sub = Parser(description=text, allow_abbrev=False)
        run_help = "Folder of a run, logs/<name>/version_<n>"
        if name == "predict":
            sub.add_argument("run", help=run_help)
            sub.add_argument("paths", nargs="+", help="Image files, and folders of them.")
            sub.add_argument("--top_k", type=PositiveInt, default=1, help="Classes per image.")
            sub.add_argument("--format", type=Format, default="text", help="Output format.")
            sub.add_argument("--output", help="File to write (default: standard output)")
        else:
            sub.add_argument("run", nargs="?", help=f"{run_help} (default: the newest in ./logs)")
            sub.add_argument("--json", action="store_true", help="Print JSON.")
        sub.add_argument("--checkpoint", default="auto", help=which_help)
        commands.add_subcommand(name, sub, help=text)
    text = "Check the digests of a run's checkpoints, and print one of each intact training state."
    sub = Parser(description=text, allow_abbrev=False)
    sub.add_argument("run", help="Folder of a run, or one checkpoint in it")
    sub.add_argument("--json", action="store_true", help="Print JSON.")
    commands.add_subcommand("verify", sub, help=text)
    text = "Print a table of all runs: how each ended, and its metrics."
    sub = Parser(description=text, allow_abbrev=False)
    sub.add_argument("logs", nargs="?", default="logs", help="Folder of runs")
    sub.add_argument(
        "--sort", help="Column or metric to sort by, such as val/accuracy; best first."
    )
    sub.add_argument("--json", action="store_true", help="Print one JSON object per run.")
    commands.add_subcommand("runs", sub, help=text)
    text = "Write a run as one HTML file: curves, pictures, metrics, configuration."
    sub = Parser(description=text, allow_abbrev=False)
    sub.add_argument("run", help="Folder of a run, logs/<name>/version_<n>")
    sub.add_argument("--output", help="The file to write (default: report.html in the run)")
    commands.add_subcommand("report", sub, help=text)
    text = "Print a model's layers, parameters and batch statistics."
    sub = Parser(description=text, allow_abbrev=False)
    add_model(sub)
    for name, default in [
        ("num_classes", 10), ("image_size", 96), ("in_channels", 1), ("batch_size", 10)
    ]:  # fmt: skip
        sub.add_argument(f"--{name}", type=PositiveInt, default=default)
    commands.add_subcommand("summary", sub, help=text)
    return parser


def complete(words: Sequence[str]) -> list[str]:
    """Returns the arguments with short forms written out, and files of configurations checked.

    Args:
        words: the arguments of the process.

    Raises:
        ValueError: a file of a configuration cannot be read.

    Example:
        >>> from nnx_alexnet.cli.parser import complete
        >>> complete(["fit", "--data", "mnist", "--optimizer=sgd"])
        ['fit', '--data.name', 'mnist', '--optimizer.name=sgd']
    """
    # `--data NAME` is short for `--data.name NAME`; a configuration file keeps its meaning.
    words = [re.sub(r"^--(data|optimizer)=(?=\w+$)", r"--\1.name=", word) for word in words]
    for number, word in enumerate(words[:-1]):
        if word in ("--data", "--optimizer") and re.fullmatch(r"\w+", words[number + 1]):
            words[number] += ".name"
    words = _with_saved_config(words)
    _check_config(words)
    return words


def _with_saved_config(words: list[str]) -> list[str]:
    """Puts the configuration of a run that is resumed before the options, which go before it."""
    for number, word in enumerate(words):
        name, _, value = word.partition("=")
        run = value or (words[number + 1] if number + 1 < len(words) else "")
        if name == "--resume" and "--config" not in words and words[:1] == ["fit"]:
            config = Path(os.path.expanduser(run)) / "config.yaml"  # noqa: PTH111  # never raises
            if config.is_file():
                saved = ["fit", "--config", str(config)]
                if "--resume-weights-only" in words:  # a new run has a schedule of its own length
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
        path = os.path.expanduser(value)  # noqa: PTH111  # never raises, nor do the next ones
        is_there = os.path.exists(path)  # noqa: PTH110
        is_pipe = is_there and not (os.path.isfile(path) or os.path.isdir(path))  # noqa: PTH112, PTH113
        # Options may be given in place of a file, and a pipe can be read only once.
        is_inline = not is_there and any(mark in value for mark in "{:\n")
        if not (is_pipe or is_inline):
            read_config(Path(path))
