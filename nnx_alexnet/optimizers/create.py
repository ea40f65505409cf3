"""`create_optimizer`: builds an optimizer by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax

from nnx_alexnet.optimizers.groups import REST, decayed, label_by_path
from nnx_alexnet.optimizers.registry import OPTIMIZERS, accepts
from nnx_alexnet.optimizers.schedules import ScalableSchedule, ScheduleName, scheduled_rate
from nnx_alexnet.support import check_bools, check_integer, check_number, shown, unknown

_SCHEDULE_FREE = "schedule_free_"


def create_optimizer(
    name: str = "adam",
    learning_rate: float = 1e-3,
    *,
    schedule: ScheduleName = "constant",
    num_steps: int | None = None,
    warmup_steps: int | None = None,
    drop_every: int | None = None,
    drop_factor: float = 0.1,
    steps_per_epoch: int | None = None,
    momentum: float | None = None,
    nesterov: bool | None = None,
    weight_decay: float | None = None,
    decay_biases: bool = False,
    clip_norm: float | None = None,
    rate_factors: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
    """Builds an optax optimizer whose learning rate the trainer can log.

    `Trainer` accepts any optax optimizer. It calls this function for its default optimizer, and
    the command line calls it for `--optimizer`. `optax.inject_hyperparams` stores the learning
    rate in the optimizer's state.

    Args:
        name: `"adam"` (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980), `"adamw"`, `"lion"`,
            `"sgd"`, `"lars"`, `"lamb"`, `"polyak_sgd"`, `"schedule_free_sgd"` or
            `"schedule_free_adamw"`.
        learning_rate: the highest learning rate; for `"polyak_sgd"`, the largest step size.
        schedule: `"constant"`; `"cosine"` or `"linear"`, which fall to zero at `num_steps`;
            `"one_cycle"`, a cosine up and down (Smith & Topin 2018,
            https://arxiv.org/abs/1708.07120); or `"step"`, which drops every `drop_every`. The
            schedule-free optimizers need `"constant"`.
        num_steps: optimizer steps of the whole run, which the cosine, linear and one-cycle
            schedules need. On the command line, the limits of the run determine it.
        warmup_steps: steps over which the learning rate rises: from a 25th of `learning_rate` with
            the one-cycle schedule, otherwise linearly from zero. By default, a tenth of `num_steps`
            with the cosine schedule, three tenths with the one-cycle schedule, otherwise none.
        drop_every: steps between two drops of the step schedule; epochs if `steps_per_epoch` is
            set.
        drop_factor: factor of each drop of the step schedule (default 0.1).
        steps_per_epoch: optimizer steps per epoch, if `drop_every` counts epochs. On the command
            line, the data determine it.
        momentum: decay rate of past gradients of `"sgd"` and `"lars"`. By default 0.9.
        nesterov: whether `"sgd"`, `"lars"`, `"adam"` or `"adamw"` uses Nesterov's momentum. By
            default only `"sgd"` does.
        weight_decay: weight decay; coupled (added to the gradient) for `"sgd"`, `"lars"` and
            `"schedule_free_sgd"`, otherwise decoupled. `"adam"` and `"polyak_sgd"` have none. By
            default 1e-4 for `"adamw"`, 1e-3 for `"lion"`, otherwise 0.
        decay_biases: whether the weight decay, and the layer-wise rates of `"lars"` and `"lamb"`,
            also apply to biases and to the parameters of normalization layers.
        clip_norm: the largest global norm of the gradients; larger gradients are scaled to it. By
            default, gradients are not clipped.
        rate_factors: factors on the learning rate, by the paths of parameters, such as {"conv*":
            0.1}. The first match counts; parameters without a match have the factor 1.
            `layer_factors` computes them for a decay per layer. By default, all parameters have the
            same rate.

    Returns:
        The gradient transformation.

    Raises:
        ValueError: an unknown name or schedule, a number out of its range, a schedule without the
            steps that it needs, or an option that the optimizer does not have.

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
    _check_numbers(learning_rate, clip_norm, momentum, weight_decay)
    check_bools(decay_biases=decay_biases, **({} if nesterov is None else {"nesterov": nesterov}))
    given = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    for option, value in options.items():
        _check_option(name, option, value)
    if name.startswith(_SCHEDULE_FREE) and schedule != "constant":
        raise ValueError(
            f"`schedule` (={schedule!r}) must be 'constant' for {name!r}, which averages the "
            "parameters instead of lowering the learning rate."
        )
    if not decay_biases and accepts(name, "mask"):
        options["mask"] = decayed
    steps = _drop_steps(drop_every, steps_per_epoch)
    build = _builder(name, options, clip_norm if rate_factors is None else None)

    def with_factor(factor: float) -> optax.GradientTransformation:
        return _with_rate(
            build, learning_rate * factor, schedule,
            num_steps=num_steps, warmup_steps=warmup_steps, drop_every=steps,
            drop_factor=drop_factor,
        )  # fmt: skip

    if rate_factors is None:
        return with_factor(1.0)
    _check_factors(name, rate_factors)
    groups = {**rate_factors, REST: 1.0}
    optimizer = optax.partition(
        {group: with_factor(factor) for group, factor in groups.items()},
        label_by_path([*rate_factors], argument="rate_factors"),
    )
    if clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)


