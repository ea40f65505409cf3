"""Builds optimizers by name, and checks the optimizers that users pass."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.extend.core import Var

from nnx_alexnet.devices import named_leaves, usual_promotion
from nnx_alexnet.support import shown, unknown

# To add an optimizer, add a line: its name, and a function of the learning rate. A function with an
# argument `weight_decay` gets the option of that name.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "lion": optax.lion,
    "sgd": lambda learning_rate: optax.sgd(learning_rate, momentum=0.9, nesterov=True),
}


def create_optimizer(
    name: str = "adam",
    learning_rate: float = 1e-3,
    *,
    schedule: Literal["constant", "cosine"] = "constant",
    num_steps: int | None = None,
    warmup_steps: int | None = None,
    weight_decay: float | None = None,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Builds an optax optimizer whose learning rate the trainer can log.

    `Trainer` accepts any optax optimizer. It calls this function for its default optimizer, and
    the command line calls it for `--optimizer`. `optax.inject_hyperparams` stores the learning
    rate in the optimizer's state.

    Args:
        name: `"adam"` (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980), `"adamw"`, `"lion"`, or
            `"sgd"` (Nesterov momentum 0.9).
        learning_rate: the highest learning rate.
        schedule: `"constant"`, or `"cosine"`, which falls to zero at `num_steps`.
        num_steps: optimizer steps of the whole run, which the cosine schedule needs. On the
            command line the limits of the run set it.
        warmup_steps: steps over which the learning rate rises linearly from zero. By default, a
            tenth of `num_steps` with the cosine schedule, else none.
        weight_decay: decoupled weight decay of `"adamw"` and `"lion"`. By default, optax's own.
        clip_norm: the largest global norm of the gradients; larger gradients are scaled to it. By
            default, gradients are not clipped.

    Returns:
        The gradient transformation.

    Raises:
        ValueError: an unknown name or schedule, a number out of its range, a cosine schedule
            without `num_steps`, or a weight decay for an optimizer that has none.

    Example:
        >>> from nnx_alexnet.optimizers import create_optimizer
        >>> import jax.numpy as jnp
        >>> optimizer = create_optimizer("adamw", 1e-2, schedule="cosine", num_steps=100)
        >>> state = optimizer.init({"w": jnp.ones(2)})
        >>> f"{state.hyperparams['learning_rate']:.3f}"  # the first of ten warm-up steps
        '0.000'
    """
    if name not in OPTIMIZERS:
        raise unknown("name", name, OPTIMIZERS)
    if not learning_rate > 0:
        raise ValueError(f"`learning_rate` (={learning_rate}) must be positive.")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"`clip_norm` (={clip_norm}) must be positive, or None for no clipping.")
    rate = _learning_rate(learning_rate, schedule, num_steps, warmup_steps)
    if callable(rate):
        rate.__name__ = schedule  # for the record of a run
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}
    decaying = [each for each in OPTIMIZERS if _has_weight_decay(OPTIMIZERS[each])]
    if decay and name not in decaying:
        raise ValueError(
            f"`weight_decay` (={weight_decay}) is not an argument of {name!r}; use "
            f"{' or '.join(map(repr, decaying))}."
        )

    def build(learning_rate: Any) -> optax.GradientTransformation:
        optimizer = OPTIMIZERS[name](learning_rate, **decay)
        if clip_norm is None:
            return optimizer
        return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)

    build.__name__ = name  # for the record of a run
    # By default, optax rounds the rate to the dtype of the first parameter.
    return optax.inject_hyperparams(build, hyperparam_dtype=jnp.float32)(learning_rate=rate)


def _has_weight_decay(optimizer: Callable[..., optax.GradientTransformation]) -> bool:
    return "weight_decay" in inspect.signature(optimizer).parameters


