"""The log lines at the start: what is not trained, and how a resumed run finds its data."""

import logging
from types import SimpleNamespace

import jax
import optax
import pytest
from flax import nnx

from nnx_alexnet.training.start_reports import (
    report_frozen_layers,
    report_stream,
    report_trained_parameters,
)
from nnx_alexnet.training.trainable import trainable_filter


class Net(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)


@pytest.fixture
def logs(warnings):
    warnings.set_level(logging.INFO, logger="nnx_alexnet")
    return warnings


def levels(logs):
    return [(record.levelname, record.getMessage()) for record in logs.records]


def test_a_model_in_training_mode_is_not_reported(logs):
    report_frozen_layers(Net(), [])
    assert levels(logs) == []


def test_a_model_that_was_left_in_evaluation_mode_is_warned_of(logs):
    model = Net()
    model.eval()
    report_frozen_layers(model, ["norm/mean", "norm/var"])
    ((level, text),) = levels(logs)
    assert level == "WARNING"
    assert text.startswith("All layers with a mode (dropout, norm) are in evaluation mode")
    assert "model.train() before fit()" in text


def test_some_frozen_layers_are_meant_and_only_listed(logs):
    model = Net()
    model.norm.eval()
    report_frozen_layers(model, ["norm/mean", "norm/var"])
    assert levels(logs) == [
        ("INFO", "Frozen in evaluation mode, as they were before fit(): norm.")
    ]  # fmt: skip


def test_statistics_that_stay_although_their_layer_is_not_frozen_are_warned_of(logs):
    report_frozen_layers(Net(), ["norm/mean", "norm/var"])
    ((level, text),) = levels(logs)
    assert level == "WARNING"
    assert text.startswith("The statistics of norm are not updated in training")


def test_a_statistic_of_the_model_itself_has_no_layer_to_name(logs):
    report_frozen_layers(Net(), ["scale"])
    assert levels(logs)[0][1].startswith("The statistics of the model are not updated")


def test_of_many_layers_five_are_named_and_the_others_counted(logs):
    model = nnx.List([nnx.Dropout(0.5, deterministic=True) for _ in range(7)])
    both = nnx.Dict({"frozen": model, "other": nnx.Dropout(0.5)})
    report_frozen_layers(both, [])
    named = ", ".join(f"frozen/{number}" for number in range(5))
    assert levels(logs) == [
        ("INFO", f"Frozen in evaluation mode, as they were before fit(): {named} and 2 more.")
    ]


def test_an_optimizer_that_changes_all_parameters_is_not_reported(logs):
    report_trained_parameters(optax.sgd(0.1), Net())
    assert levels(logs) == []


def test_an_optimizer_that_changes_no_parameter_is_warned_of(logs):
    report_trained_parameters(optax.set_to_zero(), Net())
    ((level, text),) = levels(logs)
    assert level == "WARNING"
    assert text.startswith("`optimizer` changes no parameter")


def test_parameters_that_an_optimizer_leaves_out_are_listed(logs):
    def labels(parameters):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "head" if "head" in jax.tree_util.keystr(path) else "rest", parameters
        )

    partition = optax.partition({"head": optax.sgd(0.1), "rest": optax.set_to_zero()}, labels)
    report_trained_parameters(partition, Net())
    assert levels(logs) == [
        ("INFO", "`optimizer` does not change these parameters: norm/bias, norm/scale.")
    ]


def test_frozen_parameters_and_their_moving_statistics_are_reported(logs):
    model = Net()
    report_trained_parameters(optax.sgd(0.1), model, trainable_filter(model, "head"))
    trained, statistics = [text for _, text in levels(logs)]
    assert trained == (
        "Trained parameters: head/bias, head/kernel. Frozen parameters: norm/bias, norm/scale."
    )
    assert statistics.startswith("The parameters of norm are frozen, but the statistics are upda")


def test_statistics_of_a_frozen_layer_in_evaluation_mode_are_not_reported(logs):
    model = Net()
    model.norm.eval()
    report_trained_parameters(optax.sgd(0.1), model, trainable_filter(model, "head"))
    assert len(levels(logs)) == 1


def test_the_log_says_how_a_resumed_run_finds_its_place_in_a_stream(logs):
    report_stream(None)
    assert levels(logs) == []
    report_stream(SimpleNamespace(kind="StatefulDataLoader.state_dict"))
    report_stream(SimpleNamespace(kind=None))
    (_, with_state), (_, without) = levels(logs)
    assert "state of the training data (StatefulDataLoader.state_dict)" in with_state
    assert "reads the interrupted epoch again up to its position" in without