def _builder(
    name: str, options: Mapping[str, Any], clip_norm: float | None
) -> Callable[[Any], optax.GradientTransformation]:
    """Returns the function of the learning rate that builds an optimizer."""

    def build(learning_rate: Any) -> optax.GradientTransformation:
        optimizer = OPTIMIZERS[name](learning_rate, **options)
        if clip_norm is None:
            return optimizer
        return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)

    build.__name__ = name  # for the record of a run
    return build


def _with_rate(
    build: Callable[[Any], optax.GradientTransformation],
    highest: float,
    schedule: str,
    **arguments: Any,
) -> optax.GradientTransformation:
    """Returns an optimizer that stores its learning rate."""
    rate = scheduled_rate(highest, schedule, **arguments)
    if callable(rate):
        rate.__name__ = schedule  # for the record of a run
        rate = ScalableSchedule(rate)
    # By default, optax rounds the rate to the dtype of the first parameter.
    return optax.inject_hyperparams(build, hyperparam_dtype=jnp.float32)(learning_rate=rate)


def _check_numbers(
    learning_rate: float,
    clip_norm: float | None,
    momentum: float | None,
    weight_decay: float | None,
) -> None:
    check_number("learning_rate", learning_rate, "(0, inf)")
    if clip_norm is not None:
        check_number("clip_norm", clip_norm, "(0, inf)", reason="None means no clipping")
    if momentum is not None:
        check_number("momentum", momentum, "[0, 1)")
    if weight_decay is not None:
        check_number("weight_decay", weight_decay, "[0, inf)")


def _check_option(name: str, option: str, value: object) -> None:
    """Refuses an option that an optimizer does not have."""
    if not accepts(name, option):
        others = [repr(each) for each in OPTIMIZERS if accepts(each, option)]
        raise ValueError(
            f"`{option}` (={value}) is not an argument of {name!r}; use "
            f"{', '.join(others[:-1])} or {others[-1]}."
        )


def _check_factors(name: str, factors: Mapping[str, float]) -> None:
    if not isinstance(factors, Mapping):
        raise TypeError(
            f"`rate_factors` (={shown(factors)}) must be a dict from paths or patterns to factors, "
            'such as {"conv*": 0.1}.'
        )
    if name.startswith(_SCHEDULE_FREE) or name == "polyak_sgd":
        raise ValueError(
            f"`rate_factors` (={dict(factors)}) cannot be used with {name!r}, whose steps depend "
            "on all parameters together."
        )
    for pattern, factor in factors.items():
        reason = f"to freeze {pattern!r}, exclude it with `trainable` of the Trainer"
        check_number("rate_factors", factor, "(0, inf)", reason=reason)


def _drop_steps(drop_every: int | None, steps_per_epoch: int | None) -> int | None:
    """Returns `drop_every` in steps."""
    check_integer("drop_every", drop_every, also=(None,))
    check_integer("steps_per_epoch", steps_per_epoch, also=(None,))
    return drop_every and drop_every * (steps_per_epoch or 1)
