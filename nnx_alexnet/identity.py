"""What a run is made of, so that a resumed one is told where it differs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from nnx_alexnet.leaves import describe_leaf, on_host

# Settings that change neither the examples nor what is computed from them.
_MAY_CHANGE = (
    "data.root",
    "data.num_workers",
    "data.download",
    "data.on_bad_sample",
    "data.keep_on_device",
)
# Which mode a module is in says nothing of how it was built.
_MODES = ("deterministic", "use_running_average")


def describe_module(module: nnx.Module) -> dict[str, Any]:
    """Returns how a module was built: the plain attributes of it and of all below it.

    Args:
        module: a model; its arrays are not looked at.

    Returns:
        JSON values by their path, `dropout.rate` for instance.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.identity import describe_module
        >>> describe_module(nnx.Dropout(0.5, rngs=nnx.Rngs(0)))["rate"]
        0.5
    """
    found = {}
    for path, part in nnx.iter_modules(module):
        prefix = "".join(f"{name}." for name in path)
        for name, value in plain_attributes(part).items():
            found[f"{prefix}{name}"] = value
    return found


def plain_attributes(value: object) -> dict[str, Any]:
    """Returns the public attributes of an object that JSON can hold, dtypes by their name."""
    attributes = {
        name: _plain(attribute)
        for name, attribute in sorted(vars(value).items())
        if not name.startswith("_") and name not in _MODES
    }
    kept = {name: attribute for name, attribute in attributes.items() if attribute is not _OTHER}
    return {"class": type(value).__qualname__, **kept}


def identify(
    model: nnx.Module,
    leaves: Mapping[str, Any],
    *,
    task: object,
    metrics: Sequence[str],
    data: Mapping[str, Any],
    seed: int,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns what two runs must share for one to go on where the other stopped.

    Args:
        model: the model.
        leaves: every array of model and optimizer by its path, before the first step; those that
            `optax.inject_hyperparams` keeps are compared by value.
        task: the task.
        metrics: the names of its metrics, whose sums a checkpoint holds.
        data: what the data module says of itself.
        seed: of the run.
        config: of the run; where the data lie, and how they are read, may change.

    Returns:
        Nested dicts of JSON values.
    """
    sections = {k: v for k, v in config.items() if k in ("model", "task", "optimizer", "data")}
    settings = {k: v for k, v in _flat(sections).items() if k not in _MAY_CHANGE}
    hyperparams = {n: float(v) for n, v in leaves.items() if "/hyperparams/" in n and not v.shape}
    identity = {
        "seed": seed,
        "config": settings,
        "data": {k: v for k, v in _flat(data).items() if k != "class_names"},
        "task": plain_attributes(task) | {"metrics": list(metrics)},
        "model": describe_module(model),
        "hyperparams": hyperparams,
        "arrays": {name: describe_leaf(leaf) for name, leaf in leaves.items()},
    }
    return dict(json.loads(json.dumps(identity, default=str)))  # as a checkpoint gives it back


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any], run_dir: object) -> None:
    """Raises a `ValueError` that lists how a run differs from the one it would go on with.

    Args:
        saved: what `identify` returned for the checkpoint.
        now: what it returns for this run.
        run_dir: the folder of the saved run, for the message.
    """
    if lines := differences(saved, now):
        raise ValueError(
            f"`resume` would go on with {run_dir}, which is another run. Undo what differs, or "
            'start a new run with resume="never"; load_checkpoint(run, model) before it (on the '
            "command line --resume-weights-only) gives it the weights. What differs:\n  "
            + "\n  ".join(lines)
        )


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], *, most: int = 12) -> list[str]:
    """Returns a line for each value in which two nested descriptions differ.

    Args:
        saved: of the checkpoint.
        now: of the run that resumes from it.
        most: how many lines to return; one more says how many there are besides.

    Example:
        >>> from nnx_alexnet.identity import differences
        >>> differences({"data": {"batch_size": 32}}, {"data": {"batch_size": 64}})
        ['data.batch_size: saved 32, now 64']
    """
    there, here = _flat(saved), _flat(now)
    lines = [
        f"{name}: saved {there.get(name, 'nothing')}, now {here.get(name, 'nothing')}"
        for name in dict.fromkeys([*there, *here])
        if there.get(name, _OTHER) != here.get(name, _OTHER)
    ]
    rest = len(lines) - most
    return [*lines[:most], f"and {rest} more"] if rest > 0 else lines


_OTHER = object()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list) and all(_plain(item) is not _OTHER for item in value):
        return [_plain(item) for item in value]
    if isinstance(value, type | np.dtype):  # jnp.float32 is a class
        return getattr(value, "name", None) or np.dtype(value).name
    return _OTHER


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = item
    return flat


def describe_optimizer(optimizer: optax.GradientTransformation, parameters: Any) -> str:
    """Returns what an optimizer computes, constants such as its rates included, as text.

    Args:
        optimizer: its functions hide their arguments, but not from a trace.
        parameters: a tree of arrays, or of their shapes and dtypes.
    """
    shapes = jax.eval_shape(lambda tree: tree, parameters)
    try:
        state = jax.eval_shape(optimizer.init, shapes)
        traced = [
            jax.make_jaxpr(optimizer.init)(shapes),
            jax.make_jaxpr(optimizer.update)(shapes, state, shapes),
        ]
        constants = [on_host(jnp.asarray(x)).tolist() for jaxpr in traced for x in jaxpr.consts]
    except Exception as error:  # it takes more, which a train step of the user's own gives it
        return type(error).__name__
    return re.sub(r"0x[0-9a-f]+", "", f"{traced} {constants}")  # without addresses of functions
