"""`EpochMeter`: the sums and the speed of an epoch, by a clock that the test moves."""

import jax.numpy as jnp
import numpy as np
import pytest
from clu.metrics import Average, Collection

from nnx_alexnet.training.epoch_metrics import EpochMeter, computed

Losses = Collection.create(loss=Average.from_output("loss"))


def losses(*values):
    return Losses.single_from_model_output(loss=jnp.array(values))


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, in a list."""
    time = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: time[0])
    return time


def test_the_mean_of_an_epoch_weighs_examples_and_not_windows():
    meter = EpochMeter(Losses.empty())
    meter.add(losses(1.0, 2.0, 3.0))
    meter.add(losses(10.0))
    assert meter.values() == {"loss": pytest.approx(4.0)}


def test_values_are_python_floats():
    values = computed(losses(1.0, 2.0))
    assert values == {"loss": 1.5}
    assert type(values["loss"]) is float


def test_a_mean_over_nothing_is_nan():
    with np.errstate(invalid="ignore"):
        assert np.isnan(computed(Losses.empty())["loss"])


def test_rates_are_those_between_the_first_dispatch_and_the_newest_result(clock):
    meter = EpochMeter(Losses.empty())
    meter.started(0, 0)
    clock[0] += 2.0
    meter.finished(64, 4)
    clock[0] += 6.0
    meter.finished(192, 12)
    assert meter.epoch_rates() == {
        "perf/images_per_second": 192 / 8, "perf/step_seconds": 8 / 12, "perf/data_wait": 0.0
    }  # fmt: skip


def test_the_rates_of_a_window_are_those_since_the_last_one(clock):
    meter = EpochMeter(Losses.empty())
    meter.started(0, 0)
    clock[0] += 2.0
    meter.finished(64, 4)
    assert meter.window_rates()["perf/images_per_second"] == 32
    clock[0] += 4.0
    meter.finished(192, 12)
    assert meter.window_rates()["perf/images_per_second"] == 32
    assert meter.window_rates() == {}, "nothing has passed since"
    clock[0] += 1.0
    meter.finished(200, 13)
    assert meter.window_rates()["perf/step_seconds"] == 1.0


def test_the_clock_starts_with_the_first_result_if_the_first_dispatch_was_compiled(clock):
    meter = EpochMeter(Losses.empty())
    clock[0] += 1000.0
    meter.finished(16, 1)
    assert meter.epoch_rates() == {}, "a single mark has no duration"
    clock[0] += 2.0
    meter.finished(48, 3)
    assert meter.epoch_rates()["perf/images_per_second"] == 16
    meter.started(48, 3)  # the clock runs already
    assert meter.epoch_rates()["perf/images_per_second"] == 16


def test_the_compilation_of_another_batch_size_is_left_out(clock):
    meter = EpochMeter(Losses.empty())
    meter.started(0, 0)
    clock[0] += 1000.0
    meter.pause(999.0)
    meter.finished(50, 2)
    assert meter.epoch_rates()["perf/images_per_second"] == pytest.approx(50)
    assert meter.epoch_rates()["perf/step_seconds"] == pytest.approx(0.5)


def test_the_share_of_time_without_data_is_at_most_all_of_it(clock):
    meter = EpochMeter(Losses.empty())
    meter.started(0, 0)
    meter.wait(1.0)
    clock[0] += 4.0
    meter.finished(8, 1)
    assert meter.window_rates()["perf/data_wait"] == 0.25
    meter.wait(9.0)
    clock[0] += 4.0
    meter.finished(16, 2)
    assert meter.window_rates()["perf/data_wait"] == 1.0
    assert meter.epoch_rates()["perf/data_wait"] == 1.0
