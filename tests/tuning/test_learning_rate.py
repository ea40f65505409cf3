import math

import numpy as np
import optax
import pytest
from flax import nnx

from nnx_alexnet import DataModule, Task, create_optimizer
from nnx_alexnet.tuning import find_learning_rate
from nnx_alexnet.tuning.learning_rate import averages, steepest


class Quadratic(nnx.Module):
    def __init__(self):
        self.weight = nnx.Param(np.full(1, 3.0, np.float32))


class HalfSquare(Task):
    def outputs(self, model, batch):
        return {"loss": 0.5 * model.weight[...] ** 2 + 0 * batch["x"][:, 0]}


def constant(num=8):
    return DataModule({"x": np.ones((num, 1), np.float32)}, batch_size=4)


def test_losses_are_those_of_gradient_descent_with_rising_rates():
    found = find_learning_rate(
        Quadratic(), constant(), task=HalfSquare(), optimizer=optax.sgd,
        lowest=1e-3, highest=1.0, num_steps=20,
    )  # fmt: skip
    weight, expected = 3.0, []
    for step in range(20):
        expected.append(0.5 * weight**2)
        weight -= 1e-3 * 1000 ** (step / 19) * weight
    np.testing.assert_allclose(found.losses, expected, rtol=2e-4)
    np.testing.assert_allclose(found.rates, np.geomspace(1e-3, 1.0, 20), rtol=1e-6)


def test_the_model_does_not_change_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = Quadratic()
    find_learning_rate(model, constant(), task=HalfSquare(), num_steps=20)
    assert model.weight[...].tolist() == [3.0]
    assert list(tmp_path.iterdir()) == []


def test_a_test_that_diverges_ends_early():
    found = find_learning_rate(
        Quadratic(), constant(), task=HalfSquare(), optimizer=optax.sgd,
        lowest=1e-2, highest=1e4, num_steps=200,
    )  # fmt: skip
    assert len(found.losses) < 200
    assert all(map(math.isfinite, found.losses))
    assert 1e-2 < found.suggestion < 2  # gradient descent diverges from 2 on


def test_the_slope_is_over_the_logarithm_of_the_rate():
    rates = np.geomspace(1e-5, 1.0, 60).tolist()
    losses = [1 / (1 + math.exp(3 * (math.log(rate) - math.log(1e-2)))) for rate in rates]
    assert steepest(rates, losses) == pytest.approx(1e-2, rel=0.2)
    assert steepest(rates, sorted(losses)) is None  # it never falls


def test_averages_have_no_bias():
    losses = [1.0, 3.0, 2.0]
    weights = [0.02 * 0.98**n for n in (2, 1, 0)]
    expected = np.average(losses, weights=weights)
    assert averages(losses)[-1] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lowest": 0}, r"`lowest` \(=0\) must be a number greater than 0"),
        ({"lowest": 1.0, "highest": 0.1}, "less than `highest`"),
        ({"num_steps": 5}, "`num_steps`"),
    ],
)
def test_impossible_limits_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        find_learning_rate(Quadratic(), constant(), task=HalfSquare(), **options)


@pytest.mark.parametrize("optimizer", [optax.adam(1e-3), "adam"])
def test_an_optimizer_that_has_a_rate_already_is_refused(optimizer):
    with pytest.raises(TypeError, match=r"`optimizer` \(=.*a function that builds an optimizer"):
        find_learning_rate(Quadratic(), constant(), task=HalfSquare(), optimizer=optimizer)


@pytest.mark.parametrize("optimizer", [create_optimizer, lambda r: create_optimizer("sgd", r)])
def test_a_function_that_needs_a_number_is_refused(optimizer):
    with pytest.raises(TypeError, match=r"`optimizer` must be .* create_optimizer does not accept"):
        find_learning_rate(Quadratic(), constant(), task=HalfSquare(), optimizer=optimizer)


def test_the_rate_is_the_first_argument_whatever_its_name():
    found = find_learning_rate(
        Quadratic(),
        constant(),
        task=HalfSquare(),
        num_steps=20,
        optimizer=lambda r: optax.sgd(r, 0.5),
    )
    assert repr(found) == f"LearningRateSearch(suggestion={found.suggestion}, 20 steps)"


def test_the_plot_marks_the_suggestion():
    import matplotlib.pyplot as plt

    found = find_learning_rate(
        Quadratic(), constant(), task=HalfSquare(), optimizer=optax.sgd, lowest=1e-2, num_steps=40
    )
    axes = found.plot()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[2] == f"steepest at {found.suggestion:.2g}"
    assert axes.get_xscale() == "log"
    plt.close("all")
