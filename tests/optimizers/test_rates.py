"""Which learning rates an optimizer's state holds, and how their metrics are named."""

import jax
import optax
import pytest
from linear_runs import fit

from nnx_alexnet.callbacks import EarlyStopping, LearningRateMonitor
from nnx_alexnet.optimizers import create_optimizer, rate_leaves, scalable_leaves


def partitioned(rates):
    def label(path, _):
        return "kernels" if "kernel" in jax.tree_util.keystr(path) else "biases"

    return optax.partition(
        {name: optax.inject_hyperparams(optax.sgd)(rate) for name, rate in rates.items()},
        lambda parameters: jax.tree_util.tree_map_with_path(label, parameters),
    )


def test_each_group_of_parameters_has_its_learning_rate():
    _, history = fit(partitioned({"kernels": 0.5, "biases": lambda step: 0.25 / (step + 1)}))
    rates = [{k: v for k, v in row.items() if k.startswith("lr")} for row in history]
    assert rates == [
        {"lr/biases": pytest.approx(0.25 / step), "lr/kernels": 0.5} for step in (1, 2, 3)
    ]


def test_a_rate_of_a_group_can_be_monitored_and_lr_cannot():
    optimizer = partitioned({"kernels": 0.5, "biases": 0.25})
    fit(optimizer, callbacks=[EarlyStopping("lr/kernels")])
    with pytest.raises(ValueError, match=r"`monitor` \(='lr'\) is unknown.*'lr/biases'"):
        fit(optimizer, callbacks=[EarlyStopping("lr")])
    with pytest.raises(ValueError, match=r"has several\. .*: lr/biases, lr/kernels\. Remove"):
        fit(optimizer, callbacks=[LearningRateMonitor()])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], {}),
        (["a/mu"], {}),
        (["x/hyperparams/learning_rate", "x/hyperparams/b1"], {"lr": 0}),
        (["0/hyperparams/learning_rate", "1/hyperparams/learning_rate"], {"lr/0": 0, "lr/1": 1}),
        (
            ["in/a/b/s/hyperparams/learning_rate", "mu", "in/c/s/hyperparams/learning_rate"],
            {"lr/a.b": 0, "lr/c": 2},
        ),
        (["hyperparams/learning_rate", "in/hyperparams/learning_rate"], {"lr": 0, "lr/in": 1}),
    ],
)
def test_rates_are_named_by_what_tells_their_paths_apart(names, expected):
    assert rate_leaves(names, [()] * len(names)) == expected


def test_a_rate_that_is_an_array_is_no_metric():
    assert rate_leaves(["x/hyperparams/learning_rate"], [(3,)]) == {}


def stored(rate):
    return optax.inject_hyperparams(optax.sgd)(rate)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (lambda: optax.MultiSteps(stored(0.5), 2), {"lr": 0.5}),
        (
            lambda: optax.MultiSteps(partitioned({"kernels": 0.5, "biases": 0.25}), 2),
            {"lr/biases": 0.25, "lr/kernels": 0.5},
        ),
        (
            lambda: optax.chain(
                optax.clip(1.0), partitioned({"kernels": 0.5, "biases": 0.25}), optax.identity()
            ),
            {"lr/biases": 0.25, "lr/kernels": 0.5},
        ),
        (
            lambda: create_optimizer("sgd", 0.5, rate_factors={"bias": 0.5}, clip_norm=1.0),
            {"lr/bias": 0.25, "lr/rest": 0.5},
        ),
    ],
    ids=["multi steps", "multi steps of a partition", "chain", "rate factors"],
)
def test_rates_inside_other_transformations_are_logged(optimizer, expected):
    row = fit(optimizer(), epochs=1)[1][-1]
    assert {name: value for name, value in row.items() if name.startswith("lr")} == expected


def test_the_leaf_that_scales_a_rate_depends_on_its_schedule():
    hyperparams, states = "g/hyperparams/learning_rate", "g/hyperparams_states/learning_rate/"
    assert scalable_leaves([hyperparams], {"lr": 0}) == {"lr": 0}
    assert scalable_leaves([hyperparams, states + "count"], {"lr": 0}) == {}
    assert scalable_leaves([hyperparams, states + "count", states + "scale"], {"lr": 0}) == {
        "lr": 2
    }
