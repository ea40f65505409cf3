"""The configuration to record for a run that was started from Python."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from nnx_alexnet.callbacks import CallbackList, LearningRateMonitor
from nnx_alexnet.data import DataModule
from nnx_alexnet.task import Task
from nnx_alexnet.training.settings import Settings

_SCALE_BY = "scale_by_"  # optax's names of the parts of optimizers: `scale_by_adam`
_NAMES = {"rms": "rmsprop", "rss": "adagrad", "factored_rms": "adafactor"}
_NOT_OPTIMIZERS = ("schedule", "learning_rate")


def recorded_config(
    given: Mapping[str, Any] | None,
    *,
    settings: Settings,
    model: nnx.Module,
    task: Task,
    data: DataModule,
    transformation: optax.GradientTransformation,
    callbacks: CallbackList,
) -> dict[str, Any]:
    """Returns the configuration of a run; entries have the names that the command line uses.

    Args:
        given: the configuration to record; the tags are added. None records the other arguments.
        settings: the plain arguments of the Trainer.
        model: the model, of which the class is recorded.
        task: the task, of which the class is recorded.
        data: the data, of which the name and the batch size are recorded.
        transformation: the optimizer; see `optimizer_record`.
        callbacks: a `LearningRateMonitor` among them may know the learning rate.
    """
    tags = {"tags": [*settings.tags]} if settings.tags else {}
    if given is not None:
        added = {"trainer": {**(given.get("trainer") or {}), **tags}} if tags else {}
        return {**given, **added}
    schedules = [each.schedule for each in callbacks if isinstance(each, LearningRateMonitor)]
    return {
        "seed": settings.seed,
        "data": {"name": data.name, "batch_size": data.batch_size},
        "model": {"class": type(model).__name__},
        "task": {"class": type(task).__name__},
        "optimizer": optimizer_record(transformation, *schedules),
        "trainer": {
            "max_epochs": settings.max_epochs,
            "max_steps": settings.max_steps,
            "log_every_n_steps": settings.log_every_n_steps,
            "validate_every_n_epochs": settings.validate_every_n_epochs,
            "validate_every_n_steps": settings.validate_every_n_steps,
            **tags,
        },
    }


def optimizer_record(
    transformation: optax.GradientTransformation, *schedules: Any
) -> dict[str, Any]:
    """Returns the name, the learning rate and the schedule of an optimizer, as far as known.

    optax's transformations are functions. Their closures contain the arguments that they were
    built with; a part of another library may hide them.

    Args:
        transformation: the optimizer.
        schedules: rates or schedules that are known from elsewhere; None means unknown.

    Returns:
        `name`, `learning_rate` (the highest of all steps and groups of parameters) and `schedule`;
        an unknown entry is None.

    Example:
        >>> import optax
        >>> from nnx_alexnet.training.run_config import optimizer_record
        >>> optimizer_record(optax.sgd(optax.cosine_decay_schedule(0.5, 100)))
        {'name': 'sgd', 'learning_rate': 0.5, 'schedule': 'cosine_decay'}
    """
    names, rates = _parts(transformation)
    rates = [*(schedule for schedule in schedules if schedule is not None), *rates]
    return {"name": _name(names), **_highest([*map(_rate, rates)])}


def known_rates(transformation: optax.GradientTransformation) -> list[Any]:
    """Returns the constant learning rates and the schedules of an optimizer, as far as known.

    Example:
        >>> import optax
        >>> from nnx_alexnet.training.run_config import known_rates
        >>> known_rates(optax.sgd(0.5))
        [0.5]
    """
    return _parts(transformation)[1]


def updates_each_step(transformation: optax.GradientTransformation) -> bool:
    """Returns whether no part of an optimizer is an `optax.MultiSteps`.

    Example:
        >>> import optax
        >>> from nnx_alexnet.training.run_config import updates_each_step
        >>> updates_each_step(optax.sgd(0.5))
        True
        >>> updates_each_step(optax.MultiSteps(optax.sgd(0.5), every_k_schedule=2))
        False
    """
    return optax.MultiSteps.__name__ not in _parts(transformation)[0]


def _parts(transformation: optax.GradientTransformation) -> tuple[list[str], list[Any]]:
    """Returns the names of an optimizer's parts, and their learning rates and schedules."""
    names, rates = [], []
    for function, held in _closures((transformation.init, transformation.update), set()):
        part = function.__qualname__.partition(".")[0]
        names.append(part)
        if "inner_factory" in held:  # of `optax.inject_hyperparams`
            names.append(_SCALE_BY + getattr(held["inner_factory"], "__name__", "unknown"))
            given = {**held.get("numeric_hps", {}), **held.get("sched_hps", {})}
            rates += [given["learning_rate"]] if "learning_rate" in given else []
        elif part == "scale" and isinstance(held.get("step_size"), int | float):
            rates.append(-held["step_size"])
        elif part == "scale_by_learning_rate" and callable(held.get("learning_rate")):
            rates.append(held["learning_rate"])
    return names, rates


