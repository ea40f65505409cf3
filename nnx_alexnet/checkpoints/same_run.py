"""Describes a run, so that resuming can list what differs."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx, traverse_util

from nnx_alexnet.checkpoints.program_digests import fingerprint, float_constants
from nnx_alexnet.devices import describe_leaf, usual_promotion
from nnx_alexnet.optimizers import updated_once
from nnx_alexnet.support import logger

# Settings that change neither the examples nor what is computed from them.
_MAY_CHANGE = (
    "data.root",
    "data.num_workers",
    "data.download",
    "data.on_bad_sample",
    "data.keep_on_device",
)
# Differences that give an epoch another order of examples, or other batches.
_ORDER = ("seed", "data.batch_size", "data.drop_last", "data.examples.train")
# What decides how a program is traced, and what it computes.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "clu", "nnx-alexnet")
_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_random_seed_offset",
)
_HARMLESS_FLAGS = ("--xla_force_host_platform_device_count", "--xla_dump", "--xla_hlo_profile")
_MOST_LINES = 12
# Fingerprints that hold the size of a batch.
_OF_BATCHES = ("evaluation", "train_step")
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
        >>> from nnx_alexnet.checkpoints.same_run import describe_module
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
    """Returns what two runs must share for one to go on where the other stopped.

    Args:
        model: the model.
        leaves: every array of model and optimizer by its path, before the first step; those that
            `optax.inject_hyperparams` keeps are compared by value.
        constants: those arrays of the model that training leaves as they are, and that are neither
            parameters nor statistics; compared by digest.
        task: the task.
        metrics: the names of its metrics, whose sums a checkpoint holds.
        data: what the data module says of itself.
        samples: by split, a digest of its examples or of a sample of them; None: not known.
        programs: fingerprints of what a step, the optimizer and an evaluation compute.
        seed: of the run.
        config: of the run; where the data lie, and how they are read, may change.

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
    # As a checkpoint gives it back; as text, NaN is equal to itself.
    return dict(json.loads(json.dumps(identity, default=str), parse_constant=str))


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


class Difference(NamedTuple):
    """A value in which two runs differ."""

    name: str
    saved: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name}: saved {self.saved}, now {self.now}"


def check_same(
    loop: Mapping[str, Any],
    now: Mapping[str, Any],
    run_dir: object,
    accept: Sequence[str] = (),
) -> list[Difference]:
    """Checks that a run is the one that a checkpoint is of.

    Args:
        loop: the JSON of the checkpoint, with its `identity` and the position of the run.
        now: what `identify` returns for this run.
        run_dir: the folder of the saved run, for the message.
        accept: names of differences to accept, whole or their beginnings: "optimizer", "versions".

    Returns:
        The differences that were accepted.

    Raises:
        ValueError: the runs differ in what is not accepted, or cannot be; it lists each difference.
    """
    found, notes = compare(loop["identity"], now)
    accepted = [each for each in found if _is_accepted(each.name, accept)]
    refused = [each for each in found if each not in accepted]
    if refused:
        names = ", ".join(dict.fromkeys(repr(_subject(each.name)) for each in refused))
        is_traced = any(each.name.startswith("programs.") for each in refused)
        traced = " (`programs` are digests of what is computed)" if is_traced else ""
        unused = [name for name in accept if not any(_is_accepted(e.name, [name]) for e in found)]
        stray = f" ({unused} in `accept` match none of them)" if unused else ""
        raise ValueError(
            f"`resume` cannot continue {run_dir}, which is another run: the differences are "
            f"listed below. Undo them, or accept them by name{stray}: "
            f"fit(resume=..., accept=[{names}]), "
            'or --resume-accept on the command line. Or start a new run with resume="never"; to '
            "start it from these weights, call load_checkpoint(run, model) first, or use "
            f"--resume-weights-only on the command line. Differences{traced}:\n  "
            + "\n  ".join(_shortened(refused))
        )
    for each in accepted:
        if each.name.startswith("arrays."):
            raise ValueError(
                f"`accept` (={list(accept)}) cannot make {run_dir} continue with other arrays: "
                f"{each}. To use its weights in a new run, call load_checkpoint(run, model)."
            )
        if each.name in _ORDER and loop.get("step_in_epoch"):
            raise ValueError(
                f"`accept` (={list(accept)}) cannot make {run_dir} continue with another order of "
                f"the examples in the middle of an epoch: {each}. Resume it unchanged until the "
                "epoch has ended."
            )
    if accepted:
        logger.warning(
            "Resuming %s despite these accepted differences: %s",
            run_dir,
            "; ".join(map(str, accepted)),
        )
    if notes:
        logger.info("Not compared with the run that is resumed: %s.", "; ".join(notes))
    return accepted


