"""Optimizers: which objects the trainer takes, and what the command line builds from optax."""

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

    Any optax optimizer can be passed to `Trainer`; this one is its default, and what
    `--optimizer` builds. `optax.inject_hyperparams` keeps the rate in the optimizer's state.

    Args:
        name: `"adam"` (the default; Kingma & Ba 2015, https://arxiv.org/abs/1412.6980),
            `"adamw"`, `"lion"`, or `"sgd"` (Nesterov momentum 0.9).
        learning_rate: the highest rate (default 1e-3).
        schedule: `"constant"` (the default), or `"cosine"`, which falls to zero at `num_steps`.
        num_steps: the optimizer steps of the whole run; the cosine needs it.
        warmup_steps: steps over which the rate rises linearly from zero; None (the default) is
            a tenth of `num_steps` with the cosine, and none without.
        weight_decay: decoupled weight decay; None (the default) leaves optax's own.
            Only `"adamw"` and `"lion"` have one.
        clip_norm: gradients of a larger global norm are scaled down to it; None (the default)
            does not clip.

    Returns:
        The gradient transformation.

    Raises:
        ValueError: an unknown name or schedule, a number out of its range, a cosine without
            `num_steps`, or a weight decay for an optimizer that has none.

    Example:
        >>> from nnx_alexnet.optimizers import create_optimizer
        >>> import jax.numpy as jnp
        >>> optimizer = create_optimizer("adamw", 1e-2, schedule="cosine", num_steps=100)
        >>> state = optimizer.init({"w": jnp.ones(2)})
        >>> f"{state.hyperparams['learning_rate']:.3f}"  # ten steps of warm-up begin
        '0.000'
    """
    if name not in OPTIMIZERS:
        raise unknown("name", name, OPTIMIZERS)
    if schedule not in ("constant", "cosine"):
        raise unknown("schedule", schedule, ["constant", "cosine"])
    if not learning_rate > 0:
        raise ValueError(f"`learning_rate` (={learning_rate}) must be positive.")
    if warmup_steps is None:
        warmup_steps = (num_steps or 0) // 10 if schedule == "cosine" else 0
    if warmup_steps < 0:
        raise ValueError(f"`warmup_steps` (={warmup_steps}) must be 0 or more.")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"`clip_norm` (={clip_norm}) must be positive, or None for no clipping.")
    if weight_decay is not None and name not in ("adamw", "lion"):
        raise ValueError(
            f"`weight_decay` (={weight_decay}) is not an argument of {name!r}; use 'adamw' or "
            "'lion'."
        )
    if schedule == "cosine" and (num_steps is None or num_steps <= warmup_steps):
        raise ValueError(
            f"`num_steps` (={num_steps}) must say how long the cosine lasts, more than "
            f"`warmup_steps` (={warmup_steps})."
        )
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}

    def build(learning_rate: Any) -> optax.GradientTransformation:
        optimizer = OPTIMIZERS[name](learning_rate, **decay)
        if clip_norm is None:
            return optimizer
        return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)

    rate: float | optax.Schedule = learning_rate
    if schedule == "cosine":
        assert num_steps is not None
        rate = optax.warmup_cosine_decay_schedule(
            0.0 if warmup_steps else learning_rate, learning_rate, warmup_steps, num_steps
        )
    elif warmup_steps:
        rate = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.inject_hyperparams(build)(learning_rate=rate)


def as_transformation(optimizer: object) -> optax.GradientTransformation:
    """Returns what the user gave as `optimizer` as an optax transformation.

    Args:
        optimizer: an optax optimizer, or an `optax.MultiSteps`.

    Raises:
        TypeError: it is neither.

    Example:
        >>> import optax
        >>> from nnx_alexnet.optimizers import as_transformation
        >>> optimizer = as_transformation(optax.MultiSteps(optax.adam(1e-3), every_k_schedule=4))
        >>> isinstance(optimizer, optax.GradientTransformation)
        True
    """
    if isinstance(optimizer, optax.MultiSteps):
        # Its own `gradient_transformation()` hides that it passes extra arguments on.
        return optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)
    if isinstance(optimizer, optax.GradientTransformation):
        return optimizer
    remedy = ""
    if isinstance(optimizer, nnx.Optimizer):
        remedy = (
            " Pass the optax optimizer that it was built from. To train only a part of the "
            'parameters, as with `wrt`, disable updates of the others: optax.partition({"train": '
            '..., "freeze": optax.set_to_zero()}, labels), where labels(parameters) returns the '
            "group name of each parameter by its path (jax.tree_util.tree_map_with_path)."
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
        optimizer: tried over shapes alone, with gradients, loss and parameters.
        model: stays as it is.

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
                "parameters, and with `value`, `grad` and `value_fn` where it takes them. The "
                "parameters are an nnx.State. Labels or masks, such as those of optax.partition, "
                "must be a function of it, such as lambda parameters: jax.tree.map(lambda _: "
                "'all', parameters)."
            ) from error


def untouched_parameters(
    optimizer: optax.GradientTransformation, model: nnx.Module
) -> tuple[list[str], bool]:
    """Returns the parameters whose updates are constants, as those of `optax.set_to_zero`.

    Args:
        optimizer: one that `check_optimizer` has accepted.
        model: stays as it is.

    Returns:
        Their paths, and whether these are all parameters.

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
    """Returns the updates and the state of an optimizer's first step, to be traced."""
    pure = nnx.as_pure(parameters)
    return updated_once(optimizer, pure, nnx.as_pure(optimizer.init(parameters)), pure)


def updated_once(
    optimizer: optax.GradientTransformation, gradients: Any, state: Any, parameters: Any
) -> Any:
    """Returns what an optimizer's `update` returns, with a loss of 0 where it takes one.

    For traces, in which only shapes and operations matter.

    Args:
        optimizer: an optax transformation.
        gradients: a pytree of arrays.
        state: what its `init` returned.
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
    """Returns those arguments that an optimizer's `update` takes besides gradients and parameters.

    Args:
        optimizer: an optax transformation.
        available: what could be passed, by name.

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
    """Returns which leaves of an optimizer's state are learning rates, by their metric's name.

    `optax.inject_hyperparams` keeps the rate of what it wraps. Where several parts of an optimizer
    do so, as with `optax.partition`, each rate has the name of its part.

    Args:
        names: the paths of all leaves.
        shapes: their shapes.

    Returns:
        `{"lr": number of the leaf}`, or one entry for each part; empty where the state holds none.

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
    """Returns with how many equal parts all paths begin."""
    columns = zip(*paths, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda parts: len({*parts}) == 1, columns))
