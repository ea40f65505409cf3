"""Checks the optimizers that users pass, and calls them in traces."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.extend.core import Var

from nnx_alexnet.devices import named_leaves, usual_promotion
from nnx_alexnet.optimizers.groups import PatternError
from nnx_alexnet.support import shown


def as_transformation(optimizer: object) -> optax.GradientTransformation:
    """Returns the argument `optimizer` of a Trainer as an optax transformation.

    Args:
        optimizer: an optax optimizer, or an `optax.MultiSteps`.

    Raises:
        TypeError: the argument is neither.

    Example:
        >>> import optax
        >>> from nnx_alexnet.optimizers import as_transformation
        >>> optimizer = as_transformation(optax.MultiSteps(optax.adam(1e-3), every_k_schedule=4))
        >>> isinstance(optimizer, optax.GradientTransformation)
        True
    """
    if isinstance(optimizer, optax.MultiSteps):
        # `optimizer.gradient_transformation()` would hide that the optimizer accepts extra
        # arguments.
        return optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)
    if isinstance(optimizer, optax.GradientTransformation):
        return optimizer
    remedy = ""
    if isinstance(optimizer, nnx.Optimizer):
        remedy = (
            " Pass the optax optimizer that it was built from, and as `trainable` the filter of "
            "the parameters to train, which is `wrt` here."
        )
    elif callable(optimizer) and getattr(optimizer, "__module__", "").startswith("optax"):
        remedy = f" Call it: {getattr(optimizer, '__name__', 'optax.adam')}(1e-3)."
    elif isinstance(optimizer, str):
        remedy = f" create_optimizer({optimizer!r}) builds one by name."
    raise TypeError(
        f"`optimizer` (={shown(optimizer)}) must be an optax optimizer such as optax.adam(1e-3); "
        f"the Trainer builds the nnx.Optimizer from it.{remedy}"
    )


def check_optimizer(
    optimizer: optax.GradientTransformation, model: nnx.Module, wrt: Any = nnx.Param
) -> None:
    """Raises a `ValueError` unless an optimizer can update the parameters of a model.

    Args:
        optimizer: the optimizer, which is traced with abstract gradients, loss and parameters.
        model: the model, which is not changed.
        wrt: the nnx filter of the parameters that are trained (default all).

    Example:
        >>> import optax
        >>> from flax import nnx
        >>> from nnx_alexnet.optimizers import check_optimizer
        >>> model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        >>> check_optimizer(optax.partition({"a": optax.sgd(0.1)}, {"kernel": "a"}), model)
        Traceback (most recent call last):
        ValueError: `optimizer` cannot be initialised with the parameters of the model: ...
    """

    def update(parameters: Any) -> Any:
        return _updated(optimizer, parameters)

    for what, function in (("initialised with", optimizer.init), ("applied to", update)):
        try:
            with usual_promotion():
                jax.eval_shape(function, nnx.state(model, wrt))
        except PatternError:
            raise
        except Exception as error:
            raise ValueError(
                f"`optimizer` cannot be {what} the parameters of the model: "
                f"{type(error).__name__}: {error}\nThe trainer calls it with gradients, state and "
                "parameters, and with `value`, `grad` and `value_fn` if it has these arguments. "
                "The parameters are an nnx.State. Labels or masks, such as those of "
                "optax.partition, must be a function of it, such as lambda parameters: "
                "jax.tree.map(lambda _: 'all', parameters)."
            ) from error


def untouched_parameters(
    optimizer: optax.GradientTransformation, model: nnx.Module, wrt: Any = nnx.Param
) -> tuple[list[str], bool]:
    """Returns the parameters with constant updates, such as those of `optax.set_to_zero`.

    Args:
        optimizer: an optimizer that `check_optimizer` accepts.
        model: the model, which is not changed.
        wrt: the nnx filter of the parameters that are trained (default all).

    Returns:
        The paths of these parameters, and whether they are all that are trained.

    Example:
        >>> import optax
        >>> from flax import nnx
        >>> from nnx_alexnet.optimizers import untouched_parameters
        >>> model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        >>> untouched_parameters(optax.set_to_zero(), model)
        (['bias', 'kernel'], True)
    """
    parameters = nnx.state(model, wrt)
    with usual_promotion():
        jaxpr = jax.make_jaxpr(lambda state: _updated(optimizer, state)[0])(parameters).jaxpr
    moving = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(isinstance(each, Var) and each in moving for each in equation.invars):
            moving |= {*equation.outvars}
    names = [*named_leaves(parameters)]
    outputs = zip(names, jaxpr.outvars, strict=True)
    found = [name for name, out in outputs if not isinstance(out, Var) or out not in moving]
    return found, len(found) == len(names)


def _updated(optimizer: optax.GradientTransformation, parameters: Any) -> Any:
    """Returns the updates and the state of an optimizer's first step; use it only in traces."""
    pure = nnx.as_pure(parameters)
    return updated_once(optimizer, pure, nnx.as_pure(optimizer.init(parameters)), pure)


def updated_once(
    optimizer: optax.GradientTransformation, gradients: Any, state: Any, parameters: Any
) -> Any:
    """Calls an optimizer's `update`, with a loss of 0 if it has such an argument.

    Use it only in traces, where only shapes and operations matter.

    Args:
        optimizer: an optax transformation.
        gradients: a pytree of arrays.
        state: the result of its `init`.
        parameters: a pytree like `gradients`.

    Example:
        >>> import optax
        >>> from nnx_alexnet.optimizers import updated_once
        >>> optimizer = optax.sgd(0.5)
        >>> updated_once(optimizer, {"w": 2.0}, optimizer.init({"w": 1.0}), {"w": 1.0})[0]
        {'w': -1.0}
    """
    loss = jnp.zeros((), jnp.float32)
    extra = extra_arguments(optimizer, value=loss, grad=gradients, value_fn=lambda _: loss)
    return optimizer.update(gradients, state, parameters, **extra)


def extra_arguments(optimizer: optax.GradientTransformation, **available: Any) -> dict[str, Any]:
    """Returns those of the available values that an optimizer's `update` accepts.

    Args:
        optimizer: an optax transformation.
        available: the values that can be passed, by name.

    Example:
        >>> import optax
        >>> from nnx_alexnet.optimizers import extra_arguments
        >>> list(extra_arguments(optax.polyak_sgd(), value=0.5))
        ['value']
    """
    parameters = inspect.signature(optimizer.update).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return available
    return {name: value for name, value in available.items() if name in parameters}
