"""`Dispatcher`: sends steps, reads their results later, and publishes the metrics of log points."""

import jax
import numpy as np
import optax
import pytest
from parts import Parts, batch_of

from nnx_alexnet.devices import NonFiniteError


def losses(parts):
    return [(step, m["train/loss_step"]) for step, m in parts.logged if "train/loss_step" in m]


def test_a_step_moves_the_weight_by_the_rate_times_the_mean():
    parts = Parts(weight=1.0, rate=0.5)
    last = parts.send(batch_of(1.0, 3.0))  # mean 2, loss 2
    assert float(last["loss"]) == 2.0
    assert parts.weight == 0.0
    last = parts.send(batch_of(4.0, 6.0))  # mean 5, loss 0
    assert float(last["loss"]) == 0.0
    assert parts.weight == -2.5
    progress = parts.progress
    assert (progress.global_step, progress.step_in_epoch, progress.num_examples) == (2, 2, 4)


def test_several_steps_in_one_dispatch_are_those_steps():
    batches = [batch_of(1.0, 3.0), batch_of(4.0, 6.0), batch_of(-2.0, 0.0)]
    single, grouped = Parts(), Parts()
    for batch in batches:
        single.send(batch)
    last = grouped.send(*batches, max_steps=8)
    assert grouped.weight == single.weight == -2.0
    assert float(last["loss"]) == 2.5  # -2.5 times the mean, -1
    assert grouped.progress.global_step == 3
    assert grouped.progress.num_examples == 6


def test_single_steps_are_read_two_dispatches_late():
    parts = Parts(log_every_n_steps=1, rate=0.0)
    for value in (1.0, 2.0, 3.0, 4.0):
        parts.send(batch_of(value, value))
    assert losses(parts) == [(1, 1.0), (2, 2.0)]
    assert parts.dispatcher.is_busy
    parts.dispatcher.read_all()
    assert losses(parts) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert not parts.dispatcher.is_busy


def test_groups_are_read_one_dispatch_late():
    parts = Parts(log_every_n_steps=2, rate=0.0)
    for value in (1.0, 3.0, 5.0):
        parts.send(batch_of(value, value), batch_of(value + 1, value + 1), max_steps=2)
    assert losses(parts) == [(2, 1.5), (4, 3.5)]


def test_a_log_point_has_the_mean_since_the_one_before():
    parts = Parts(log_every_n_steps=3, rate=0.0)
    for value in (1.0, 2.0, 6.0, 10.0, 20.0, 60.0, 7.0):
        parts.send(batch_of(value, value))
    parts.dispatcher.read_all()
    assert losses(parts) == [(3, 3.0), (6, 30.0)]


def test_the_metrics_of_an_epoch_are_over_all_of_its_steps():
    parts = Parts(log_every_n_steps=2, rate=0.0)
    for value in (1.0, 2.0, 6.0):  # of which the last one is after the log point
        parts.send(batch_of(value, value))
    parts.dispatcher.read_all()
    assert parts.dispatcher.end_epoch()["train/loss"] == 3.0
    parts.dispatcher.begin_epoch()
    parts.send(batch_of(8.0, 8.0))
    parts.dispatcher.read_all()
    assert parts.dispatcher.end_epoch()["train/loss"] == 8.0


def test_a_restored_epoch_continues_the_saved_sums():
    saved, restored = (Parts(log_every_n_steps=2, rate=0.0) for _ in range(2))
    for value in (1.0, 2.0, 6.0):
        saved.send(batch_of(value, value))
    saved.dispatcher.read_all()
    sums = saved.dispatcher.sums()
    names = ["window/loss/total", "window/loss/count", "epoch/loss/total", "epoch/loss/count"]
    assert [sums[name].item() for name in names] == [12.0, 2, 6.0, 4]
    restored.progress.restore(saved.progress.to_json())
    restored.dispatcher.restore_sums(sums)
    for parts in (saved, restored):
        parts.send(batch_of(10.0, 10.0))
        parts.dispatcher.read_all()
    assert losses(saved)[-1] == losses(restored)[-1] == (4, 8.0)
    assert restored.dispatcher.end_epoch()["train/loss"] == 19 / 4


@pytest.mark.parametrize("together", [False, True])
def test_a_loss_that_is_not_finite_names_its_step_and_examples(together):
    parts = Parts()
    bad = batch_of(1.0, np.nan, start=40)
    batches = [batch_of(1.0, 2.0), bad, batch_of(3.0, 4.0)]
    for group in [batches] if together else [[batch] for batch in batches[:2]]:
        parts.send(*group, max_steps=4 if together else 1)
    with pytest.raises(NonFiniteError) as raised:
        parts.dispatcher.read_all()
    text = str(raised.value)
    assert text.startswith("Step 2 had a loss of nan. The batch held the examples [40, 41]; ")
    assert "its `image` is not finite for [41]" in text


