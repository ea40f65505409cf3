"""Passes the mode and `rngs` to a model's `__call__`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

# Arguments for the mode, and whether True means training.
_MODES = {
    **dict.fromkeys(("train", "training", "is_train", "is_training"), True),
    **dict.fromkeys(("train_mode", "training_mode", "update_stats"), True),
    **dict.fromkeys(("deterministic", "use_running_average", "inference", "is_inference"), False),
    **dict.fromkeys(("eval", "is_eval", "eval_mode", "evaluation", "is_test"), False),
}
# The argument for random numbers.
_RNGS = "rngs"
# The attribute that holds the source of these random numbers while a step is traced. The bridge to
# Linen would treat an attribute with another name as a variable of its Linen module.
_SOURCE = "to_nnx__call_rngs"


class _Defaults(NamedTuple):
    """The arguments that calls of a model get by default, as a value that can be hashed.

    Attributes:
        values: names and values of arguments.
        random: the type of `rngs`; None if it is not passed.
    """

    values: tuple[tuple[str, Any], ...]
    random: type[nnx.Rngs] | type[nnx.RngStream] | None


def pass_arguments(model: nnx.Module, *, training: bool, key: jax.Array | None = None) -> None:
    """Passes the mode and random numbers to a model's `__call__`, if it has arguments for them.

    If `__call__` has a bool argument such as `train`, `is_training`, `deterministic`,
    `use_running_average`, `inference` or `is_eval`, calls without it get the value for the mode.
    A task can therefore call `model(image)`, whether the mode is an argument or is set by `train()`
    and `eval()`. If `__call__` has an argument `rngs`, calls without it get an
    `nnx.Rngs`, or an `nnx.RngStream` if the annotation is one. Its default stream serves all names,
    and each call gets other random numbers.

    In training, an `nnx.bridge.ToNNX`, which may be a part of the model, updates all variables of
    its Linen module except parameters. In evaluation, a field of the Linen module for the mode,
    such as `train=True`, gets the value for evaluation.

    Args:
        model: the model, which is changed in place: its class becomes a subclass that is otherwise
            equal, and it holds the source of `rngs` until `drop_rngs`.
        training: whether the mode is training.
        key: seeds `rngs`; None passes none.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.models.call_arguments import pass_arguments
        >>> class Model(nnx.Module):
        ...     def __call__(self, image, train=False):
        ...         return train
        >>> model = Model()
        >>> pass_arguments(model, training=True)
        >>> model(None), model(None, train=False)
        (True, False)
    """
    for _, module in [*nnx.iter_modules(model)]:
        if isinstance(module, nnx.bridge.ToNNX):
            _prepare_linen(module, training=training)
    called = _called(model)
    # Linen refuses a mode that is both a field and an argument.
    names = [name for name in _mode_arguments(called) if name not in linen_modes(model)]
    values = tuple((name, _MODES[name] == training) for name in names)
    random = _random_type(model) if key is not None else None
    if random is not None:
        setattr(model, _SOURCE, nnx.Rngs(key))
    if values or random is not None:
        model.__class__ = _with_defaults(type(model), called, _Defaults(values, random))


def takes_rngs(model: nnx.Module) -> bool:
    """Returns whether calls of a model get `rngs`.

    A Linen module in `nnx.bridge.ToNNX` gets them if its bridge has none of its own.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.models.call_arguments import takes_rngs
        >>> class Model(nnx.Module):
        ...     def __call__(self, image, rngs):
        ...         return image + rngs.normal(image.shape)
        >>> takes_rngs(Model())
        True
    """
    return _random_type(model) is not None


def drop_rngs(model: nnx.Module) -> None:
    """Removes the source of `rngs`, which is not part of the state of a model."""
    if hasattr(model, _SOURCE):
        delattr(model, _SOURCE)


def missing_arguments(model: nnx.Module, error: Exception) -> str | None:
    """Returns a remedy if an error is about required arguments of a model's `__call__`.

    Args:
        model: the model.
        error: what a call of the model raised.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.models.call_arguments import missing_arguments
        >>> class Model(nnx.Module):
        ...     def __call__(self, image, context):
        ...         return image
        >>> try:
        ...     Model()(None)
        ... except TypeError as error:
        ...     missing_arguments(Model(), error)[:50]
        '`Model.__call__` requires the argument `context`, '
    """
    called = _called(model)
    name = getattr(called.__call__, "__qualname__", None)
    before, found, after = str(error).partition(f"{name}() missing ")
    if not isinstance(error, TypeError) or before or not found:
        return None
    names = [part for number, part in enumerate(after.split("'")) if number % 2]
    plural = "s" if len(names) > 1 else ""
    passed = ", ".join(f"{name}={name}" for name in names)
    return (
        f"`{called.__name__}.__call__` requires the argument{plural} "
        f"{', '.join(f'`{name}`' for name in names)}, which the trainer does not know. It passes "
        f"only the mode, such as `train` or `deterministic`, and `{_RNGS}`. Subclass `Task`, and "
        f"call model(..., {passed}) in its outputs(self, model, batch) and its "
        "predict(self, model, batch), or give the argument a default."
    )


def _called(model: nnx.Module) -> Any:
    """Returns the class whose `__call__` runs; the bridge passes its arguments to Linen."""
    return type(getattr(model, "to_nnx__module", model))


def _parameters(called: type[Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(called.__call__).parameters
    except (AttributeError, TypeError, ValueError):
        return {}


@functools.cache
def _mode_arguments(called: type[Any]) -> tuple[str, ...]:
    """Returns the arguments for the mode in a class's `__call__`."""
    return tuple(
        name
        for name, parameter in _parameters(called).items()
        if name in _MODES
        and parameter.kind is not parameter.POSITIONAL_ONLY
        and _may_be_mode(parameter.default)
    )


