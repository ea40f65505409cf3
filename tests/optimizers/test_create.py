"""What `create_optimizer` builds is what optax, torch or NumPy compute."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from linear_runs import fit

from nnx_alexnet.optimizers import OPTIMIZERS, create_optimizer

PARAMETERS = {"w": jnp.array([[1.0, -2.0], [3.0, 0.5]]), "bias": jnp.array([1.0, -1.0])}
GRADIENTS = {"w": jnp.array([[0.1, 0.4], [-30.0, 2.0]]), "bias": jnp.array([0.5, 0.25])}


def run(optimizer, num_steps=5):
    """The parameters after some steps with equal gradients, and the rates of the steps."""
    parameters, state, rates = PARAMETERS, optimizer.init(PARAMETERS), []
    optimizer = optax.with_extra_args_support(optimizer)
    for _ in range(num_steps):
        updates, state = optimizer.update(GRADIENTS, state, parameters, value=1.0)
        parameters = optax.apply_updates(parameters, updates)
        if hasattr(state, "hyperparams"):
            rates.append(float(state.hyperparams["learning_rate"]))
    return {name: np.asarray(value) for name, value in parameters.items()}, rates


def assert_same(optimizer, expected, *, rtol=1e-6):
    found = run(optimizer)[0]
    expected = expected if isinstance(expected, dict) else run(expected)[0]
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, optax.adam(1e-3)),
        ({"nesterov": True}, optax.nadam(1e-3)),
        (
            {"name": "adamw", "weight_decay": 0.1},
            optax.adamw(1e-3, weight_decay=0.1, mask={"w": True, "bias": False}),
        ),
        (
            {"name": "adamw", "weight_decay": 0.1, "decay_biases": True},
            optax.adamw(1e-3, weight_decay=0.1),
        ),
        ({"name": "lion", "decay_biases": True}, optax.lion(1e-3)),
        ({"name": "sgd"}, optax.sgd(1e-3, momentum=0.9, nesterov=True)),
        ({"name": "sgd", "momentum": 0.0}, optax.sgd(1e-3)),
        (
            {"name": "sgd", "clip_norm": 1.0},
            optax.chain(
                optax.clip_by_global_norm(1.0), optax.sgd(1e-3, momentum=0.9, nesterov=True)
            ),
        ),
        pytest.param(
            {"name": "lars", "weight_decay": 0.1, "decay_biases": True},
            optax.lars(1e-3, weight_decay=0.1),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"name": "lamb", "weight_decay": 0.1, "decay_biases": True},
            optax.lamb(1e-3, weight_decay=0.1),
            marks=pytest.mark.slow,
        ),
        ({"name": "polyak_sgd", "learning_rate": 0.5}, optax.polyak_sgd(0.5)),
        pytest.param(
            {"name": "schedule_free_sgd", "weight_decay": 0.1, "decay_biases": True},
            optax.contrib.schedule_free_sgd(1e-3, weight_decay=0.1),
            marks=pytest.mark.slow,
        ),
        (
            {"name": "schedule_free_adamw", "weight_decay": 0.1, "decay_biases": True},
            optax.contrib.schedule_free_adamw(1e-3, weight_decay=0.1),
        ),
    ],
)
def test_it_moves_parameters_as_optax_does(arguments, expected):
    assert_same(create_optimizer(**arguments), expected)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_weight_decay_is_that_of_torch(nesterov):
    expected = {name: torch.tensor(np.array(value)) for name, value in PARAMETERS.items()}
    options = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1, "nesterov": nesterov}
    other = torch.optim.SGD(expected.values(), **options)
    for _ in range(5):
        for name, value in expected.items():
            value.grad = torch.tensor(np.array(GRADIENTS[name]))
        other.step()
    optimizer = create_optimizer(
        "sgd", 0.01, momentum=0.9, nesterov=nesterov, weight_decay=0.1, decay_biases=True
    )
    assert_same(optimizer, {name: value.numpy() for name, value in expected.items()})


def lars_by_hand(rate=0.1, decay=0.1, trust=1e-3):
    weight, bias = (np.asarray(PARAMETERS[name], np.float64) for name in ("w", "bias"))
    moved = {"w": np.zeros_like(weight), "bias": np.zeros_like(bias)}
    for _ in range(5):
        step = np.asarray(GRADIENTS["w"], np.float64) + decay * weight
        step *= trust * np.linalg.norm(weight) / np.linalg.norm(step)
        moved = {
            "w": 0.9 * moved["w"] + rate * step,
            "bias": 0.9 * moved["bias"] + rate * np.asarray(GRADIENTS["bias"]),
        }
        weight, bias = weight - moved["w"], bias - moved["bias"]
    return {"w": weight, "bias": bias}


def lamb_by_hand(rate=0.1, decay=0.1):
    # With equal gradients, both of Adam's bias-corrected moments are those of the gradient.
    directions = {
        name: np.asarray(value, np.float64) / (np.abs(np.asarray(value, np.float64)) + 1e-6)
        for name, value in GRADIENTS.items()
    }
    weight, bias = (np.asarray(PARAMETERS[name], np.float64) for name in ("w", "bias"))
    for _ in range(5):
        step = directions["w"] + decay * weight
        weight = weight - rate * step * np.linalg.norm(weight) / np.linalg.norm(step)
        bias = bias - rate * directions["bias"]
    return {"w": weight, "bias": bias}


@pytest.mark.parametrize(("name", "by_hand"), [("lars", lars_by_hand), ("lamb", lamb_by_hand)])
def test_layer_wise_rates_and_decay_leave_biases_out(name, by_hand):
    assert_same(create_optimizer(name, 0.1, weight_decay=0.1), by_hand(), rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_keeps_its_rate_readable(name):
    assert run(create_optimizer(name, 0.25))[1] == [0.25] * 5


@pytest.mark.parametrize("clip_norm", [pytest.param(None, marks=pytest.mark.slow), 1.0])
def test_schedule_free_parameters_are_found_by_their_state(clip_norm):
    optimizer = create_optimizer("schedule_free_sgd", 0.1, warmup_steps=2, clip_norm=clip_norm)
    model, _ = fit(optimizer, epochs=2)
    assert np.isfinite(model.kernel[...]).all()
    inner = optimizer.init(PARAMETERS).inner_state
    found = inner if clip_norm is None else inner[1]
    assert isinstance(found, optax.contrib.ScheduleFreeState)


def test_the_cosine_rises_over_the_warm_up_and_falls_to_zero():
    rates = run(
        create_optimizer("sgd", 1.0, schedule="cosine", num_steps=6, warmup_steps=2), num_steps=7
    )[1]
    assert rates[:3] == pytest.approx([0, 0.5, 1])
    assert rates == pytest.approx([*rates[:3], *sorted(rates[3:], reverse=True)])
    assert rates[-1] == pytest.approx(0, abs=1e-6)


def test_drops_are_counted_in_epochs_if_their_length_is_given():
    arguments = {"schedule": "step", "drop_every": 1, "steps_per_epoch": 2, "drop_factor": 0.5}
    assert run(create_optimizer("sgd", 1.0, **arguments))[1] == [1, 1, 0.5, 0.5, 0.25]


@pytest.mark.parametrize("name", ["adamw", "lamb", "lars", "lion", "sgd"])
def test_a_factor_on_the_rate_of_a_group_is_a_lower_rate(name):
    optimizer = create_optimizer(name, 0.1, weight_decay=0.1, rate_factors={"w": 0.5})
    slow = run(create_optimizer(name, 0.05, weight_decay=0.1))[0]
    fast = run(create_optimizer(name, 0.1, weight_decay=0.1))[0]
    assert_same(optimizer, {"w": slow["w"], "bias": fast["bias"]})


def test_groups_are_clipped_by_the_norm_of_all_gradients():
    optimizer = create_optimizer("sgd", 0.1, clip_norm=1.0, rate_factors={"w": 1.0})
    assert_same(optimizer, create_optimizer("sgd", 0.1, clip_norm=1.0))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name": "adm"}, "did you mean 'adam'"),
        ({"schedule": "cos"}, "did you mean 'cosine'"),
        ({"learning_rate": 0.0}, r"`learning_rate` \(=0.0\) must be a number greater than 0"),
        ({"schedule": "cosine"}, r"`num_steps` \(=None\)"),
        ({"schedule": "cosine", "num_steps": 3, "warmup_steps": 3}, r"`num_steps` \(=3\)"),
        ({"weight_decay": 0.1}, "`weight_decay`.*'adamw', 'lamb', .* or 'sgd'"),
        ({"momentum": 0.5}, "`momentum` .* is not an argument of 'adam'; use 'lars' or 'sgd'"),
        ({"name": "sgd", "momentum": 1.0}, r"`momentum`.* in \[0, 1\)"),
        ({"name": "sgd", "weight_decay": -1.0}, "`weight_decay` .* must be a number of at least 0"),
        ({"warmup_steps": -1}, "`warmup_steps`"),
        ({"clip_norm": 0.0}, "`clip_norm`"),
        ({"schedule": "step"}, r"`drop_every` \(=None\)"),
        ({"schedule": "step", "drop_every": 0}, r"`drop_every` \(=0\)"),
        ({"schedule": "step", "drop_every": 3, "drop_factor": 1.0}, "`drop_factor`"),
        ({"drop_every": 3}, "`drop_every` .* is for schedule='step'"),
        (
            {"name": "schedule_free_sgd", "schedule": "linear", "num_steps": 9},
            "`schedule` .* must be 'constant' for 'schedule_free_sgd'",
        ),
        ({"name": "polyak_sgd", "rate_factors": {"w": 0.5}}, "cannot be used with 'polyak_sgd'"),
        ({"rate_factors": {"w": 0.0}}, r"`rate_factors` \(=0.0\) .* to freeze 'w', exclude it"),
        ({"rate_factors": {"w": "0.1"}}, r"`rate_factors` \(='0.1'\) must be a number"),
        ({"schedule": "linear", "num_steps": "9"}, r"`num_steps` \(='9'\) must be a positive int"),
    ],
)
def test_arguments_that_do_not_work_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        create_optimizer(**arguments)


def test_other_factors_than_a_dict_are_refused():
    with pytest.raises(TypeError, match=r"`rate_factors` \(=\['w'\]\) must be a dict"):
        create_optimizer(rate_factors=["w"])


def test_a_pattern_without_parameters_is_refused_before_a_fit():
    with pytest.raises(ValueError, match=r"`rate_factors` \(='head'\) .* are: bias, kernel\."):
        fit(create_optimizer(rate_factors={"head": 0.1}))


@pytest.mark.parametrize("dtype", ["bfloat16", "complex64"])
def test_the_rate_is_not_rounded_to_the_dtype_of_a_parameter(dtype):
    state = create_optimizer("adam", 1e-3).init({"a": jnp.ones(2, dtype), "b": jnp.ones(2)})
    rate = state.hyperparams["learning_rate"]
    assert (rate.dtype, float(rate)) == (jnp.float32, float(np.float32(1e-3)))
