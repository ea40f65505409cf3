"""The number of steps of a run, and a check of the schedule of a run that is extended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from nnx_alexnet.devices import usual_promotion
from nnx_alexnet.runs import read_settings
from nnx_alexnet.support import logger, parse_number
from nnx_alexnet.training.run_config import known_rates, updates_each_step
from nnx_alexnet.training.settings import DEFAULT_EPOCHS

ACCEPTED = "schedule"
"""The name in `accept` that lets an extended run train after the end of its schedule."""

NEGLIGIBLE = 1e-5
"""The share of the highest rate that no longer trains; a one-cycle schedule ends at 4e-6 of it."""

_NUM_SAMPLES = 100  # steps at which a schedule is evaluated


def num_steps(
    max_epochs: int | None, max_steps: int | None, steps_per_epoch: int | None
) -> int | None:
    """Returns the number of optimizer steps of a run; None if it is unknown.

    Args:
        max_epochs: the limit in epochs; without any limit, the default.
        max_steps: the limit in steps.
        steps_per_epoch: the length of an epoch, None if it is unknown.

    Example:
        >>> from nnx_alexnet.training.run_length import num_steps
        >>> num_steps(3, None, 8), num_steps(3, 20, 8), num_steps(3, None, None)
        (24, 20, None)
    """
    if max_epochs is None and max_steps is None:
        max_epochs = DEFAULT_EPOCHS
    in_epochs = max_epochs * steps_per_epoch if max_epochs and steps_per_epoch else None
    return min((limit for limit in (max_steps, in_epochs) if limit is not None), default=None)


def check_extension(
    run_dir: Path,
    accept: Sequence[str],
    *,
    transformation: optax.GradientTransformation,
    run_steps: int | None,
    steps_per_epoch: int | None,
) -> None:
    """Refuses to extend a run whose schedule ends at a rate of about 0 before the new end.

    Otherwise, the rates of the first and the last new step are logged. Nothing is checked if the
    optimizer hides its schedule or does not update at each step, or if the run does not record its
    length.

    Args:
        run_dir: the folder of the run to resume, with the `config.yaml` of its last start.
        accept: the argument of `fit`; the name "schedule" accepts that rate.
        transformation: the optimizer of the resumed run.
        run_steps: the number of steps that the resumed run will have, None if unknown.
        steps_per_epoch: the length of an epoch, None if unknown.

    Raises:
        ValueError: all learning rates are 0 in the last percent of the new steps, or at most
            `NEGLIGIBLE` of the highest one in all of them, and `accept` does not contain
            "schedule".
    """
    saved_steps = _saved_steps(run_dir, steps_per_epoch)
    if saved_steps is None or run_steps is None or run_steps <= saved_steps:
        return
    schedules = known_rates(transformation)
    if not updates_each_step(transformation) or not schedules or not all(map(callable, schedules)):
        return
    before = _highest(schedules, np.linspace(0, saved_steps - 1, _NUM_SAMPLES))
    after = _highest(schedules, np.linspace(saved_steps, run_steps - 1, _NUM_SAMPLES))
    # Some schedules are meant to be 0 at their last step, and a long cosine schedule is 0 in
    # float32 some steps before.
    near_end = min(run_steps - 2, run_steps - (run_steps - saved_steps) // 100)
    (almost_last,) = _highest(schedules, np.array([max(saved_steps, near_end)]))
    first, last = after[0], after[-1]
    is_over = almost_last == last == 0 or max(after) <= NEGLIGIBLE * max(before)
    if is_over and ACCEPTED not in accept:
        raise ValueError(
            f"`resume` cannot extend {run_dir} from {saved_steps} to {run_steps} steps, because "
            f"the schedule ends before: the learning rate would be {last:.3g}. For a longer "
            'schedule, pass another optimizer and accept=["optimizer"] (--optimizer.num_steps '
            f"{run_steps} and --resume-accept optimizer on the command line): the rate then "
            f"differs from step 0 on. To train at a rate of {last:.3g} anyway, pass "
            f'accept=["{ACCEPTED}"] (--resume-accept {ACCEPTED}).'
        )
    logger.info(
        "The run is extended from %d to %d steps. Its schedule gives a learning rate of %.3g for "
        "the first new step, and %.3g for the last.",
        saved_steps, run_steps, first, last,
    )  # fmt: skip


def _saved_steps(run_dir: Path, steps_per_epoch: int | None) -> int | None:
    """Returns the number of steps that a saved run was to have; None if it is unknown."""
    values = read_settings(run_dir).values
    limits = [values.get(f"trainer.{name}") for name in ("max_epochs", "max_steps")]
    if limits == [None, None]:
        return None
    epochs, steps = (parse_number(limit or "") for limit in limits)
    return num_steps(epochs, steps, steps_per_epoch)


def _highest(schedules: Sequence[Any], steps: np.ndarray[Any, Any]) -> list[float]:
    """Returns the highest rate at each of some steps."""
    functions = [getattr(schedule, "schedule_fn", schedule) for schedule in schedules]
    with usual_promotion(), jax.transfer_guard("allow"):
        rates = [jax.jit(jax.vmap(each))(steps.astype(np.int32)) for each in functions]
        return np.max(np.asarray(rates), axis=0).tolist()  # type: ignore[no-any-return]