def _may_be_mode(default: object) -> bool:
    is_switch = isinstance(default, bool | np.bool_) or (type(default) is int and default in (0, 1))
    return default is None or default is inspect.Parameter.empty or is_switch


def _random_type(model: nnx.Module) -> type[nnx.Rngs] | type[nnx.RngStream] | None:
    """Returns the type of `rngs` that a model's `__call__` takes; None if it takes none."""
    if isinstance(model, nnx.bridge.ToNNX):
        return nnx.Rngs if model.to_nnx__rngs is None else None
    parameter = _parameters(type(model)).get(_RNGS)
    if parameter is None or parameter.kind not in (
        parameter.POSITIONAL_OR_KEYWORD,
        parameter.KEYWORD_ONLY,
    ):
        return None
    # An annotation is text where its module postpones the evaluation of annotations.
    annotation = str(parameter.annotation)
    return nnx.RngStream if "RngStream" in annotation and "Rngs" not in annotation else nnx.Rngs


def _prepare_linen(bridge: Any, *, training: bool) -> None:
    """Lets a Linen module update its variables in training; see `pass_arguments`."""
    if training:
        variables = jax.tree.leaves(
            nnx.state(bridge), is_leaf=lambda v: isinstance(v, nnx.Variable)
        )
        kinds = {type(v) for v in variables if not isinstance(v, nnx.Param | nnx.RngState)}
        names = {nnx.variable_name_from_type(kind, allow_register=True) for kind in kinds}
        defaults = _Defaults((("mutable", tuple(sorted(names))),), None)
        own_class: type[nnx.Module] = type(bridge)
        if names:
            bridge.__class__ = _with_defaults(own_class, own_class, defaults)
        return
    if fields := linen_modes(bridge):
        evaluation = {name: not _MODES[name] for name in fields}
        bridge.to_nnx__module = bridge.to_nnx__module.clone(**evaluation)


def linen_modes(module: nnx.Module) -> dict[str, bool]:
    """Returns the fields of a Linen module for its mode, and whether each means training now.

    Args:
        module: an `nnx.bridge.ToNNX`; any other module has none.

    Example:
        >>> from flax import linen, nnx
        >>> from nnx_alexnet.models.call_arguments import linen_modes
        >>> linen_modes(nnx.bridge.ToNNX(linen.Dropout(0.5, deterministic=True)))
        {'deterministic': False}
    """
    if not isinstance(module, nnx.bridge.ToNNX):
        return {}
    fields = {name: getattr(module.to_nnx__module, name, None) for name in _MODES}
    return {
        name: value == _MODES[name] for name, value in fields.items() if isinstance(value, bool)
    }


@functools.cache
def _with_defaults(
    model_class: type[nnx.Module], called: type[Any], defaults: _Defaults
) -> type[nnx.Module]:
    """Returns a subclass whose `__call__` has these values as defaults."""
    original: Any = model_class.__call__
    signature = inspect.signature(called.__call__)

    @functools.wraps(original)
    def call_with_defaults(self: Any, *arguments: Any, **named: Any) -> Any:
        # The call itself refuses unknown names; a bridge to Linen accepts more than its signature.
        given = {*signature.bind_partial(self, *arguments).arguments, *named}
        missing = {name: value for name, value in defaults.values if name not in given}
        source = getattr(self, _SOURCE, None)
        if defaults.random is not None and _RNGS not in given and source is not None:
            # A copy, because the model and its argument must not share a variable.
            rngs = nnx.Rngs(source())
            missing[_RNGS] = rngs if defaults.random is nnx.Rngs else rngs["default"]
        call: Any = super(subclass, self).__call__
        return call(*arguments, **named, **missing)

    subclass = with_call(model_class, call_with_defaults)
    return subclass


def with_call(own_class: type[nnx.Module], call: Callable[..., Any]) -> type[nnx.Module]:
    """Returns a subclass that differs from its base class only in `__call__`.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.models.call_arguments import with_call
        >>> quiet = with_call(nnx.Linear, lambda self, inputs: None)
        >>> quiet.__name__, quiet(2, 3, rngs=nnx.Rngs(0))(1)
        ('Linear', None)
    """
    namespace = {
        "__call__": call,
        "__module__": own_class.__module__,
        "__qualname__": own_class.__qualname__,
        "__doc__": own_class.__doc__,
    }
    return type(own_class.__name__, (own_class,), namespace)
