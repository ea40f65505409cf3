"""Describes a run by everything that determines its numbers."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx, traverse_util

from nnx_alexnet.checkpoints.program_digests import fingerprint, float_constants
from nnx_alexnet.devices import describe_leaf, usual_promotion
from nnx_alexnet.optimizers import updated_once

# Settings that change neither the examples nor what is computed from them.
_MAY_CHANGE = (
    "data.root",
    "data.num_workers",
    "data.download",
    "data.on_bad_sample",
    "data.keep_on_device",
    "data.cache",
)
# These determine how a program is traced and what it computes.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "clu", "nnx-alexnet")
_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_random_seed_offset",
)
_HARMLESS_FLAGS = ("--xla_force_host_platform_device_count", "--xla_dump", "--xla_hlo_profile")
# The mode of a module is not a part of how it was built.
_MODES = ("deterministic", "use_running_average")
_NOT_PLAIN = object()


def identify(
    model: nnx.Module,
    leaves: Mapping[str, Any],
    constants: Mapping[str, np.ndarray[Any, Any]],
    *,
    task: object,
    metrics: Sequence[str],
    data: Mapping[str, Any],
    samples: Mapping[str, str | None],
    programs: Mapping[str, Any],
    seed: int,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns what two runs must share so that one can continue the other.

    Args:
        model: the model.
        leaves: every array of model and optimizer by its path, before the first step. Those that
            `optax.inject_hyperparams` keeps are compared by value.
        constants: the arrays of the model that training does not change and that are neither
            parameters nor statistics; compared by digest.
        task: the task.
        metrics: the names of its metrics, whose sums a checkpoint holds.
        data: the description that the data module gives of itself.
        samples: by split, a digest of its examples or of a sample of them; None if unknown.
        programs: fingerprints of what a step, the optimizer and an evaluation compute.
        seed: seed of the run.
        config: configuration of the run; the location of the data, and how they are read, may
            change.

    Returns:
        Nested dicts of JSON values.
    """
    sections = {k: v for k, v in config.items() if k in ("model", "task", "optimizer", "data")}
    settings = {k: v for k, v in flatten(sections).items() if k not in _MAY_CHANGE}
    hyperparams = {
        name: float(np.real(leaf))
        for name, leaf in leaves.items()
        if "/hyperparams/" in name and not leaf.shape
    }
    identity = {
        "seed": seed,
        "config": settings,
        "data": {k: v for k, v in flatten(data).items() if k != "class_names"},
        "samples": dict(samples),
        "task": plain_attributes(task) | {"metrics": list(metrics)},
        "model": describe_module(model),
        "hyperparams": hyperparams,
        "constants": {name: _digest(array) for name, array in constants.items()},
        "arrays": {name: describe_leaf(leaf) for name, leaf in leaves.items()},
        "programs": dict(programs),
        "jax": _settings(),
        "versions": {package: _version(package) for package in _PACKAGES},
        "platform": jax.default_backend(),
    }
    # As a checkpoint returns it; as text, NaN is equal to itself.
    return dict(json.loads(json.dumps(identity, default=str), parse_constant=str))


def describe_module(module: nnx.Module) -> dict[str, Any]:
    """Returns how a module was built: the plain attributes of it and of all its submodules.

    Args:
        module: a model; its arrays are ignored.

    Returns:
        JSON values by their path, such as `dropout.rate`.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.checkpoints.identity import describe_module
        >>> describe_module(nnx.Dropout(0.5, rngs=nnx.Rngs(0)))["rate"]
        0.5
    """
    found = {}
    for path, part in nnx.iter_modules(module):
        prefix = "".join(f"{name}." for name in path)
        for name, value in plain_attributes(part).items():
            found[f"{prefix}{name}"] = value
    return found


def describe_optimizer(
    optimizer: optax.GradientTransformation, model: nnx.Module, wrt: Any = nnx.Param
) -> dict[str, Any]:
    """Returns what an optimizer computes, found by tracing, since its functions hide arguments.

    Args:
        optimizer: an optimizer that works for the model's parameters.
        model: only its shapes are used.
        wrt: the nnx filter of the parameters that are trained (default all).

    Returns:
        `optimizer`, a fingerprint of its two functions, and `optimizer_constants`, the numbers in
        them: rates, decays, the values of a schedule.

    Example:
        >>> import optax
        >>> from flax import nnx
        >>> from nnx_alexnet.checkpoints.identity import describe_optimizer
        >>> model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        >>> describe_optimizer(optax.sgd(0.1), model)["optimizer_constants"]
        [-0.1]
    """

    def update(parameters: Any, gradients: Any, state: Any) -> Any:
        return updated_once(optimizer, gradients, state, parameters)

    parameters = nnx.as_pure(nnx.state(model, wrt))
    with usual_promotion():
        begun, state = jax.make_jaxpr(optimizer.init, return_shape=True)(parameters)
        updated = jax.make_jaxpr(update)(parameters, parameters, state)
    return {
        "optimizer": f"{fingerprint(begun)[:8]}{fingerprint(updated)[:8]}",
        "optimizer_constants": float_constants(updated),
    }


def plain_attributes(value: object) -> dict[str, Any]:
    """Returns the public attributes of an object that JSON can represent; dtypes by their name."""
    attributes = {
        name: _plain(attribute)
        for name, attribute in sorted(vars(value).items())
        if not name.startswith("_") and name not in _MODES
    }
    kept = {
        name: attribute for name, attribute in attributes.items() if attribute is not _NOT_PLAIN
    }
    return {"class": type(value).__qualname__, **kept}


def flatten(value: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the leaves of nested dicts by their dotted names."""
    return dict(traverse_util.flatten_dict(dict(value), sep="."))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list) and all(_plain(item) is not _NOT_PLAIN for item in value):
        return [_plain(item) for item in value]
    if isinstance(value, type):
        held = getattr(value, "dtype", None)  # jnp.float32 is a class
        is_dtype = issubclass(value, np.generic) or isinstance(held, np.dtype)
        return np.dtype(value).name if is_dtype else value.__qualname__
    return value.name if isinstance(value, np.dtype) else _NOT_PLAIN


def _digest(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()[:16]


def _settings() -> dict[str, Any]:
    """Returns the settings of JAX and XLA that change what a program computes."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    settings = {name: getattr(jax.config, name, None) for name in _SETTINGS}
    kept = [flag for flag in sorted(flags) if not flag.startswith(_HARMLESS_FLAGS)]
    return {**settings, "XLA_FLAGS": " ".join(kept)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
