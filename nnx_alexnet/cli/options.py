"""The options of the command line, derived from signatures, and what is built from them.

`fit` has the groups `--distributed` (`initialize_distributed`), `--data` (`load_data`), `--model`,
`--task`, `--optimizer` (`create_optimizer`) and `--trainer` (`Trainer`). Models, tasks and
callbacks may be import paths of your own: a `config.yaml` chooses what is imported, so use only
those that you trust.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from flax import nnx
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace

from nnx_alexnet.callbacks import Callback
from nnx_alexnet.checkpoints import Choice, choose_checkpoint, read_loop
from nnx_alexnet.data import DataModule, load_data
from nnx_alexnet.devices import initialize_distributed
from nnx_alexnet.optimizers import create_optimizer
from nnx_alexnet.runs import find_runs
from nnx_alexnet.support import absolute_path, check_integer, logger
from nnx_alexnet.task import Task
from nnx_alexnet.trainer import Trainer
from nnx_alexnet.training import DEFAULT_EPOCHS

# What the data says of a model, and the keys that the seed gives it.
GIVEN_BY_DATA = ("num_classes", "image_size", "in_channels")
# Where `fit` departs from the library's defaults, with label smoothing: chosen for the digits, on
# 432 training images held out for the purpose.
RECIPE = {"data.batch_size": 32, "optimizer.schedule": "cosine"}
# How jsonargparse speaks of a name that it does not know.
_UNKNOWN = re.compile(
    r"(?:(?:[Oo]ption|[Kk]ey|Group) '|[Uu]nrecognized arguments: --|import path string: )([\w.]+)"
)


class Parser(ArgumentParser):
    """A parser whose errors name the nearest option that there is."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the message with the nearest right names, without the long usage; exits with 2."""
        parser = getattr(ex, "subcommand_parser", None) or self
        if "Did you mean" not in message:  # a parser inside this one may have said it
            known = list(parser._names())
            for got in dict.fromkeys(_UNKNOWN.findall(message)):
                near = difflib.get_close_matches(got, known, n=1)
                near = near or difflib.get_close_matches(got.rsplit(".", 1)[-1], known, n=1)
                if near:
                    message += f"\n  Did you mean {near[0]!r} instead of {got!r}?"
        if not self.exit_on_error:
            super().error(message, ex)
        prog = parser.prog.replace(" [options]", "")
        self.exit(2, f"{prog}: error: {message}\nAll options: {prog} --help\n")

    def _names(self) -> Iterator[str]:
        """Every option, each also by its last part, and every class that has a short name."""
        for name in self.get_defaults(skip_validation=True).keys():  # noqa: SIM118
            yield name
            yield name.rsplit(".", 1)[-1]
        for base in (Callback, Task, nnx.Module):
            for subclass in _subclasses(base):
                yield subclass.__name__
                yield from inspect.signature(subclass.__init__).parameters


def _subclasses(base: type[Any]) -> Iterator[type[Any]]:
    for subclass in base.__subclasses__():
        if subclass.__module__.startswith("nnx_alexnet."):
            yield subclass
        yield from _subclasses(subclass)


def fit_parser() -> Parser:
    """Returns the parser of `fit`, whose options are those of the library.

    Example:
        >>> from nnx_alexnet.cli.options import fit_parser
        >>> parser = fit_parser()
        >>> parser.parse_args(["--trainer.max_epochs", "3"]).trainer.max_epochs
        3
    """
    parser = Parser(prog="nnx-alexnet fit", description="Train a model.", allow_abbrev=False)
    parser.add_argument("--config", action=ActionConfigFile, help="A config.yaml to start from.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of weights, order, augmentation.")
    parser.add_argument(
        "--resume",
        default="never",
        help="never: a new run; auto: resume the newest run of this name, or start one; or the "
        "folder of a run to resume, whose config.yaml is then the default.",
    )
    parser.add_argument(
        "--resume-accept",
        nargs="+",
        default=[],
        metavar="NAME",
        help="Intended differences from the run that is resumed, by the names that the error "
        "lists, such as optimizer or data.",
    )
    parser.add_argument(
        "--resume-weights-only",
        action="store_true",
        help="Start a new run that has only the weights of the run named by --resume.",
    )
    parser.add_function_arguments(initialize_distributed, "distributed")
    parser.add_function_arguments(load_data, "data")
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
    parser.set_defaults(RECIPE)
    return parser


def add_model(parser: Parser) -> None:
    """Adds the group `--model`."""
    parser.add_subclass_arguments(
        nnx.Module,
        "model",
        default={"class_path": "nnx_alexnet.AlexNet"},
        skip={"rngs", *GIVEN_BY_DATA},
        instantiate=False,
        help=f"The model; {', '.join(GIVEN_BY_DATA)} come from the data.",
    )


