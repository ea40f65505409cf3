"""Builds models and trainers from a parsed configuration."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import yaml
from flax import nnx
from jsonargparse import Namespace

from nnx_alexnet.cli.data_option import build_data
from nnx_alexnet.cli.options import fit_parser
from nnx_alexnet.cli.words import IMPORT_PATH
from nnx_alexnet.data import DataModule, limited_data
from nnx_alexnet.devices import keep_freed_memory
from nnx_alexnet.optimizers import create_optimizer
from nnx_alexnet.support import check_integer, logger
from nnx_alexnet.trainer import Trainer
from nnx_alexnet.training import num_steps

# The side, in pixels. A step on smaller images may be so short that dispatching the next one early
# saves more time than keeping freed memory.
_LARGE_IMAGES = 32
# The arguments that choose batches, which determine the length of an epoch.
_LIMITS = ("limit_batches", "overfit_batches", "fast_dev_run")


def build_model(config: Namespace, seed: int, given: dict[str, Any]) -> nnx.Module:
    """Builds the model of a parsed configuration; for large images, freed memory is kept.

    Args:
        config: `class_path` and `init_args`.
        seed: the seed of the weights and of dropout.
        given: `num_classes`, `image_size` and `in_channels`, passed if the class has such an
            argument. If the data do not determine one, it is None, and the class's default applies.

    Returns:
        A new model.

    Raises:
        ValueError: the class has no default for an argument that the data do not determine.

    Example:
        >>> from nnx_alexnet.cli.options import fit_parser
        >>> from nnx_alexnet.cli.trainer_factory import build_model
        >>> config = fit_parser().parse_args([]).model
        >>> given = {"num_classes": 2, "image_size": 67, "in_channels": 1}
        >>> type(build_model(config, 0, given)).__name__
        'AlexNet'
    """
    module, _, name = config.class_path.rpartition(".")
    model_class = getattr(importlib.import_module(module), name)
    parameters = inspect.signature(model_class.__init__).parameters
    wanted = {name: value for name, value in given.items() if name in parameters}
    known = {name: value for name, value in wanted.items() if value is not None}
    arguments = {**config.get("init_args", {}), **known}
    for name in wanted.keys() - arguments.keys():
        if parameters[name].default is inspect.Parameter.empty:
            raise ValueError(
                f"`model` (={config.class_path}) requires `{name}`, which the data do not have. "
                "Classes are those of an integer `label` in memory. Use a model that does not "
                "have this argument, or has a default for it."
            )
    if (given.get("image_size") or 0) >= _LARGE_IMAGES:
        keep_freed_memory()
    model: nnx.Module = model_class(**arguments, rngs=nnx.Rngs(seed))
    return model


def build_trainer(config: Namespace, data: DataModule) -> Trainer:
    """Builds the trainer of a parsed configuration, with a new model.

    Args:
        config: what `fit_parser` parsed.
        data: the data module of `config.data`.
    """
    parser = fit_parser(config.data.get(IMPORT_PATH))
    parts = parser.instantiate(config)
    image = data.image_shape
    size, _, channels = image if image is not None and len(image) == 3 else (None, None, None)
    given = {
        "num_classes": parts.task.num_outputs(data),
        "image_size": size,
        "in_channels": channels,
    }
    arguments = dict(parts.trainer)
    record = yaml.safe_load(parser.dump(config))
    for name in ("distributed", "resume", "resume_accept", "resume_weights_only"):
        record.pop(name, None)  # of this process, not of the run
    optimizer = dict(parts.optimizer)
    limited = limited_data(data, **{name: arguments[name] for name in _LIMITS})
    if optimizer["schedule"] == "step" and optimizer["steps_per_epoch"] is None:
        num = _steps_per_epoch(limited)
        optimizer["steps_per_epoch"] = record["optimizer"]["steps_per_epoch"] = num
    elif optimizer["schedule"] in ("cosine", "linear", "one_cycle"):
        run_steps = _num_steps(arguments["max_epochs"], arguments["max_steps"], limited)
        if optimizer["num_steps"] is None:
            optimizer["num_steps"] = run_steps
            # When the run is resumed with another length, its schedule stays the same.
            record["optimizer"]["num_steps"] = run_steps
        else:
            _warn_of_short_schedule(optimizer["num_steps"], run_steps)
    return Trainer(
        build_model(parts.model, config.seed, given),
        data,
        task=parts.task,
        optimizer=create_optimizer(**optimizer),
        seed=config.seed,
        config=record,
        **arguments,
    )


def build_evaluator(config: Namespace) -> Trainer:
    """Builds a trainer that evaluates a run on all of its data, and writes nothing.

    It uses the devices of this machine, which may be others than those of the run.

    Args:
        config: the configuration of the run; changed in place.
    """
    config.trainer.log_dir, config.trainer.progress_bar = None, False
    config.trainer.limit_batches = config.trainer.overfit_batches = None
    config.trainer.fast_dev_run = False
    config.trainer.devices, config.trainer.shard_state = "auto", False
    return build_trainer(config, build_data(config.data))


def _num_steps(max_epochs: int | None, max_steps: int | None, data: DataModule) -> int | None:
    """Returns the number of steps of a run; None if the length of an epoch is unknown."""
    check_integer("max_epochs", max_epochs, also=(None,))
    check_integer("max_steps", max_steps, also=(None,))
    return num_steps(max_epochs, max_steps, data.train.num_batches)


def _steps_per_epoch(data: DataModule) -> int:
    """Returns the number of steps in which `drop_every` counts epochs."""
    if data.train.num_batches is None:
        raise ValueError(
            "`drop_every` counts epochs, whose number of steps is unknown for these data. Set "
            "--optimizer.steps_per_epoch, or 1 to count steps."
        )
    return data.train.num_batches


def _warn_of_short_schedule(schedule_steps: int, run_steps: int | None) -> None:
    """Warns of a schedule that ends before the run."""
    if run_steps is not None and schedule_steps < run_steps:
        logger.warning(
            "The schedule ends at step %d (`--optimizer.num_steps`), after which the learning rate "
            "is 0, but the run has %d steps. For a longer schedule, use `--optimizer.num_steps "
            "%d`.", schedule_steps, run_steps, run_steps,
        )  # fmt: skip
