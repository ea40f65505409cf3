"""`load_model`: rebuilds the model of a run, and loads its weights."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from flax import nnx

from nnx_alexnet.checkpoints.choosing import choose_checkpoint
from nnx_alexnet.checkpoints.identity import describe_module
from nnx_alexnet.checkpoints.items import read_loop
from nnx_alexnet.checkpoints.loading import load_chosen
from nnx_alexnet.checkpoints.same_run import differences
from nnx_alexnet.support import absolute_path, read_whole

_REMEDY = "Build the model, and call load_checkpoint(run, model)."


def load_model(run: str | Path, *, which: str | int = "auto") -> nnx.Module:
    """Builds the model of a run, and loads its parameters, statistics and random keys.

    The class of the model is imported, so use only runs that you trust. Its arguments are those
    that the command line recorded, and those that the model keeps in attributes of the same names,
    such as `image_size`; others have their defaults. The result is compared with the saved model,
    layer by layer, so it never has other arguments than the model that was trained.

    Args:
        run: a run folder, `logs/<name>/version_<n>`.
        which: the checkpoint; see `load_checkpoint` (default "auto").

    Returns:
        The model in training mode, as a new one. A `Trainer` sets the mode that it needs; call
        `model.eval()` before you call the model yourself.

    Raises:
        ValueError: there is no such run or checkpoint, the class cannot be imported, or the saved
            arguments do not determine the model; the message names an alternative.
        OSError: the checkpoint could not be read, though nothing shows that it is damaged.

    Example:
        >>> from nnx_alexnet.checkpoints.rebuilding import load_model
        >>> load_model("nowhere/version_0")
        Traceback (most recent call last):
        ValueError: `run` (='nowhere/version_0') does not exist. It must be the folder of a ...
    """
    folder = absolute_path(run, "run")
    choice = choose_checkpoint(run, which, argument="run")
    loop, config = read_loop(choice.path), _read_config(folder)
    saved = loop["identity"]["model"]
    model_class = _imported(loop["model_class"], folder)
    arguments = {**_given_by_data(loop["data"]), **saved, **_init_args(config)}
    parameters = inspect.signature(model_class.__init__).parameters
    arguments = {name: arguments[name] for name in parameters if name in arguments}
    if "rngs" in parameters:
        arguments["rngs"] = nnx.Rngs(0)  # overwritten by the saved keys
    try:
        model: nnx.Module = model_class(**arguments)
    except Exception as error:  # whatever the class of the user raises
        raise ValueError(
            f"`run` (={str(run)!r}) does not determine the arguments of {model_class.__name__}: "
            f"{type(error).__name__}: {error} {_REMEDY}"
        ) from error
    lines = differences(saved, json.loads(json.dumps(describe_module(model), default=str)))
    if lines:
        raise ValueError(
            f"`run` (={str(run)!r}) does not record all arguments of {model_class.__name__} with "
            f"which it was trained. {_REMEDY} Differences:\n  " + "\n  ".join(lines)
        )
    load_chosen(choice, model)
    return model


def _read_config(folder: Path) -> Mapping[str, Any]:
    """Returns the configuration of a run; empty if there is none."""
    try:
        config = yaml.safe_load(read_whole(folder / "config.yaml"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, Mapping) else {}


def _init_args(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the arguments of the model that the command line recorded."""
    model = config.get("model")
    arguments = model.get("init_args") if isinstance(model, Mapping) else None
    return arguments if isinstance(arguments, Mapping) else {}


def _given_by_data(about: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments that the command line takes from the data, as far as known."""
    image = about.get("image") or []
    is_image = len(image) == 3  # height, width, channels
    sizes = {"image_size": image[0], "in_channels": image[2]} if is_image else {}
    num = about.get("num_outputs")
    return sizes if num is None else {"num_classes": num, **sizes}


def _imported(path: str, folder: Path) -> Any:
    """Returns the class of a run's model."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"`run` (={str(folder)!r}) has a model of the class {path}, which cannot be imported: "
            f"{error}. {_REMEDY}"
        ) from error
