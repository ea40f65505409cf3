"""The programs of the compiled steps: what they return, and how often they are traced."""

from collections import Counter

import jax
import numpy as np
import pytest
from parts import StepParts, batch_of

from nnx_alexnet.training.step_programs import (
    evaluate_program,
    gradients_program,
    predict_program,
    train_many_program,
    train_program,
)
from nnx_alexnet.training.steps_per_dispatch import stacked

KEY = jax.random.key(0)
BATCHES = [batch_of(1.0, 3.0), batch_of(4.0, 6.0), batch_of(-2.0, 0.0)]
# From a weight of 1, by steps of half the mean.
WEIGHTS, LOSSES = [0.0, -2.5, -2.0], [2.0, 0.0, 2.5]


@pytest.fixture
def made():
    made = StepParts()
    for verb in ("evaluate", "predict"):
        made.functions.carried[verb] = []
    return made


def test_a_train_step_takes_one_update_and_looks_its_rows_up(made):
    traces = Counter()
    train = train_program(made.functions, made.functions.update, traces)
    state, metrics, info = train(made.state, made.empty, {}, BATCHES[0], KEY)
    assert [leaf.tolist() for leaf in state.model] == [0.0]
    data = {"image": np.float32([[1.0], [3.0]]), "label": np.zeros(2, np.int32)}
    indices = {"index": np.array([1, 1]), "mask": np.ones(2, bool)}
    state, metrics, info = train(made.state, metrics, data, indices, KEY)
    assert [leaf.tolist() for leaf in state.model] == [-0.5]
    assert (float(info["loss"]), float(metrics.compute()["loss"])) == (3.0, 2.5)
    assert traces == {"train": 2}


def test_one_program_takes_any_number_of_steps(made):
    traces = Counter()
    many = jax.jit(train_many_program(made.functions, made.functions.update, traces))
    group = stacked(BATCHES, 3)
    for num in (1, 2, 3):
        state, metrics, infos, last = many(
            made.state, made.empty, {}, (group, np.int32(num)), KEY
        )  # fmt: skip
        assert [leaf.tolist() for leaf in state.model] == [WEIGHTS[num - 1]]
        assert infos["loss"].tolist() == LOSSES[:num] + [0.0] * (3 - num)
        assert infos["is_finite"].all(), "also of steps that were not taken"
        assert float(last["loss"]) == LOSSES[num - 1]
        assert float(metrics.compute()["loss"]) == pytest.approx(np.mean(LOSSES[:num]))
    assert traces == {"train": 1}


def test_an_evaluation_returns_its_outputs_and_adds_to_the_metrics(made):
    traces = Counter()
    evaluate = evaluate_program(made.functions, traces)
    carried, metrics, outputs = evaluate(made.state.model, [], made.empty, BATCHES[0])
    assert outputs["loss"].tolist() == [1.0, 3.0]
    _, metrics, _ = evaluate(made.state.model, carried, metrics, BATCHES[1])
    assert float(metrics.compute()["loss"]) == 3.5
    assert traces == {"evaluate": 2}


def test_a_prediction_returns_all_rows_of_a_batch_with_its_padding(made):
    traces = Counter()
    batch = BATCHES[0] | {"mask": np.array([True, False])}
    _, predictions = predict_program(made.functions, traces)(made.state.model, [], batch)
    assert predictions.tolist() == [1.0, 3.0]
    assert traces == {"predict": 1}


def test_gradients_are_counted_apart_from_train_steps(made):
    traces = Counter()
    found = gradients_program(made.functions, traces)(made.state.model, BATCHES[1], KEY)
    assert [leaf.tolist() for leaf in found] == [5.0]
    assert traces == {"gradients": 1}