def build_model(config: Namespace, seed: int, given: dict[str, Any]) -> nnx.Module:
    """Builds the model of a parsed configuration.

    Args:
        config: `class_path` and `init_args`.
        seed: of the weights and of dropout.
        given: `num_classes`, `image_size`, `in_channels`: passed where the class takes them.

    Returns:
        A new model.

    Example:
        >>> from nnx_alexnet.cli.options import build_model, fit_parser
        >>> config = fit_parser().parse_args([]).model
        >>> given = {"num_classes": 2, "image_size": 67, "in_channels": 1}
        >>> type(build_model(config, 0, given)).__name__
        'AlexNet'
    """
    module, _, name = config.class_path.rpartition(".")
    model_class = getattr(importlib.import_module(module), name)
    taken = inspect.signature(model_class.__init__).parameters
    given = {name: value for name, value in given.items() if name in taken}
    arguments = {**config.get("init_args", {}), **given}
    model: nnx.Module = model_class(**arguments, rngs=nnx.Rngs(seed))
    return model


def build_trainer(config: Namespace, data: DataModule) -> Trainer:
    """Builds the trainer of a parsed configuration over its data.

    Args:
        config: what `fit_parser` parsed.
        data: the data module of `config.data`.

    Returns:
        A trainer with a new model.
    """
    parser = fit_parser()
    parts = parser.instantiate(config)
    size, _, channels = data.image_shape
    given = {"num_classes": data.num_classes, "image_size": size, "in_channels": channels}
    arguments = dict(parts.trainer)
    optimizer = dict(parts.optimizer)
    record = yaml.safe_load(parser.dump(config))
    if optimizer["schedule"] == "cosine":
        length = _num_steps(arguments["max_epochs"], arguments["max_steps"], data)
        given_steps = optimizer["num_steps"]
        if given_steps is None:
            optimizer["num_steps"] = length
            # A resumed run of another length would have another schedule.
            record["optimizer"]["num_steps"] = length
        elif length is not None and given_steps < length:
            logger.warning(
                "The schedule ends at step %d (`--optimizer.num_steps`), and the learning rate is "
                "0 from then on, but the run has %d steps. For a longer schedule give "
                "`--optimizer.num_steps %d`, on resume with `--resume-accept optimizer`.",
                given_steps, length, length,
            )  # fmt: skip
    for name in ("distributed", "resume", "resume_accept", "resume_weights_only"):
        record.pop(name, None)  # of this start, not of the run
    return Trainer(
        build_model(parts.model, config.seed, given),
        data,
        task=parts.task,
        optimizer=create_optimizer(**optimizer),
        seed=config.seed,
        config=record,
        **arguments,
    )


def _num_steps(max_epochs: int | None, max_steps: int | None, data: DataModule) -> int | None:
    """Returns the steps of a run, None where the data do not tell how many an epoch has."""
    check_integer("max_epochs", max_epochs, also=(None,))
    check_integer("max_steps", max_steps, also=(None,))
    if max_epochs is None and max_steps is None:
        max_epochs = DEFAULT_EPOCHS
    steps = data.train.num_batches
    limits = [max_steps, max_epochs * steps if max_epochs and steps else None]
    return min((limit for limit in limits if limit is not None), default=None)


def load_run(run: str | None, checkpoint: str) -> tuple[Choice, Namespace, dict[str, Any]]:
    """Finds a run, its configuration, and what its checkpoint says of the data.

    Args:
        run: the folder of a run; None takes the newest below `logs`.
        checkpoint: `"auto"`, `"best"`, `"last"`, or a step.

    Returns:
        The checkpoint, the parsed `config.yaml`, and the checkpoint's `data`.

    Raises:
        ValueError: there is no such run, or it was not started by this command.
    """
    runs = [absolute_path(run, "run")] if run is not None else find_runs("logs")[-1:]
    if not runs or not (runs[0] / "config.yaml").is_file():
        raise ValueError(
            f"`run` (={run!r}) must be the folder of a run, `logs/<name>/version_<n>`, with its "
            "config.yaml; without it the newest run below ./logs is taken."
        )
    config = read_config(runs[0] / "config.yaml")
    if not isinstance(config.get("model"), dict) or "class_path" not in config["model"]:
        raise ValueError(
            f"`run` (={str(runs[0])!r}) was started from Python, so only Python can build its "
            "model again: build it, then load_checkpoint(run, model)."
        )
    chosen = choose_checkpoint(runs[0], checkpoint)
    parser = fit_parser()
    parser.exit_on_error = False
    try:
        parsed = parser.parse_object(config)
    except ArgumentError as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{runs[0] / 'config.yaml'} cannot be used: {text}") from error
    return chosen, parsed, read_loop(chosen.path)["data"]


def read_config(path: Path) -> dict[str, Any]:
    """Returns what a configuration file holds.

    Args:
        path: of a YAML file.

    Raises:
        ValueError: it cannot be read, is not YAML, or holds no options.

    Example:
        >>> from pathlib import Path
        >>> from nnx_alexnet.cli.options import read_config
        >>> read_config(Path("nothing.yaml"))
        Traceback (most recent call last):
        ValueError: nothing.yaml cannot be read: No such file or directory.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # no YAML, or no UTF-8
        raise ValueError(f"{path} is not YAML in UTF-8: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ValueError(
            f"{path} must hold options by their names; it is a {type(config).__name__}."
        )
    return config
