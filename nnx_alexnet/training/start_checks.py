"""Errors for a model, data and a task that do not fit together, with remedies."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import flax.errors
import flax.linen
import jax
import jax.numpy as jnp
from flax import nnx

from nnx_alexnet.devices import named_leaves
from nnx_alexnet.models import missing_arguments
from nnx_alexnet.support import shown
from nnx_alexnet.task import Task

# Remedies for errors of flax that do not mention one.
_HINTS = {
    flax.errors.TraceContextError: (
        ". A second model, such as a teacher, that is not a part of `model` must not change when "
        "it is called: call its eval() first."
    ),
    flax.errors.ModifyScopeVariableError: (
        ". The Linen module updates variables in evaluation: let its mode be a field or an "
        "argument of `__call__`, such as `train`, and update them only in training."
    ),
}


def check_types(model: object, data: object, task: object) -> None:
    """Checks that a model is a module and a task is a task.

    Args:
        model: the first argument of a `Trainer`.
        data: the second one; the two may have been swapped.
        task: the task, None for the default.

    Raises:
        TypeError: one of them is something else.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.training.start_checks import check_types
        >>> check_types(nnx.Linear, (None, None), None)
        Traceback (most recent call last):
        TypeError: `model` (=...) must be an nnx.Module. Pass an instance: Linear(..., rngs=...
    """
    if not isinstance(model, nnx.Module):
        remedy = _model_remedy(model, data)
        raise TypeError(f"`model` (={shown(model)}) must be an nnx.Module.{remedy}")
    if task is not None and not isinstance(task, Task):
        remedy = ""
        if isinstance(task, type) and issubclass(task, Task):
            remedy = f" Pass an instance: {task.__name__}()."
        raise TypeError(f"`task` (={shown(task)}) must be an instance of a `Task`.{remedy}")


def _model_remedy(model: object, data: object) -> str:
    """Returns a remedy for a model that is not an nnx.Module."""
    if isinstance(data, nnx.Module):
        return " The model comes first: Trainer(model, data)."
    if isinstance(model, flax.linen.Module):
        return (
            " A Linen module becomes one with nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0))"
            ".lazy_init(inputs[:1]), where `inputs` is an example batch."
        )
    if isinstance(model, type) and issubclass(model, nnx.Module):
        return f" Pass an instance: {model.__name__}(..., rngs=nnx.Rngs(0))."
    return ""


def check_parameters(model: nnx.Module, wrt: Any = nnx.Param) -> None:
    """Checks that each parameter that is trained can have a gradient.

    Args:
        model: the model that is trained.
        wrt: the nnx filter of the parameters that are trained (default all).

    Raises:
        ValueError: a parameter is neither floating point nor complex.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from nnx_alexnet.training.start_checks import check_parameters
        >>> class Model(nnx.Module):
        ...     def __init__(self):
        ...         self.table = nnx.Param(jnp.arange(3))
        >>> check_parameters(Model())
        Traceback (most recent call last):
        ValueError: `model` has a parameter `table` of dtype int32, which has no gradient. Use ...
    """
    for name, leaf in named_leaves(nnx.state(model, wrt)).items():
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise ValueError(
                f"`model` has a parameter `{name}` of dtype {dtype}, which has no gradient. Use an "
                "nnx.Variable that is not an nnx.Param, or a floating-point dtype; or leave it "
                "out of `trainable`."
            )


def explain(error: Exception, keys: Collection[str], model: nnx.Module) -> str:
    """Returns why a model or a task cannot be traced with a batch, with a remedy if one is known.

    Args:
        error: the exception that tracing raised.
        keys: the keys of the batch.
        model: the model.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.training.start_checks import explain
        >>> model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
        >>> explain(TypeError("no"), ["image"], model)
        'TypeError: no'
        >>> explain(KeyError("x"), ["image", "label"], model)
        "the task reads 'x', which the batch does not have; its keys are image, label. Name ..."
    """
    if isinstance(error, KeyError) and error.args and error.args[0] not in keys:
        return (
            f"the task reads {error}, which the batch does not have; its keys are "
            f"{', '.join(sorted(keys))}. Name the data accordingly, or subclass `Task` and read "
            "other keys in its outputs(self, model, batch) and predict(self, model, batch)."
        )
    if (remedy := missing_arguments(model, error)) is not None:
        return remedy
    if isinstance(error, flax.errors.ScopeCollectionNotFound):
        names = _uninitialised(model)
        if names:
            return (
                f"`model` has Linen modules without variables in nnx.bridge.ToNNX: "
                f"{', '.join(names)}. Call lazy_init(inputs[:1]) of each, where `inputs` is an "
                "example of its inputs, or nnx.bridge.lazy_init(model, inputs[:1])."
            )
    text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return text + next((hint for kind, hint in _HINTS.items() if isinstance(error, kind)), "")


def _uninitialised(model: nnx.Module) -> list[str]:
    """Returns the bridges to Linen in a model that have no variables yet."""
    return [
        f"`{'/'.join(map(str, path))}`" if path else "the model itself"
        for path, module in nnx.iter_modules(model)
        if isinstance(module, nnx.bridge.ToNNX)
        and not jax.tree.leaves(nnx.state(module, nnx.Not(nnx.RngState)))
    ]
