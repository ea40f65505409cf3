"""The names of the metrics that a fit publishes, known before its first step."""

from types import SimpleNamespace

import numpy as np
import pytest

from nnx_alexnet.callbacks import CallbackList, LearningRateMonitor
from nnx_alexnet.training.metric_names import (
    checked_metrics,
    names_at_epoch_ends,
    names_at_log_points,
)

EVALUATION = SimpleNamespace(metric_names=("loss", "accuracy"), split_metrics={})
TRAINING = SimpleNamespace(rate_names=("lr/head", "lr/body"), example_flops={"bfloat16": 1e9})
SPEED = {
    "perf/images_per_second", "perf/step_seconds", "perf/data_wait", "perf/compile_seconds"
}  # fmt: skip


def at_ends(*callbacks, val_sets=()):
    return names_at_epoch_ends(EVALUATION, TRAINING, CallbackList(callbacks), val_sets=val_sets)


def test_log_points_have_the_metrics_of_a_window():
    assert names_at_log_points(EVALUATION) == {"train/loss_step", "train/accuracy_step"}


def test_epochs_end_with_their_metrics_the_rates_and_the_speed():
    assert at_ends() == {"train/loss", "train/accuracy", "lr/head", "lr/body", *SPEED}


def test_a_validation_adds_its_own_metrics():
    assert at_ends(val_sets=["val"]) - at_ends() == {"val/loss", "val/accuracy"}
    sets = at_ends(val_sets=["val/a", "val/b"]) - at_ends()
    assert sets == {"val/a/loss", "val/a/accuracy", "val/b/loss", "val/b/accuracy"}


def test_a_metric_of_a_whole_split_is_one_of_validation():
    evaluation = SimpleNamespace(**{**vars(EVALUATION), "split_metrics": {"auroc": None}})
    for val_sets, new in ((["val"], {"val/auroc"}), ([], set())):
        callbacks = CallbackList(())
        found = names_at_epoch_ends(evaluation, TRAINING, callbacks, val_sets=val_sets)
        assert found - at_ends(val_sets=val_sets) == new


def test_callbacks_add_the_metrics_that_they_declare():
    monitor = LearningRateMonitor(0.1)
    monitor.metric_names = ("my/score",)
    assert at_ends(monitor) - at_ends() == {"my/score"}


H100 = SimpleNamespace(
    device_kind="NVIDIA H100 80GB HBM3", memory_stats=lambda: {"peak_bytes_in_use": 1}
)  # fmt: skip


def test_a_device_that_tells_its_peaks_adds_their_use(monkeypatch):
    without = at_ends()
    monkeypatch.setattr("jax.local_devices", lambda: [H100])
    assert at_ends() - without == {"perf/mfu", "perf/peak_memory_bytes"}


OWN = [
    "train/loss", "val/accuracy", "test/loss", "val/clean/loss", "train/loss_step"
]  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_the_trainer_keeps_the_metrics_of_its_splits_to_itself(name):
    with pytest.raises(ValueError, match=f"`metrics` has the name '{name}'"):
        checked_metrics({name: 1.0}, EVALUATION, ["val/clean"])
    assert checked_metrics({name: 1.0}, None) == {name: 1.0}  # nothing is known yet


def test_the_metrics_of_a_callback_become_numbers():
    found = checked_metrics({"my/count": np.int32(2), "val/other": 1.5}, EVALUATION, ["val"])
    assert found == {"my/count": 2.0, "val/other": 1.5}
    with pytest.raises(TypeError, match="my/text"):
        checked_metrics({"my/text": "2"}, EVALUATION)
