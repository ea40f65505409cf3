"""The learning rates of each schedule, compared with formulas and with torch."""

import warnings

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from nnx_alexnet.optimizers.schedules import SCHEDULES, ScalableSchedule, scheduled_rate


def rates(schedule, num, **arguments):
    rate = scheduled_rate(0.5, schedule, **arguments)
    return [float(rate(jnp.int32(step))) for step in range(num)]


def test_the_cosine_warms_up_for_a_tenth_of_the_run_unless_told_otherwise():
    angles = np.pi * np.arange(19) / 18
    expected = [0, 0.25, *0.25 * (1 + np.cos(angles))]
    assert rates("cosine", 21, num_steps=20) == pytest.approx(expected, abs=1e-6)


def test_a_warm_up_without_a_cosine_stays_at_the_rate():
    assert rates("constant", 4, warmup_steps=2) == [0, 0.25, 0.5, 0.5]


def test_linear_falls_to_zero_from_the_start_or_from_the_end_of_the_warm_up():
    assert rates("linear", 5, num_steps=4) == [0.5, 0.375, 0.25, 0.125, 0]
    assert rates("linear", 6, num_steps=4, warmup_steps=2) == [0, 0.25, 0.5, 0.25, 0, 0]


def test_one_cycle_is_that_of_optax_and_peaks_after_the_warm_up():
    schedule = optax.cosine_onecycle_schedule(50, 0.5)
    expected = [float(schedule(step)) for step in range(51)]
    found = rates("one_cycle", 51, num_steps=50)
    assert found == pytest.approx(expected, rel=1e-6)
    assert (found[0], found[15], found[50]) == pytest.approx((0.5 / 25, 0.5, 0.5 / 25e4))
    assert np.argmax(rates("one_cycle", 51, num_steps=50, warmup_steps=7)) == 7


def test_one_cycle_of_few_steps_is_finite():
    assert np.isfinite(rates("one_cycle", 3, num_steps=2)).all()


def test_steps_drop_as_those_of_torch():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    other, expected = torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.1), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps of the schedule without steps of the optimizer
        for _ in range(10):
            expected += other.get_last_lr()
            other.step()
    assert rates("step", 10, drop_every=3) == pytest.approx(expected, rel=1e-6)


def test_drops_are_counted_from_the_start_of_the_warm_up():
    found = rates("step", 6, drop_every=4, drop_factor=0.5, warmup_steps=2)
    assert found == [0, 0.25, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("schedule", sorted({*SCHEDULES} - {"constant"}))
def test_no_schedule_exceeds_its_highest_rate(schedule):
    steps = {"drop_every": 5} if schedule == "step" else {"num_steps": 20}
    assert 0.45 <= max(rates(schedule, 20, **steps)) <= 0.5


def test_a_scaled_schedule_multiplies_the_rates_of_later_steps():
    optimizer = optax.inject_hyperparams(optax.sgd)(
        learning_rate=ScalableSchedule(optax.linear_schedule(1.0, 0.0, 4))
    )
    state, seen = optimizer.init(jnp.ones(1)), []
    for step in range(4):
        if step == 2:
            scaled = state.hyperparams_states["learning_rate"]._replace(scale=jnp.float32(0.5))
            state = state._replace(hyperparams_states={"learning_rate": scaled})
        update, state = optimizer.update(jnp.ones(1), state, jnp.ones(1))
        seen.append((float(state.hyperparams["learning_rate"]), -float(update[0])))
    assert seen == [(1, 1), (0.75, 0.75), (0.25, 0.25), (0.125, 0.125)]
