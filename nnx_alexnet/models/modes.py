"""Training mode and evaluation mode, as attributes of layers and arguments of `__call__`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

# The attributes that hold the mode of flax's layers; True is evaluation.
_ATTRIBUTES = ("deterministic", "use_running_average")
# Arguments of `__call__` for the mode, and whether True means training.
_ARGUMENTS = {
    **dict.fromkeys(("train", "training", "is_train", "is_training"), True),
    **dict.fromkeys(("train_mode", "training_mode"), True),
    **dict.fromkeys(("deterministic", "use_running_average", "inference", "is_inference"), False),
    **dict.fromkeys(("eval", "is_eval", "eval_mode", "evaluation", "is_test"), False),
}


class Definitions(NamedTuple):
    """A model as the compiled steps use it.

    Attributes:
        train: the graph in training mode.
        evaluation: the graph in evaluation mode.
        state: the variables, the same for both, without intermediates that were sown earlier.
    """

    train: nnx.GraphDef[Any]
    evaluation: nnx.GraphDef[Any]
    state: nnx.State[Any, Any]


def define(model: nnx.Module) -> Definitions:
    """Splits a model into its two graphs and its state, without changing its mode.

    A layer that is in evaluation mode now (`use_running_average=True`, `deterministic=True`, or
    after its `eval()`) was frozen by the user, and stays in evaluation mode during training.

    Args:
        model: any module.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.models.modes import define
        >>> model = nnx.Dropout(0.5, deterministic=True, rngs=nnx.Rngs(0))
        >>> found = define(model)
        >>> found.train == found.evaluation
        True
    """
    # A second set of modules with the same arrays.
    twin = nnx.merge(*nnx.split(model))
    # Sown values accumulate with each call, and belong to the call that made them.
    nnx.pop(twin, nnx.Intermediate)
    frozen = _in_evaluation(twin)
    twin.train()
    for _, module, name in frozen:
        setattr(module, name, True)
    train = nnx.graphdef(twin)
    twin.eval()
    evaluation, state = nnx.split(twin)
    return Definitions(train, evaluation, state)


def frozen_layers(model: nnx.Module) -> tuple[list[str], bool]:
    """Returns the layers that stay in evaluation mode during training.

    Args:
        model: any module.

    Returns:
        Their paths, and whether they are all layers that have a mode.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.models.modes import frozen_layers
        >>> model = nnx.Sequential(nnx.Dropout(0.5), nnx.Dropout(0.5, deterministic=True))
        >>> frozen_layers(model)
        (['layers/1'], False)
    """
    frozen = {path for path, _, _ in _in_evaluation(model)}
    with_mode = {
        "/".join(map(str, path))
        for path, module in nnx.iter_modules(model)
        if any(getattr(module, name, None) is not None for name in _ATTRIBUTES)
    }
    return sorted(frozen), bool(frozen) and frozen == with_mode


def _in_evaluation(model: nnx.Module) -> list[tuple[str, nnx.Module, str]]:
    """Returns path, module and attribute of each layer in evaluation mode."""
    return [
        ("/".join(map(str, path)), module, name)
        for path, module in nnx.iter_modules(model)
        for name in _ATTRIBUTES
        if _is_true(getattr(module, name, None))
    ]


def _is_true(value: object) -> bool:
    return isinstance(value, bool) and value


def tell_mode(model: nnx.Module, *, training: bool) -> None:
    """Passes the mode to a model's `__call__`, if it has an argument for it.

    If `__call__` has a bool argument such as `train`, `is_training`, `deterministic`,
    `use_running_average`, `inference` or `is_eval`, calls without it get the value for the mode.
    So a task can call `model(image)` whether the mode of the model is an argument or is set by
    `train()` and `eval()`.

    Args:
        model: the model, which is changed in place: its class becomes a subclass that is otherwise
            equal.
        training: whether the mode is training.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.models.modes import tell_mode
        >>> class Model(nnx.Module):
        ...     def __call__(self, image, train=False):
        ...         return train
        >>> model = Model()
        >>> tell_mode(model, training=True)
        >>> model(None), model(None, train=False)
        (True, False)
    """
    # The bridge passes its arguments to the `__call__` of the Linen module.
    is_linen = isinstance(model, nnx.bridge.ToNNX)
    told: Any = type(getattr(model, "to_nnx__module", model))
    values: tuple[tuple[str, Any], ...] = tuple(
        (name, _ARGUMENTS[name] == training) for name in _mode_arguments(told)
    )
    if is_linen and training:  # otherwise its statistics are not updated
        values = (*values, ("mutable", ("batch_stats",)))
    if values:
        model.__class__ = _with_defaults(type(model), told, values)


@functools.cache
def _mode_arguments(called: type[Any]) -> Sequence[str]:
    """Returns the arguments for the mode in a class's `__call__`."""
    try:
        parameters = inspect.signature(called.__call__).parameters
    except (AttributeError, TypeError, ValueError):
        return ()
    return [
        name
        for name, parameter in parameters.items()
        if name in _ARGUMENTS
        and parameter.kind is not parameter.POSITIONAL_ONLY
        and _may_be_mode(parameter.default)
    ]


def _may_be_mode(default: object) -> bool:
    is_switch = isinstance(default, bool | np.bool_) or (type(default) is int and default in (0, 1))
    return default is None or default is inspect.Parameter.empty or is_switch


@functools.cache
def _with_defaults(
    model_class: type[nnx.Module], told: type[Any], values: tuple[tuple[str, Any], ...]
) -> type[nnx.Module]:
    """Returns a subclass whose `__call__` has these values as defaults."""
    call: Any = model_class.__call__
    signature = inspect.signature(told.__call__)

    @functools.wraps(call)
    def call_with_mode(self: Any, *arguments: Any, **named: Any) -> Any:
        # The call itself refuses unknown names; a bridge to Linen has more than its signature.
        given = {*signature.bind_partial(self, *arguments).arguments, *named}
        missing = {name: value for name, value in values if name not in given}
        return call(self, *arguments, **named, **missing)

    namespace = {
        "__call__": call_with_mode,
        "__module__": model_class.__module__,
        "__qualname__": model_class.__qualname__,
        "__doc__": model_class.__doc__,
    }
    return type(model_class.__name__, (model_class,), namespace)
