"""The help, the names and the value checks of the options of `fit`, `cache` and `summary`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from nnx_alexnet.cli.base_parser import Parser, positive_int
from nnx_alexnet.cli.class_help import ClassHelp
from nnx_alexnet.cli.option_groups import (
    MODEL,
    SHAPES,
    Option,
    class_group,
    data_group,
    known_classes,
    not_a_class,
    option_groups,
    values_of,
)
from nnx_alexnet.cli.recipes import PREFIX, recipe_names
from nnx_alexnet.cli.signatures import read_keys
from nnx_alexnet.cli.value_types import may_have_keys
from nnx_alexnet.cli.words import import_path_in, with_long_forms

_CALLBACKS = "trainer.callbacks"
_COMMON = (
    "data", "data.batch_size", "model", "optimizer", "optimizer.learning_rate",
    "trainer.max_epochs", "trainer.name", "seed", "resume", "config",
)  # fmt: skip
_EXAMPLES = """\
Train a model: AlexNet on the digits, unless options choose others.

Examples:
  nnx-alexnet fit --data fashion_mnist --data.download true --seed 1
  nnx-alexnet fit --resume logs/alexnet/version_0
  nnx-alexnet fit --model my_package.MyModel --data my_package.my_data"""
_RUN_OPTIONS = [
    Option("seed", ("int",), "Seed of weights, data order and augmentation. (default: 0)"),
    Option(
        "resume",
        ("str",),
        "The folder of a run, whose config.yaml then replaces the defaults; auto: the newest run "
        "of this name, or a new one; never: a new run. (default: never)",
        "RUN",
    ),
    Option(
        "config",
        ("str",),
        "A config.yaml to start from, or a recipe of this package: "
        f"{', '.join(PREFIX + name for name in recipe_names())}. Options after it override it.",
        "FILE",
    ),
]


def fit_options(words: Sequence[str]) -> Parser:
    """Returns the parser that checks the options of `fit` before anything is loaded.

    Args:
        words: the arguments after `fit`. They choose the data and classes whose options exist.

    Raises:
        ValueError: the data or a class cannot be imported, or a recipe is unknown.

    Example:
        >>> from nnx_alexnet.cli.fit_options import fit_options
        >>> fit_options([]).parse_args(["--trainer.max_epochs", "3"]).seed is None
        True
    """
    data = import_path_in(with_long_forms(words))
    chosen = {group: _chosen(words, group) for group in ("model", "task")}
    groups = option_groups(data, chosen["model"], chosen["task"])
    parser = Parser(
        prog="nnx-alexnet fit",
        usage="nnx-alexnet fit [OPTIONS]",
        description=_EXAMPLES,
        open_prefixes=_open_prefixes(words),
    )
    parser._optionals.title = "Common options"
    known = {option.name: option for group in groups for option in group.options}
    common = {option.name: option for option in _RUN_OPTIONS} | known | _choosers()
    for name in _COMMON:
        if name in common:
            _add(parser, parser, common[name])
    for group in groups:
        heading = parser.add_argument_group(group.title)
        for option in group.options:
            if option.name not in (*_COMMON, "data.name", "optimizer.name"):
                _add(parser, heading, option)
    _add_resume(parser)
    _add_more(parser, words)
    return parser


def _choosers() -> dict[str, Option]:
    """Returns the options that choose data, model, optimizer and task."""
    names = ", ".join(read_keys("data/datasets.py", "DATASETS"))
    data = (
        f"{names}; hf:PATH or hf:NAME (Hugging Face); npz:PATH (arrays); or the import path of "
        "your own function that returns a DataModule, such as my_package.my_data, whose arguments "
        "become --data.x. (default: digits)"
    )
    known = ", ".join(read_keys("optimizers/registry.py", "OPTIMIZERS"))
    optimizers = f"{known}. (default: adam)"
    model = (
        "The import path of your own class, such as my_package.MyModel, whose arguments become "
        "--model.x. (default: AlexNet)"
    )
    return {
        "data": Option("data", ("str",), data, "NAME"),
        "model": Option("model", ("str",), model, "CLASS"),
        "optimizer": Option("optimizer", ("str",), optimizers, "NAME"),
    }


def _add(parser: Parser, heading: argparse._ActionsContainer, option: Option) -> None:
    names = [f"--{option.name}"]
    if option.name in ("data", "optimizer"):
        names.append(f"--{option.name}.name")
    if may_have_keys(option.kinds) and option.name != _CALLBACKS:
        parser.open_prefixes += (f"--{option.name}.",)
    is_list = any(kind.startswith(("list[", "Sequence[")) for kind in option.kinds)
    parser.add_option(heading, *names, kinds=option.kinds, help=option.help, value=option.value)
    if is_list:
        heading.add_argument(f"--{option.name}+", help=argparse.SUPPRESS)


def _add_resume(parser: Parser) -> None:
    group = parser.add_argument_group("Resuming")
    group.add_argument(
        "--resume-accept",
        nargs="+",
        metavar="NAME",
        help="Intended differences from the resumed run, by the names that the error lists, such "
        "as optimizer or data; schedule: train an extended run at the rate of its ended schedule.",
    )
    group.add_argument(
        "--resume-weights-only",
        action="store_true",
        help="Start a new run with only the weights of the run given by --resume.",
    )


def _add_more(parser: Parser, words: Sequence[str]) -> None:
    """Adds what prints and exits, and what is not listed."""
    group = parser.add_argument_group("More help")
    group.add_argument(
        "--print_config",
        nargs="?",
        const="",
        metavar="FLAGS",
        help="Print the configuration with all options and exit: a starting point for --config.",
    )
    _add_class_help(group, "model")
    _add_class_help(group, "task")
    _add_class_help(group, _CALLBACKS)
    hidden = ["trainer", "distributed", "task", "model.class_path", "task.class_path"]
    for name in hidden:
        group.add_argument(f"--{name}", help=argparse.SUPPRESS)
    for name in dict.fromkeys(_callbacks(words)):
        if name in known_classes(_CALLBACKS):
            for option in class_group(_CALLBACKS, name).options:
                if f"--{option.name}" not in parser._option_string_actions:
                    parser.add_option(
                        group, f"--{option.name}", kinds=option.kinds, help=argparse.SUPPRESS
                    )


def _add_class_help(group: argparse._ActionsContainer, name: str) -> None:
    group.add_argument(f"--{name}.help", action=ClassHelp, group=name, metavar="CLASS")


def cache_options(words: Sequence[str]) -> Parser:
    """Returns the parser that checks the options of `cache`.

    Args:
        words: the arguments after `cache`.

    Example:
        >>> from nnx_alexnet.cli.fit_options import cache_options
        >>> cache_options([]).parse_args(["--list"]).list
        True
    """
    parser = Parser(
        prog="nnx-alexnet cache",
        usage="nnx-alexnet cache [OPTIONS]",
        description="Decode the files of a dataset in advance; list and remove caches.",
    )
    parser.add_argument("--list", action="store_true", help="List the caches, newest first.")
    parser.add_argument(
        "--remove", metavar="CACHE", help="Remove the cache with this folder or folder name."
    )
    found = data_group(import_path_in(with_long_forms(words)))
    heading = parser.add_argument_group(found.title)
    for option in [_choosers()["data"], *found.options]:
        if option.name != "data.name":
            _add(parser, heading, option)
    return parser


def summary_options(words: Sequence[str]) -> Parser:
    """Returns the parser that checks the options of `summary`.

    Args:
        words: the arguments after `summary`.

    Example:
        >>> from nnx_alexnet.cli.fit_options import summary_options
        >>> summary_options([]).parse_args(["--num_classes", "3"]).num_classes
        3
    """
    parser = Parser(
        prog="nnx-alexnet summary",
        usage="nnx-alexnet summary [OPTIONS]",
        description="Print a model's layers, parameters and batch statistics.",
        open_prefixes=_open_prefixes(words),
    )
    _add(parser, parser, _choosers()["model"])
    texts = ["Number of classes.", "Height and width of the images.", "Channels of the images."]
    for (name, default), text in zip(SHAPES.items(), [*texts, "Images per batch."], strict=True):
        parser.add_argument(
            f"--{name}", type=positive_int, default=default, metavar="N",
            help=f"{text} (default: {default})",
        )  # fmt: skip
    found = class_group("model", _chosen(words, "model") or MODEL)
    heading = parser.add_argument_group(found.title)
    for option in found.options:
        _add(parser, heading, option)
    _add_class_help(heading, "model")
    heading.add_argument("--model.class_path", help=argparse.SUPPRESS)
    return parser


def _chosen(words: Sequence[str], group: str) -> str | None:
    """Returns the class that the words choose for a group, if they name one."""
    found = values_of(words, f"--{group}") + values_of(words, f"--{group}.class_path")
    name = found[-1] if found else ""
    if not re.fullmatch(r"[\w.]+", name) or name.endswith((".yaml", ".yml", ".json")):
        return None
    if "." not in name and name not in known_classes(group):
        if Path(name).exists():
            return None
        raise ValueError(not_a_class(group, name))
    return name


def _callbacks(words: Sequence[str]) -> list[str]:
    names = values_of(words, f"--{_CALLBACKS}") + values_of(words, f"--{_CALLBACKS}+")
    known = known_classes(_CALLBACKS) if names else {}
    for name in names:
        if re.fullmatch(r"[A-Za-z_]\w*", name) and name not in (*known, "null"):
            raise ValueError(not_a_class(_CALLBACKS, name))
    return [name.removeprefix("nnx_alexnet.callbacks.") for name in names]


def _open_prefixes(words: Sequence[str]) -> list[str]:
    """Returns the groups whose options depend on more than the words."""
    found = []
    has_file = any(values_of(words, f"--{name}") for name in ("config", "resume"))
    for group in ("model", "task"):
        given = values_of(words, f"--{group}")
        is_file = bool(given) and _chosen(words, group) is None
        if is_file or (has_file and not given):
            found.append(f"--{group}.")
    names = _callbacks(words)
    known = known_classes(_CALLBACKS) if names else {}
    if has_file or any(name not in known for name in names):
        found.append(f"--{_CALLBACKS}.")
    return found