def _learning_rate(
    highest: float, schedule: str, num_steps: int | None, warmup_steps: int | None
) -> float | optax.Schedule:
    """Returns the learning rate or its schedule, from the arguments of `create_optimizer`."""
    if schedule not in ("constant", "cosine"):
        raise unknown("schedule", schedule, ["constant", "cosine"])
    if warmup_steps is None:
        warmup_steps = (num_steps or 0) // 10 if schedule == "cosine" else 0
    if warmup_steps < 0:
        raise ValueError(f"`warmup_steps` (={warmup_steps}) must be 0 or more.")
    if schedule == "constant":
        return optax.linear_schedule(0.0, highest, warmup_steps) if warmup_steps else highest
    if num_steps is None or num_steps <= warmup_steps:
        raise ValueError(
            f"`num_steps` (={num_steps}) must be the number of steps of the cosine schedule, more "
            f"than `warmup_steps` (={warmup_steps})."
        )
    start = 0.0 if warmup_steps else highest
    return optax.warmup_cosine_decay_schedule(start, highest, warmup_steps, num_steps)


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
            " Pass the optax optimizer that it was built from. To train only some parameters, as "
            'with `wrt`, disable updates of the others: optax.partition({"train": ..., "freeze": '
            "optax.set_to_zero()}, labels), where labels(parameters) returns the group name of "
            "each parameter by its path (jax.tree_util.tree_map_with_path)."
        )
    elif callable(optimizer) and getattr(optimizer, "__module__", "").startswith("optax"):
        remedy = f" Call it: {getattr(optimizer, '__name__', 'optax.adam')}(1e-3)."
    raise TypeError(
        f"`optimizer` (={shown(optimizer)}) must be an optax optimizer such as optax.adam(1e-3); "
        f"the Trainer builds the nnx.Optimizer from it.{remedy}"
    )


def check_optimizer(optimizer: optax.GradientTransformation, model: nnx.Module) -> None:
    """Raises a `ValueError` unless an optimizer can update the parameters of a model.

    Args:
        optimizer: the optimizer, which is traced with abstract gradients, loss and parameters.
        model: the model, which is not changed.

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
                jax.eval_shape(function, nnx.state(model, nnx.Param))
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
    optimizer: optax.GradientTransformation, model: nnx.Module
) -> tuple[list[str], bool]:
    """Returns the parameters with constant updates, such as those of `optax.set_to_zero`.

    Args:
        optimizer: an optimizer that `check_optimizer` accepts.
        model: the model, which is not changed.

    Returns:
        The paths of these parameters, and whether they are all of the model's parameters.

    Example:
        >>> import optax
        >>> from flax import nnx
        >>> from nnx_alexnet.optimizers import untouched_parameters
        >>> model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        >>> untouched_parameters(optax.set_to_zero(), model)
        (['bias', 'kernel'], True)
    """
    parameters = nnx.state(model, nnx.Param)
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


def rate_leaves(names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """Returns which leaves of an optimizer's state are learning rates, by metric name.

    `optax.inject_hyperparams` stores the learning rate of the optimizer that it wraps. If several
    parts of an optimizer are wrapped, as with `optax.partition`, each rate is named after its part.

    Args:
        names: the paths of all leaves.
        shapes: the shapes of all leaves.

    Returns:
        `{"lr": index of the leaf}`, or one entry per part; empty if the state contains no rate.

    Example:
        >>> from nnx_alexnet.optimizers import rate_leaves
        >>> names = ["body/0/hyperparams/learning_rate", "head/0/hyperparams/learning_rate"]
        >>> rate_leaves(names, [(), ()])
        {'lr/body': 0, 'lr/head': 1}
    """
    found = {
        number: name.split("/")
        for number, (name, shape) in enumerate(zip(names, shapes, strict=True))
        if name.endswith("hyperparams/learning_rate") and shape == ()
    }
    if len(found) == 1:
        return {"lr": next(iter(found))}
    start = _num_shared([*found.values()])
    end = _num_shared([path[start:][::-1] for path in found.values()])
    groups = {number: ".".join(path[start : len(path) - end]) for number, path in found.items()}
    return {f"lr/{group}" if group else "lr": number for number, group in groups.items()}


def _num_shared(paths: Sequence[Sequence[str]]) -> int:
    """Returns the length of the longest common prefix of all paths."""
    columns = zip(*paths, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda parts: len({*parts}) == 1, columns))
