"""Transformations that observe the gradients: their norm, float16 overflows, skipped steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nnx_alexnet.optimizers.checks import as_transformation, extra_arguments
from nnx_alexnet.optimizers.rates import metrics_of_parts
from nnx_alexnet.support import check_integer, check_number

# Fields of the states below that the trainer publishes, like learning rates, as metrics. The last
# one is a field of `optax.apply_if_finite`.
_METRICS = {
    "grad_norm": "grad_norm",
    "loss_scale": "loss_scale",
    "skipped_steps": "skipped_steps",
    "total_notfinite": "skipped_steps",
}


class GradNormState(NamedTuple):
    """The state of `log_grad_norm`: the norm of the newest gradients."""

    grad_norm: jax.Array


class LossScaleState(NamedTuple):
    """The state of `dynamic_loss_scale`.

    Attributes:
        loss_scale: the factor by which the train step multiplies the loss.
        good_steps: the number of finite steps since the scale last changed.
        skipped_steps: the number of steps that were not finite.
        inner: the state of the optimizer.
    """

    loss_scale: jax.Array
    good_steps: jax.Array
    skipped_steps: jax.Array
    inner: Any


class SkippedState(NamedTuple):
    """The state of `count_skipped`.

    Attributes:
        skipped_steps: the number of steps that were skipped.
        skipped_in_row: the number of consecutive steps skipped up to the newest step.
        inner: the state of the optimizer.
    """

    skipped_steps: jax.Array
    skipped_in_row: jax.Array
    inner: Any


def log_grad_norm() -> optax.GradientTransformation:
    """Returns a transformation that stores the global norm of the gradients, for `grad_norm`.

    It does not change them. Chain it before `optax.clip_by_global_norm` to log the norm before
    clipping. The trainer publishes the metric at the log points and at the ends of epochs: the
    norm at the newest step.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from nnx_alexnet.optimizers import log_grad_norm
        >>> optimizer = optax.chain(log_grad_norm(), optax.sgd(0.1))
        >>> parameters = {"w": jnp.zeros(2)}
        >>> gradients = {"w": jnp.array([3.0, 4.0])}
        >>> updates, state = optimizer.update(gradients, optimizer.init(parameters))
        >>> float(state[0].grad_norm)
        5.0
    """

    def init(parameters: Any) -> GradNormState:
        del parameters
        return GradNormState(jnp.zeros((), jnp.float32))

    def update(updates: Any, state: GradNormState, params: Any = None) -> Any:
        del state, params
        exact = jax.tree.map(lambda leaf: jnp.abs(leaf).astype(jnp.float32), updates)
        return updates, GradNormState(optax.tree.norm(exact))

    return optax.GradientTransformation(init, update)


def dynamic_loss_scale(
    optimizer: optax.GradientTransformation,
    *,
    initial_scale: float = 2.0**16,
    growth_interval: int = 2000,
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer for a model that computes in float16, whose small gradients underflow.

    The train step multiplies the loss by a scale and divides the gradients by it, in the dtype of
    the parameters, which should be float32. If a gradient is not finite, the optimizer skips the
    step, and the scale is halved. After `growth_interval` finite steps in a row, the scale is
    doubled. These are the rule and the defaults of `torch.amp.GradScaler`; see Micikevicius et al.
    2018, "Mixed Precision Training", https://arxiv.org/abs/1710.03740. The trainer publishes the
    scale as `loss_scale`, and the number of steps that were skipped as `skipped_steps`.

    Args:
        optimizer: the optimizer, including transformations that clip the gradients. A
            transformation outside of it would also receive the gradients of skipped steps.
        initial_scale: the scale of the first step (default 65536).
        growth_interval: the number of finite steps after which the scale doubles (default 2000).

    Raises:
        TypeError: `optimizer` is not an optax optimizer.
        ValueError: `initial_scale` is not positive, or `growth_interval` is less than 1.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from nnx_alexnet.optimizers import dynamic_loss_scale
        >>> optimizer = dynamic_loss_scale(optax.sgd(0.1))
        >>> parameters = {"w": jnp.zeros(2)}
        >>> updates, state = optimizer.update(
        ...     {"w": jnp.array([jnp.inf, 1.0])}, optimizer.init(parameters), parameters)
        >>> updates["w"].tolist(), float(state.loss_scale)
        ([0.0, 0.0], 32768.0)
    """
    optimizer = as_transformation(optimizer)
    check_number("initial_scale", initial_scale, "(0, inf)")
    check_integer("growth_interval", growth_interval)

    def init(parameters: Any) -> LossScaleState:
        zero = jnp.zeros((), jnp.int32)
        scale = jnp.asarray(initial_scale, jnp.float32)
        return LossScaleState(scale, zero, zero, optimizer.init(parameters))

    def update(updates: Any, state: LossScaleState, params: Any = None, **extra: Any) -> Any:
        finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(updates)]
        is_good = jnp.stack(finite).all()
        accepted = extra_arguments(optimizer, **extra)
        new, inner = optimizer.update(updates, state.inner, params, **accepted)
        new = jax.tree.map(lambda leaf: jnp.where(is_good, leaf, jnp.zeros_like(leaf)), new)
        inner = jax.tree.map(lambda after, old: jnp.where(is_good, after, old), inner, state.inner)
        good_steps = jnp.where(is_good, state.good_steps + 1, 0)
        grows = good_steps == growth_interval
        factor = jnp.where(is_good, jnp.where(grows, 2.0, 1.0), 0.5)
        return new, LossScaleState(
            state.loss_scale * factor,
            jnp.where(grows, 0, good_steps),
            state.skipped_steps + ~is_good,
            inner,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def loss_scale(state: Any) -> jax.Array | None:
    """Returns the scale in an optimizer's state by which the loss is multiplied, or None.

    If several parts of the optimizer have a scale, it is the smallest one.

    Example:
        >>> import optax
        >>> from nnx_alexnet.optimizers import dynamic_loss_scale, loss_scale
        >>> float(loss_scale(dynamic_loss_scale(optax.sgd(0.1)).init({})))
        65536.0
    """
    found = optax.tree.get_all_with_path(state, "loss_scale")
    return jnp.stack([scale[...] for _, scale in found]).min() if found else None


def count_skipped(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Returns the same optimizer, whose state counts the steps that the trainer skips.

    Example:
        >>> import optax
        >>> from nnx_alexnet.optimizers import count_skipped
        >>> int(count_skipped(optax.sgd(0.1)).init({}).skipped_steps)
        0
    """

    def init(parameters: Any) -> SkippedState:
        zero = jnp.zeros((), jnp.int32)
        return SkippedState(zero, zero, optimizer.init(parameters))

    def update(updates: Any, state: SkippedState, params: Any = None, **extra: Any) -> Any:
        accepted = extra_arguments(optimizer, **extra)
        updates, inner = optimizer.update(updates, state.inner, params, **accepted)
        return updates, state._replace(inner=inner)

    return optax.GradientTransformationExtraArgs(init, update)


def skip_leaves(names: Sequence[str]) -> tuple[int, int] | None:
    """Returns which leaves of an optimizer's state `count_skipped` has added, or None.

    Args:
        names: the paths of all leaves.

    Returns:
        The indices of `skipped_steps` and `skipped_in_row`.

    Example:
        >>> from nnx_alexnet.optimizers.gradients import skip_leaves
        >>> skip_leaves(["opt_state/skipped_in_row", "opt_state/skipped_steps"])
        (1, 0)
    """
    for number, name in enumerate(names):
        if name.endswith("skipped_in_row"):
            total = name.removesuffix("in_row") + "steps"
            return names.index(total), number
    return None


def scalar_leaves(names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """Returns which leaves of an optimizer's state are metrics other than rates, by metric name.

    If a transformation with a metric wraps others with the same one, the outer one counts. If
    several parts of an optimizer have a metric, each name ends with its part, as for `rate_leaves`.

    Args:
        names: the paths of all leaves.
        shapes: the shapes of all leaves.

    Example:
        >>> from nnx_alexnet.optimizers import scalar_leaves
        >>> scalar_leaves(["opt_state/0/grad_norm", "opt_state/1/trace/kernel"], [(), (2, 3)])
        {'grad_norm': 0}
    """
    paths: dict[str, dict[int, list[str]]] = {}
    for number, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        *owner, field = name.split("/")
        if field in _METRICS and shape == ():
            paths.setdefault(_METRICS[field], {})[number] = [*owner, field]
    found: dict[str, int] = {}
    for metric, of_metric in paths.items():
        owners = [path[:-1] for path in of_metric.values()]
        outer = {
            number: path
            for number, path in of_metric.items()
            if not any(len(each) < len(path) - 1 and path[: len(each)] == each for each in owners)
        }
        found |= metrics_of_parts(metric, outer)
    return found
