"""Learning-rate schedules by name, and a schedule whose rates can be scaled during a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from nnx_alexnet.support import as_python, check_integer, check_number, unknown

ScheduleName = Literal["constant", "cosine", "linear", "one_cycle", "step"]
SCHEDULES: tuple[str, ...] = get_args(ScheduleName)


class ScalableState(NamedTuple):
    """The state of a `ScalableSchedule`.

    Attributes:
        step: the number of steps.
        scale: the factor on the rate of every step.
    """

    step: jax.Array
    scale: jax.Array


class ScalableSchedule(optax.schedules.WrappedSchedule):  # type: ignore[misc]
    """A schedule times a factor in the optimizer's state, which `ReduceLROnPlateau` changes.

    Pass it to `optax.inject_hyperparams`. The factor starts at 1. It is part of every checkpoint.

    Args:
        schedule: a function of the step, counted from 0, that returns the rate.

    Example:
        >>> import optax
        >>> from nnx_alexnet.optimizers import ScalableSchedule
        >>> schedule = ScalableSchedule(optax.linear_schedule(0.0, 1.0, 4))
        >>> state = schedule.update(schedule.init())._replace(scale=0.5)
        >>> float(schedule(state))
        0.125
    """

    def init(self) -> ScalableState:
        """Returns the state of the first step."""
        return ScalableState(jnp.zeros([], jnp.int32), jnp.ones([], jnp.float32))

    def update(self, state: ScalableState, **extra_args: Any) -> ScalableState:
        """Returns the state of the next step."""
        return ScalableState(optax.safe_increment(state.step), state.scale)

    def __call__(self, state: ScalableState, **extra_args: Any) -> jax.Array:
        """Returns the rate of a step."""
        rate: jax.Array = self.schedule_fn(state.step) * state.scale
        return rate


def scheduled_rate(
    highest: float,
    schedule: str,
    *,
    num_steps: int | None = None,
    warmup_steps: int | None = None,
    drop_every: int | None = None,
    drop_factor: float = 0.1,
) -> float | Callable[[Any], Any]:
    """Returns a constant learning rate, or the function of a schedule.

    Args:
        highest: the highest rate.
        schedule: one of `SCHEDULES`.
        num_steps: optimizer steps of the whole run.
        warmup_steps: steps over which the rate rises (default: as `create_optimizer` documents).
        drop_every: optimizer steps between two drops of `"step"`.
        drop_factor: the factor of each drop.

    Raises:
        ValueError: as `create_optimizer` documents.

    Example:
        >>> from nnx_alexnet.optimizers.schedules import scheduled_rate
        >>> rate = scheduled_rate(1.0, "step", drop_every=10)
        >>> [round(float(rate(step)), 3) for step in (0, 9, 10, 20)]
        [1.0, 1.0, 0.1, 0.01]
    """
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    check_integer("num_steps", as_python(num_steps), also=(None,))
    check_integer("warmup_steps", as_python(warmup_steps), minimum=0, also=(None,))
    if schedule == "step":
        _check_drops(drop_every, drop_factor)
    elif drop_every is not None:
        raise ValueError(f"`drop_every` (={drop_every}) is for schedule='step', not {schedule!r}.")
    if warmup_steps is None:
        parts = {"cosine": 0.1, "one_cycle": 0.3}
        warmup_steps = int((num_steps or 0) * parts.get(schedule, 0))
    if schedule in ("cosine", "linear", "one_cycle"):
        if num_steps is None or num_steps <= warmup_steps:
            raise ValueError(
                f"`num_steps` (={num_steps}) must be the number of steps of the {schedule} "
                f"schedule, and greater than `warmup_steps` (={warmup_steps})."
            )
        return _decaying(highest, schedule, num_steps, warmup_steps)
    if schedule == "constant":
        return optax.linear_schedule(0.0, highest, warmup_steps) if warmup_steps else highest
    return _dropping(highest, warmup_steps, drop_every or 1, drop_factor)


def _decaying(
    highest: float, schedule: str, num_steps: int, warmup_steps: int
) -> Callable[[Any], Any]:
    if schedule == "cosine":
        start = 0.0 if warmup_steps else highest
        return optax.warmup_cosine_decay_schedule(start, highest, warmup_steps, num_steps)  # type: ignore[no-any-return]
    if schedule == "one_cycle":
        # optax rounds the product down; half a step more keeps it at `warmup_steps`.
        part = (max(1, warmup_steps) + 0.5) / num_steps
        return optax.cosine_onecycle_schedule(num_steps, highest, part)  # type: ignore[no-any-return]
    rise = optax.linear_schedule(0.0, highest, warmup_steps)
    fall = optax.linear_schedule(highest, 0.0, num_steps - warmup_steps)
    return optax.join_schedules([rise, fall], [warmup_steps]) if warmup_steps else fall  # type: ignore[no-any-return]


def _dropping(
    highest: float, warmup_steps: int, drop_every: int, drop_factor: float
) -> Callable[[Any], Any]:
    """Returns a schedule whose drops are counted from the start of the run."""
    peak_value = highest  # the name under which the record of a run finds it

    def dropped(step: Any) -> Any:
        rate = peak_value * jnp.power(drop_factor, step // drop_every)
        return rate * jnp.minimum(1, step / warmup_steps) if warmup_steps else rate

    return dropped


def _check_drops(drop_every: int | None, drop_factor: float) -> None:
    if drop_every is None:
        raise ValueError(
            "`drop_every` (=None) must be the number of steps or epochs between two drops of "
            "schedule='step'."
        )
    check_integer("drop_every", drop_every)
    check_number("drop_factor", drop_factor, "(0, 1)")
