"""Turns the options of `fit`, `cache` and `summary` into a configuration.

The groups are `--distributed` (`initialize_distributed`), `--data` (`load_data`), `--model`,
`--task`, `--optimizer` (`create_optimizer`) and `--trainer` (`Trainer`). To add an option, add an
argument to that function or class. Data, models, tasks and callbacks may be import paths of the
user's own functions and classes: a `config.yaml` chooses what is imported, so use only those that
you trust.
"""

from __future__ import annotations

from flax import nnx
from jsonargparse import ActionConfigFile
from jsonargparse.typing import PositiveInt

from nnx_alexnet.cli.config_parser import ConfigParser
from nnx_alexnet.cli.data_option import add_data
from nnx_alexnet.cli.option_groups import GIVEN_BY_DATA, MODEL, NOT_OF_TRAINER, RECIPE, SHAPES, TASK
from nnx_alexnet.devices import initialize_distributed
from nnx_alexnet.optimizers import create_optimizer
from nnx_alexnet.task import Task
from nnx_alexnet.trainer import Trainer


def fit_parser(import_path: str | None = None) -> ConfigParser:
    """Returns the parser of `fit`.

    Args:
        import_path: of the user's own data, whose arguments become the options `--data.x`; None
            (the default) means `load_data`.

    Example:
        >>> from nnx_alexnet.cli.options import fit_parser
        >>> parser = fit_parser()
        >>> parser.parse_args(["--trainer.max_epochs", "3"]).trainer.max_epochs
        3
    """
    parser = ConfigParser(prog="nnx-alexnet fit")
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", default="never")
    parser.add_argument("--resume-accept", nargs="+", default=[])
    parser.add_argument("--resume-weights-only", action="store_true")
    parser.add_function_arguments(initialize_distributed, "distributed")
    add_data(parser, import_path)
    _add_model(parser)
    smoothing = {"label_smoothing": RECIPE["task.label_smoothing"]}
    task = {"class_path": TASK, "init_args": smoothing}
    parser.add_subclass_arguments(Task, "task", default=task)
    parser.add_function_arguments(create_optimizer, "optimizer")
    parser.add_class_arguments(Trainer, "trainer", skip=set(NOT_OF_TRAINER), instantiate=False)
    groups = ("optimizer.", "data.") if import_path is None else ("optimizer.",)
    parser.set_defaults({name: value for name, value in RECIPE.items() if name.startswith(groups)})
    return parser


def cache_parser(import_path: str | None = None) -> ConfigParser:
    """Returns the parser of `cache`.

    Args:
        import_path: see `fit_parser`.

    Example:
        >>> from nnx_alexnet.cli.options import cache_parser
        >>> cache_parser().parse_args(["--data.root", "photos"]).data.root
        'photos'
    """
    parser = ConfigParser(prog="nnx-alexnet cache")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--remove")
    add_data(parser, import_path)
    return parser


def summary_parser() -> ConfigParser:
    """Returns the parser of `summary`.

    Example:
        >>> from nnx_alexnet.cli.options import summary_parser
        >>> summary_parser().parse_args(["--num_classes", "3"]).num_classes
        3
    """
    parser = ConfigParser(prog="nnx-alexnet summary")
    _add_model(parser)
    for name, default in SHAPES.items():
        parser.add_argument(f"--{name}", type=PositiveInt, default=default)
    return parser


def _add_model(parser: ConfigParser) -> None:
    """Adds the group `--model`."""
    parser.add_subclass_arguments(
        nnx.Module,
        "model",
        default={"class_path": MODEL},
        skip={"rngs", *GIVEN_BY_DATA},
        instantiate=False,
    )
