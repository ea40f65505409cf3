"""Errors for a model, data and a task that do not fit together, with remedies."""

from __future__ import annotations

from collections.abc import Collection

import flax.errors
import flax.linen
from flax import nnx

from nnx_alexnet.support import shown
from nnx_alexnet.task import Task

# Remedies for errors of flax that do not mention one.
_HINTS = {
    flax.errors.TraceContextError: (
        ". A second model, such as a teacher, that is not a part of `model` must not change when "
        "it is called: call its eval() first."
    ),
    flax.errors.ScopeCollectionNotFound: (
        ". A Linen module in nnx.bridge.ToNNX has no parameters until its lazy_init(images[:1]) "
        "is called."
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
            ".lazy_init(images[:1])."
        )
    if isinstance(model, type) and issubclass(model, nnx.Module):
        return f" Pass an instance: {model.__name__}(..., rngs=nnx.Rngs(0))."
    return ""


def explain(error: Exception, keys: Collection[str]) -> str:
    """Returns why a model or a task cannot be traced with a batch, with a remedy if one is known.

    Args:
        error: the exception that tracing raised.
        keys: the keys of the batch.

    Example:
        >>> from nnx_alexnet.training.start_checks import explain
        >>> explain(TypeError("no"), ["image"])
        'TypeError: no'
        >>> explain(KeyError("x"), ["image", "label"])[:53]
        "there is no 'x'. A batch has the keys image, label; o"
    """
    if isinstance(error, KeyError) and error.args and error.args[0] not in keys:
        return (
            f"there is no {error}. A batch has the keys {', '.join(sorted(keys))}; other values "
            "of a dataset are dropped."
        )
    text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return text + next((hint for kind, hint in _HINTS.items() if isinstance(error, kind)), "")
