import math
from types import SimpleNamespace

import pytest
from fake_trainer import FakeTrainer

from nnx_alexnet.callbacks import CallbackList, MetricMonitor, ModelCheckpoint
from nnx_alexnet.callbacks.metric_monitor import MissedValues, check_direction


def test_a_value_improves_by_more_than_min_delta():
    smaller, larger = MetricMonitor("x", min_delta=0.5), MetricMonitor("x", mode="max")
    assert smaller.is_better(1, None)
    assert smaller.is_better(1, 2)
    assert not smaller.is_better(1.5, 2)
    assert larger.is_better(2, 1)
    assert not larger.is_better(1, 1)
    assert not smaller.is_better(math.nan, None)


@pytest.mark.parametrize(
    ("name", "value"), [("mode", "mni"), ("min_delta", -0.1), ("min_delta", math.nan)]
)
def test_arguments_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        MetricMonitor("val/loss", **{name: value})


def test_a_fit_starts_without_a_best_value_unless_it_resumes():
    monitor = MetricMonitor("val/loss")
    monitor.best, monitor.best_step = 0.5, 10
    state = monitor.state_dict()
    trainer = FakeTrainer([monitor])
    trainer.begin()
    assert (monitor.best, monitor.best_step) == (None, None)
    trainer.begin({"MetricMonitor(val/loss)": state})
    assert (monitor.best, monitor.best_step) == (0.5, 10)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("val/losss", r"`monitor`.*did you mean 'val/loss'.*'train/loss'"),
        ("train/loss_step", "published at log points, .*'train/loss' is the mean over an epoch"),
        ("perf/mfu", "is not published here: the peak of the device is unknown"),
    ],
)
def test_a_metric_that_no_epoch_publishes_is_refused(name, message):
    trainer = FakeTrainer([MetricMonitor(name)])
    with pytest.raises(ValueError, match=message):
        trainer.begin()
    trainer.callbacks.call("setup", trainer, "test")  # only a fit monitors


@pytest.mark.parametrize("name", ["val/accuracy", "val/dark/f1", "val/f1/cat"])
@pytest.mark.parametrize("monitor", [MetricMonitor, ModelCheckpoint])
def test_the_lowest_score_is_never_the_best(monitor, name):
    trainer = FakeTrainer([monitor(name)])
    trainer.metric_names = trainer.epoch_metric_names = frozenset({name})
    with pytest.raises(ValueError, match=rf"`mode` \(='min'\) would keep the lowest '{name}'"):
        trainer.begin()
    trainer.callbacks = CallbackList([monitor(name, mode="max")])
    trainer.begin()


@pytest.mark.parametrize("name", ["val/loss", "val/f1/loss", "val/accuracy_gap"])
def test_the_lowest_value_of_other_metrics_may_be_the_best(name):
    check_direction(name, "min")


def test_epochs_without_a_value_are_counted():
    missed = MissedValues("x", "Saver")
    for step in (1, 2, 3):
        missed.note(SimpleNamespace(global_step=step, metric_steps={"x": 2, "val/loss": step}))
    assert (
        missed.describe() == "`monitor` (='x') of Saver had no value at the end of 2 of 3 epochs."
    )


def test_an_epoch_without_validation_does_not_miss_a_validation_metric():
    missed = MissedValues("val/score", "Saver")
    for step, produced in ((1, "train/loss"), (2, "val/loss"), (3, "val/score")):
        missed.note(SimpleNamespace(global_step=step, metric_steps={produced: step}))
    assert "at the end of 1 of 2 epochs" in missed.describe()
