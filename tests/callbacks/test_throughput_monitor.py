from types import SimpleNamespace

import pytest
from helpers import At, Dense, press_ctrl_c, tiny_arrays, trainer_of

from nnx_alexnet import DataModule
from nnx_alexnet.callbacks import ThroughputMonitor, throughput_monitor

IMAGES = "perf/total_images"


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(throughput_monitor, "time", clock)
    return clock


class Trainee:
    """The part of a trainer that the monitor reads."""

    def __init__(self):
        self.num_examples, self.logged = 0, []
        self.log = self.logged.append


def run(monitor, clock, *, starting=0.0, training=0.0, validation=None, saving=0.0, state=None):
    """One fit of one epoch, whose parts take these numbers of seconds."""
    trainer = Trainee()
    monitor.setup(trainer, "fit")
    monitor.on_fit_start(trainer)
    if state is not None:
        monitor.load_state_dict(state)
    clock.now += starting
    monitor.on_train_start(trainer)
    monitor.on_train_epoch_start(trainer)
    clock.now += training
    if validation is not None:
        monitor.on_validation_start(trainer)
        clock.now += validation
    monitor.on_train_epoch_end(trainer)
    clock.now += saving
    return trainer.logged[-1]


def test_the_share_excludes_starting_and_validation(clock):
    logged = run(ThroughputMonitor(), clock, starting=2.0, training=6.0, validation=4.0)
    assert logged["perf/total_seconds"] == pytest.approx(12.0)
    assert logged["perf/training_share"] == pytest.approx(0.5)


def test_an_epoch_without_validation_counts_to_its_end(clock):
    logged = run(ThroughputMonitor(), clock, training=6.0)
    assert logged["perf/training_share"] == pytest.approx(1.0)


def test_totals_continue_after_a_resume_without_the_time_between(clock):
    first = ThroughputMonitor()
    run(first, clock, starting=2.0, training=6.0, saving=2.0)
    state = first.state_dict()
    clock.now += 100_000
    second = run(ThroughputMonitor(), clock, starting=2.0, training=8.0, state=state)
    assert second["perf/total_seconds"] == pytest.approx(20.0)
    assert second["perf/training_share"] == pytest.approx(14.0 / 20.0)


def test_the_state_within_an_epoch_includes_its_training_so_far(clock):
    monitor, trainer = ThroughputMonitor(), Trainee()
    monitor.setup(trainer, "fit")
    monitor.on_fit_start(trainer)
    monitor.on_train_start(trainer)
    monitor.on_train_epoch_start(trainer)
    clock.now += 3.0
    assert monitor.state_dict() == {"images": 0, "seconds": 3.0, "training_seconds": 3.0}


def test_one_instance_serves_two_fits(clock):
    monitor = ThroughputMonitor()
    run(monitor, clock, training=6.0, validation=6.0, saving=50.0)
    second = run(monitor, clock, training=5.0)
    assert second["perf/total_seconds"] == pytest.approx(5.0)
    assert second["perf/training_share"] == pytest.approx(1.0)


def build(folder, *callbacks):
    # 5 batches per epoch, the last of 4 examples.
    data = DataModule(tiny_arrays(num=36), tiny_arrays(num=16), batch_size=8, drop_last=False)
    return trainer_of(Dense(), data, callbacks=callbacks, max_epochs=3, log_dir=folder, name="tiny")


@pytest.mark.parametrize("steps_per_execution", [1, 3, "auto"])
@pytest.mark.parametrize(("drop_last", "images"), [(False, [36, 72]), (True, [32, 64])])
def test_each_example_counts_once_and_padding_does_not(steps_per_execution, drop_last, images):
    data = DataModule(tiny_arrays(num=36), batch_size=8, drop_last=drop_last)
    trainer = trainer_of(
        Dense(), data, callbacks=ThroughputMonitor(), steps_per_execution=steps_per_execution
    )
    history = trainer.fit()
    assert [row[IMAGES] for row in history] == images
    assert set(ThroughputMonitor.metric_names) <= trainer.metric_names


@pytest.mark.parametrize("step", [3, 5, 7])
def test_a_resumed_run_has_the_totals_of_an_uninterrupted_one(tmp_path, step):
    stopped = build(tmp_path, ThroughputMonitor(), At(step, press_ctrl_c))
    stopped.fit()
    assert stopped.interrupted
    resumed = build(tmp_path, ThroughputMonitor())
    history = resumed.fit(resume="auto")
    assert [row[IMAGES] for row in history] == [36, 72, 108]
    seconds = [row["perf/total_seconds"] for row in history]
    assert seconds == sorted(seconds)
    assert all(0 < row["perf/training_share"] < 1 for row in history)


def test_a_validation_alone_does_not_restart_the_clock(clock):
    monitor = ThroughputMonitor()
    monitor.setup(SimpleNamespace(), "fit")
    clock.now += 5.0
    monitor.setup(SimpleNamespace(), "validate")
    assert monitor.state_dict()["seconds"] == 5.0
