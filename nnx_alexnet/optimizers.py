"""The optimizers that the command line offers, from optax, with the learning rate kept readable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import optax

from nnx_alexnet.errors import unknown

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
