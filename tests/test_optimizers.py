"""What `create_optimizer` builds is what optax builds, with the learning rate to be read."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nnx_alexnet.optimizers import OPTIMIZERS, create_optimizer

PARAMETERS = {"w": jnp.array([1.0, -2.0, 3.0])}
GRADIENTS = {"w": jnp.array([0.1, 0.4, -30.0])}


def run(optimizer, num_steps=5):
    parameters, state, rates = PARAMETERS, optimizer.init(PARAMETERS), []
    for _ in range(num_steps):
        updates, state = optimizer.update(GRADIENTS, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        if hasattr(state, "hyperparams"):
            rates.append(float(state.hyperparams["learning_rate"]))
    return np.asarray(parameters["w"]), rates


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, optax.adam(1e-3)),
        ({"name": "adamw", "weight_decay": 0.1}, optax.adamw(1e-3, weight_decay=0.1)),
        ({"name": "lion"}, optax.lion(1e-3)),
        ({"name": "sgd"}, optax.sgd(1e-3, momentum=0.9, nesterov=True)),
        (
            {"name": "sgd", "clip_norm": 1.0},
            optax.chain(
                optax.clip_by_global_norm(1.0), optax.sgd(1e-3, momentum=0.9, nesterov=True)
            ),
        ),
    ],
)
def test_it_moves_parameters_as_optax_does(arguments, expected):
    np.testing.assert_allclose(run(create_optimizer(**arguments))[0], run(expected)[0], rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_keeps_its_rate_readable(name):
    assert run(create_optimizer(name, 0.25))[1] == [0.25] * 5


def test_the_cosine_rises_over_the_warm_up_and_falls_to_zero():
    rates = run(
        create_optimizer("sgd", 1.0, schedule="cosine", num_steps=6, warmup_steps=2), num_steps=7
    )[1]
    assert rates[:3] == pytest.approx([0, 0.5, 1])
    assert rates == pytest.approx([*rates[:3], *sorted(rates[3:], reverse=True)])
    assert rates[-1] == pytest.approx(0, abs=1e-6)


def test_the_cosine_warms_up_for_a_tenth_of_the_run_unless_told_otherwise():
    optimizer = create_optimizer("sgd", 1.0, schedule="cosine", num_steps=20)
    assert run(optimizer)[1][:3] == pytest.approx([0, 0.5, 1])


def test_a_warm_up_without_a_cosine_stays_at_the_rate():
    assert run(create_optimizer("sgd", 1.0, warmup_steps=2))[1] == pytest.approx([0, 0.5, 1, 1, 1])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name": "adm"}, "did you mean 'adam'"),
        ({"schedule": "cos"}, "did you mean 'cosine'"),
        ({"learning_rate": 0.0}, r"`learning_rate` \(=0.0\) must be positive"),
        ({"schedule": "cosine"}, r"`num_steps` \(=None\)"),
        ({"schedule": "cosine", "num_steps": 3, "warmup_steps": 3}, r"`num_steps` \(=3\)"),
        ({"weight_decay": 0.1}, "`weight_decay`.*'adamw' or 'lion'"),
        ({"warmup_steps": -1}, "`warmup_steps`"),
        ({"clip_norm": 0.0}, "`clip_norm`"),
    ],
)
def test_arguments_that_do_not_work_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        create_optimizer(**arguments)
