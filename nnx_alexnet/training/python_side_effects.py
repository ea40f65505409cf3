"""Detects Python side effects of a task or a model, which happen only while it is traced.

A compiled step repeats only the operations on arrays. A random number that NumPy draws during the
trace becomes a constant of the program, and a Python counter is never incremented again.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
from flax import nnx

from nnx_alexnet.data import generator_states, restored_generators
from nnx_alexnet.support import logger
from nnx_alexnet.task import ContractError


@contextmanager
def checked_trace(task: object, model: nnx.Module) -> Iterator[None]:
    """Raises an error for random numbers that JAX does not see; reports counters of the task.

    Args:
        task: the task that is traced inside the block.
        model: the user's object; `report_counters` checks the traced copy.

    Raises:
        ContractError: random numbers were drawn from a global generator, or from one that the task
            or the model holds.

    Example:
        >>> import numpy as np
        >>> from flax import nnx
        >>> from nnx_alexnet.training.python_side_effects import checked_trace
        >>> with checked_trace(object(), nnx.Linear(2, 2, rngs=nnx.Rngs(0))):
        ...     coin = np.random.random()
        Traceback (most recent call last):
        nnx_alexnet.task.contract.ContractError: The task or the model draws random numbers ...
    """
    attributes: Mapping[str, Any] = getattr(task, "__dict__", {})
    before = {name: _numbers(value) for name, value in attributes.items()}
    with restored_generators():
        states = pickle.dumps(generator_states(task, model))
        yield
        is_drawn = pickle.dumps(generator_states(task, model)) != states
    if is_drawn:
        raise ContractError(
            "The task or the model draws random numbers that JAX does not see, such as those of "
            "`random` and `numpy.random`. A step is compiled once, so every step would use the "
            "same numbers. Draw them with jax.random from the nnx.Rngs of the model: "
            "jax.random.uniform(model.rngs.noise(), shape)."
        )
    for name, value in attributes.items():
        if name in before and _numbers(value) != before[name]:
            _report(name, type(task).__name__)


def counters(model: nnx.Module) -> dict[str, int | float]:
    """Returns the Python numbers among the attributes of a model, by their path.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.training.python_side_effects import counters
        >>> counters(nnx.Dropout(0.5))["rate"]
        0.5
    """
    return {
        "/".join(map(str, (*path, name))): value
        for path, module in nnx.iter_modules(model)
        for name, value in vars(module).items()
        if type(value) in (int, float)
    }


def report_counters(model: nnx.Module, before: Mapping[str, int | float]) -> None:
    """Logs a warning if a call changed a number among the attributes of a model.

    Args:
        model: the model after the call.
        before: the `counters` of the model before the call.
    """
    for name, new in counters(model).items():
        old = before.get(name, new)
        # A larger change of an integer is probably the size of an array, equal in every call.
        is_counted = abs(new - old) == 1 if type(old) is type(new) is int else new != old
        if is_counted:
            _report(name, "the model")


@functools.cache  # reports each name once per process
def _report(name: str, owner: str) -> None:
    logger.warning(
        "`%s` of %s changed while a step was traced. A step is compiled once, so it keeps the "
        "value of the trace. Keep values that the loss depends on in an nnx.Variable of the model: "
        "self.step = nnx.Variable(jnp.array(0)), and self.step[...] += 1 in its __call__.",
        name, owner,
    )  # fmt: skip


def _numbers(value: Any) -> list[int | float]:
    """Returns the numbers in an attribute, which may be a list or a dict of them."""
    if not isinstance(value, int | float | list | tuple | dict):
        return []
    try:
        leaves = jax.tree.leaves(value)
    except (TypeError, ValueError):  # a dict whose keys cannot be sorted
        return []
    return [leaf for leaf in leaves if type(leaf) in (int, float)]