def compare(saved: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[Difference], list[str]]:
    """Returns in what two identities differ, and what of them cannot be compared.

    Example:
        >>> from nnx_alexnet.checkpoints.same_run import compare
        >>> compare({"seed": 0, "platform": "cpu"}, {"seed": 1, "platform": "cpu"})
        ([Difference(name='seed', saved=0, now=1)], [])
    """
    there, here = dict(saved), dict(now)
    notes = []
    platforms = there.pop("platform", None), here.pop("platform", None)
    if platforms[0] != platforms[1] or there.get("versions") != here.get("versions"):
        what = "on another kind of device" if platforms[0] != platforms[1] else "by other versions"
        notes.append(f"what a step computes, because it was traced {what}")
        there.pop("programs", None)
        here.pop("programs", None)
    programs = [dict(each.pop("programs", {})) for each in (there, here)]
    rows = [each.pop("rows", None) for each in programs]
    if rows[0] != rows[1]:  # other batches, or the same ones padded for other devices
        notes.append("the train step and the evaluation, because their batches have another size")
        programs = [{k: v for k, v in each.items() if k not in _OF_BATCHES} for each in programs]
    there["programs"], here["programs"] = programs
    digests = there.pop("samples", {}), here.pop("samples", {})
    for split in dict.fromkeys([*digests[0], *digests[1]]):
        if digests[0].get(split) is None or digests[1].get(split) is None:
            notes.append(f"the examples of `{split}`, which may differ each time they are read")
        else:
            there[f"samples.{split}"], here[f"samples.{split}"] = (d[split] for d in digests)
    found = _differences(there, here)
    names = {each.name for each in found}
    if names & {"programs.optimizer", "programs.evaluation"}:  # both are parts of a step
        found = [each for each in found if each.name != "programs.train_step"]
    return found, notes


def _is_accepted(name: str, accept: Sequence[str]) -> bool:
    short = _without_section(name)
    return any(
        found == each or found.startswith((f"{each}.", f"{each}_", f"{each}/"))
        for each in accept
        for found in (name, short)
    )


def _without_section(name: str) -> str:
    """Returns what a difference is of: several sections describe the same part of a run."""
    section, _, rest = name.partition(".")
    return rest if section in ("config", "programs", "hyperparams", "constants") else name


def _subject(name: str) -> str:
    """Returns the shortest name by which a difference is accepted."""
    return re.split(r"[./]", _without_section(name).removesuffix("_constants"))[0]


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns a line for each value in which two nested descriptions differ, the first twelve.

    Args:
        saved: of the checkpoint.
        now: of the run that resumes from it.

    Example:
        >>> from nnx_alexnet.checkpoints.same_run import differences
        >>> differences({"data": {"batch_size": 32}}, {"data": {"batch_size": 64}})
        ['data.batch_size: saved 32, now 64']
    """
    return _shortened(_differences(saved, now))


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    there, here = flatten(saved), flatten(now)
    return [
        Difference(name, there.get(name, "nothing"), here.get(name, "nothing"))
        for name in dict.fromkeys([*there, *here])
        if there.get(name, _OTHER) != here.get(name, _OTHER)
    ]


def _shortened(found: Sequence[Difference]) -> list[str]:
    lines = [str(each) for each in found[:_MOST_LINES]]
    rest = len(found) - len(lines)
    return [*lines, f"and {rest} more"] if rest else lines


_OTHER = object()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list) and all(_plain(item) is not _OTHER for item in value):
        return [_plain(item) for item in value]
    if isinstance(value, type):
        held = getattr(value, "dtype", None)  # jnp.float32 is a class
        is_dtype = issubclass(value, np.generic) or isinstance(held, np.dtype)
        return np.dtype(value).name if is_dtype else value.__qualname__
    return value.name if isinstance(value, np.dtype) else _OTHER


def flatten(value: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the leaves of nested dicts by their dotted names."""
    return dict(traverse_util.flatten_dict(dict(value), sep="."))


def describe_optimizer(
    optimizer: optax.GradientTransformation, model: nnx.Module
) -> dict[str, Any]:
    """Returns what an optimizer computes: its functions hide their arguments, but not from a trace.

    Args:
        optimizer: it must work for the model's parameters.
        model: only its shapes are used.

    Returns:
        `optimizer`, a fingerprint of its two functions, and `optimizer_constants`, the numbers in
        them: rates, decays, the values of a schedule.

    Example:
        >>> import optax
        >>> from flax import nnx
        >>> from nnx_alexnet.checkpoints.same_run import describe_optimizer
        >>> model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        >>> describe_optimizer(optax.sgd(0.1), model)["optimizer_constants"]
        [-0.1]
    """

    def update(parameters: Any, gradients: Any, state: Any) -> Any:
        return updated_once(optimizer, gradients, state, parameters)

    parameters = nnx.as_pure(nnx.state(model, nnx.Param))
    with usual_promotion():
        begun, state = jax.make_jaxpr(optimizer.init, return_shape=True)(parameters)
        updated = jax.make_jaxpr(update)(parameters, parameters, state)
    return {
        "optimizer": f"{fingerprint(begun)[:8]}{fingerprint(updated)[:8]}",
        "optimizer_constants": float_constants(updated),
    }