def test_a_loss_that_is_not_finite_is_let_pass_where_that_is_allowed():
    parts = Parts(check_finite=False)
    parts.send(batch_of(1.0, np.nan))
    parts.dispatcher.read_all()
    assert np.isnan(parts.weight)


def test_metrics_can_be_read_without_publishing_them():
    parts = Parts(log_every_n_steps=1, rate=0.0)
    parts.send(batch_of(3.0, 3.0))
    parts.dispatcher.read_all(publishes=False)
    assert parts.logged == []
    assert parts.dispatcher.end_epoch()["train/loss"] == 3.0


def test_gradients_are_those_of_a_step_and_change_nothing():
    parts = Parts(weight=1.0)
    parts.send(batch_of(1.0, 3.0))
    found = parts.dispatcher.gradients(batch_of(2.0, 6.0))
    assert {name: float(value) for name, value in found.items()} == {"weight": 4.0}
    assert parts.weight == 0.0
    assert parts.progress.global_step == 1


def test_learning_rates_are_those_of_the_newest_step():
    schedule = optax.inject_hyperparams(optax.sgd)(lambda step: 1.0 * step)
    parts = Parts(optimizer=schedule, log_every_n_steps=2)
    assert parts.dispatcher.learning_rates() == {"lr": 0.0}, "before the first step"
    parts.send(batch_of(1.0, 1.0))
    parts.send(batch_of(1.0, 1.0))
    assert parts.dispatcher.learning_rates() == {"lr": 1.0}
    parts.send(batch_of(1.0, 1.0))
    assert parts.dispatcher.learning_rates() == {"lr": 2.0}
    parts.dispatcher.read_all()
    rates = [(step, metrics["lr"]) for step, metrics in parts.logged]
    assert rates == [(2, 1.0)], "that of the log point, not of the step dispatched since"


def test_an_optimizer_that_stores_no_rate_has_none():
    parts = Parts()
    parts.send(batch_of(1.0, 1.0))
    assert parts.dispatcher.learning_rates() == {}


def test_data_on_the_device_are_looked_up_by_their_index():
    parts = Parts(train=(1.0, 2.0, 3.0, 5.0), weight=1.0)
    dispatcher = parts.dispatcher
    dispatcher.use_data(parts.data.on_device(parts.placement.replicated))
    indices = {"index": np.array([3, 0], np.int32), "mask": np.ones(2, bool)}
    assert float(parts.send(indices)["loss"]) == 3.0  # the mean of 5 and 1


def test_released_data_and_steps_are_forgotten():
    parts = Parts()
    parts.send(batch_of(1.0, 1.0))
    parts.dispatcher.use_data({"image": jax.numpy.zeros(2)})
    parts.dispatcher.release()
    assert parts.dispatcher.data == {}
    assert not parts.dispatcher.is_busy


class Clock:
    """A time that passes when a test says so."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)


def test_the_compilation_of_another_size_is_no_part_of_the_speed(monkeypatch):
    clock, parts = Clock(monkeypatch), Parts(rate=0.0)
    dispatch = parts.dispatcher._dispatch

    def slow(group, key, max_steps):
        traces = parts.arrays.num_compilations.get("train", 0)
        results = jax.block_until_ready(dispatch(group, key, max_steps))
        is_compiled = parts.arrays.num_compilations["train"] > traces
        clock.now += 1000.0 if is_compiled else 1.0
        return results

    monkeypatch.setattr(parts.dispatcher, "_dispatch", slow)
    for values in ([1.0] * 4, [1.0] * 4, [1.0] * 4, [1.0] * 2, [1.0] * 2):
        parts.send(batch_of(*values))
    parts.dispatcher.read_all()
    metrics = parts.dispatcher.end_epoch()
    # The clock starts with the second step: three steps of a second each, and a compilation.
    assert metrics["perf/images_per_second"] == pytest.approx(12 / 3)
    assert parts.arrays.num_compilations["train"] == 2


def test_waiting_counts_only_while_the_device_has_nothing_to_do(monkeypatch):
    clock, parts = Clock(monkeypatch), Parts(rate=0.0)
    parts.send(batch_of(1.0, 1.0))
    parts.dispatcher.read_all()
    clock.now += 1.0
    parts.dispatcher.note_wait(1.0)
    monkeypatch.setattr("nnx_alexnet.training.dispatcher.is_ready", lambda array: False)
    parts.send(batch_of(1.0, 1.0))
    clock.now += 3.0
    parts.dispatcher.note_wait(3.0)  # a step is under way
    parts.dispatcher.read_all()
    assert parts.dispatcher.end_epoch()["perf/data_wait"] == pytest.approx(1 / 4)
