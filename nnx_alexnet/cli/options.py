"""The options of `fit` and `cache`, derived from the signatures of the library.

The groups are `--distributed` (`initialize_distributed`), `--data` (`load_data`), `--model`,
`--task`, `--optimizer` (`create_optimizer`) and `--trainer` (`Trainer`). To add an option, add an
argument to that function or class. Data, models, tasks and callbacks may be import paths of the
user's own functions and classes: a `config.yaml` chooses what is imported, so use only those that
you trust.
"""

from __future__ import annotations

from flax import nnx
from jsonargparse import ActionConfigFile

from nnx_alexnet.cli.base_parser import Parser
from nnx_alexnet.cli.data_option import add_data
from nnx_alexnet.devices import initialize_distributed
from nnx_alexnet.optimizers import create_optimizer
from nnx_alexnet.task import Task
from nnx_alexnet.trainer import Trainer

# The arguments of a model that the data determine.
GIVEN_BY_DATA = ("num_classes", "image_size", "in_channels")
# The defaults of `fit` that differ from the library's, besides label smoothing. They were chosen
# for the digits, on 432 training images held out for that purpose.
RECIPE = {"data.batch_size": 32, "optimizer.schedule": "cosine"}


def fit_parser(import_path: str | None = None) -> Parser:
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
    parser = Parser(prog="nnx-alexnet fit", description="Train a model.")
    _add_run_options(parser)
    parser.add_function_arguments(initialize_distributed, "distributed")
    add_data(parser, import_path)
    add_model(parser)
    parser.add_subclass_arguments(
        Task,
        "task",
        default={
            "class_path": "nnx_alexnet.Classification",
            "init_args": {"label_smoothing": 0.1},
        },
    )
    parser.add_function_arguments(create_optimizer, "optimizer")
    parser.add_class_arguments(
        Trainer,
        "trainer",
        skip={"model", "data", "task", "optimizer", "seed", "config"},
        instantiate=False,
    )
    is_named = import_path is None
    parser.set_defaults({k: v for k, v in RECIPE.items() if is_named or not k.startswith("data.")})
    _describe_short_form(parser, "data", also="|IMPORT_PATH")
    _describe_short_form(parser, "optimizer")
    return parser


def cache_parser(import_path: str | None = None) -> Parser:
    """Returns the parser of `cache`.

    Args:
        import_path: see `fit_parser`.

    Example:
        >>> from nnx_alexnet.cli.options import cache_parser
        >>> cache_parser().parse_args(["--data.root", "photos"]).data.root
        'photos'
    """
    parser = Parser(description="Decode the files of a dataset in advance; list and remove caches.")
    parser.add_argument("--list", action="store_true", help="List the caches, newest first.")
    parser.add_argument(
        "--remove", metavar="CACHE", help="Remove the cache with this folder or folder name."
    )
    add_data(parser, import_path)
    _describe_short_form(parser, "data", also="|IMPORT_PATH")
    return parser


def _describe_short_form(parser: Parser, group: str, *, also: str = "") -> None:
    """Sets the help of `--data` or `--optimizer`."""
    action = parser._option_string_actions.get(f"--{group}")
    if action is None:  # the data have no arguments
        return
    action.metavar = f"NAME{also}|CONFIG"
    action.help = f"Short for --{group}.name NAME, or the path of a configuration file."
    if also:
        action.help += (
            " An import path, such as my_package.my_data, is the user's own function that "
            "returns a DataModule; its arguments become the options --data.x."
        )


def _add_run_options(parser: Parser) -> None:
    """Adds the options that belong to no group."""
    parser.add_argument("--config", action=ActionConfigFile, help="A config.yaml to start from.")
    parser.add_argument(
        "--seed", type=int, default=0, help="Seed of weights, data order and augmentation."
    )
    parser.add_argument(
        "--resume",
        default="never",
        help="never: start a new run; auto: resume the newest run of this name, or start one; or "
        "the folder of a run to resume, whose config.yaml then replaces the defaults.",
    )
    parser.add_argument(
        "--resume-accept",
        nargs="+",
        default=[],
        metavar="NAME",
        help="Intended differences from the resumed run, by the names that the error lists, such "
        "as optimizer or data.",
    )
    parser.add_argument(
        "--resume-weights-only",
        action="store_true",
        help="Start a new run with only the weights of the run given by --resume.",
    )


def add_model(parser: Parser) -> None:
    """Adds the group `--model`."""
    parser.add_subclass_arguments(
        nnx.Module,
        "model",
        default={"class_path": "nnx_alexnet.AlexNet"},
        skip={"rngs", *GIVEN_BY_DATA},
        instantiate=False,
        help=f"The model; {', '.join(GIVEN_BY_DATA)} are set by the data.",
    )