def _closures(value: Any, seen: set[int]) -> Iterator[tuple[Callable[..., Any], dict[str, Any]]]:
    """Yields the functions that a value contains, and the values that each of them captures."""
    if id(value) in seen or isinstance(value, str | bytes | int | float | np.ndarray | jax.Array):
        return
    seen.add(id(value))
    held: Mapping[str, Any] = {}
    if inspect.isfunction(value):
        held = _captured(value)
        yield value, dict(held)
    elif inspect.ismethod(value):  # of `optax.MultiSteps`
        held = vars(value.__self__)
        yield value, dict(held)
    elif isinstance(value, optax.schedules.WrappedSchedule):
        held = vars(value)
    elif isinstance(value, tuple | list):
        held = dict(enumerate(value))  # type: ignore[arg-type]
    elif isinstance(value, dict):
        held = value
    for each in held.values():
        yield from _closures(each, seen)


def _captured(function: Any) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    captured = {}
    for name, cell in cells:
        with contextlib.suppress(ValueError):  # of a function that is being defined
            captured[name] = cell.cell_contents
    return captured


def _name(parts: list[str]) -> str | None:
    """Returns the name of an optimizer, given those of its parts."""
    rules = [part.removeprefix(_SCALE_BY) for part in parts if part.startswith(_SCALE_BY)]
    rules = [*dict.fromkeys(rule for rule in rules if rule not in _NOT_OPTIMIZERS)]
    if rules == ["adam"] and "add_decayed_weights" in parts:
        return "adamw"
    if rules:
        return " + ".join(_NAMES.get(rule, rule) for rule in rules)
    return "sgd" if {"scale", "scale_by_schedule"} & {*parts} else None


def _highest(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the record of the highest rate; entries of None if one of several is unknown."""
    unknown = {"learning_rate": None, "schedule": None}
    if not records:
        return unknown
    if all(record == records[0] for record in records):
        return records[0]
    if any(record["learning_rate"] is None for record in records):
        return unknown
    return max(records, key=lambda record: float(record["learning_rate"]))


def _rate(rate: Any) -> dict[str, Any]:
    """Returns the `learning_rate` and the `schedule` of a constant rate or of a schedule."""
    if not callable(rate):
        return {"learning_rate": float(rate), "schedule": "constant"}
    function = getattr(rate, "schedule_fn", rate)  # of an `optax.schedules.WrappedSchedule`
    name = getattr(function, "__name__", type(function).__name__)
    if name == "schedule":  # of a schedule that `optax.<name>_schedule` returned
        name = function.__qualname__.partition(".")[0].removesuffix("_schedule")
    # The arguments of optax's schedules; calling a schedule would compile its operations.
    values = [
        value
        for function, held in _closures(rate, set())
        if not function.__qualname__.startswith("piecewise_")  # these scale the first value
        for key, value in held.items()
        if key.endswith("_value") and isinstance(value, int | float)
    ]
    return {"learning_rate": float(max(values)) if values else None, "schedule": name.strip("<>")}
