"""`StepsAhead`: a run has the same results whether or not steps are dispatched ahead."""

import time
from functools import partial
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import tiny_arrays, trainer_of

from nnx_alexnet import DataModule
from nnx_alexnet.callbacks import Callback
from nnx_alexnet.training import steps_ahead
from nnx_alexnet.training.dispatcher import Dispatcher
from nnx_alexnet.training.steps_ahead import Ahead, StepsAhead, has_room_for_copy

NUM_EPOCHS = 4


@pytest.fixture
def used(monkeypatch):
    """Lists, for each dispatch ahead, whether its steps were used."""
    used, take = [], StepsAhead.take

    def noted(self, *arguments):
        had = self._ahead is not None
        ahead = take(self, *arguments)
        used.extend([ahead is not None] * had)
        return ahead

    monkeypatch.setattr(StepsAhead, "take", noted)
    return used


class Dense(nnx.Module):
    """A model without convolutions, so that a dispatch has several steps on a CPU too."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([nnx.Linear(64, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)])

    def __call__(self, image):
        hidden = nnx.relu(self.layers[0](image.reshape(len(image), -1)))
        return self.layers[1](hidden)


class AtEpochEnd(Callback):
    """Calls a function at the end of each epoch, and keeps what it returns."""

    def __init__(self, function):
        self.function, self.found = function, []

    def on_train_epoch_end(self, trainer):
        self.found.append(self.function(trainer))


def data_of():
    """Returns data that stay on the device."""
    split = tiny_arrays(num=64)
    return DataModule(split, split, batch_size=16, keep_on_device=True)


def run(function=lambda trainer: None, *, data=None, **arguments):
    """Trains on data that stay on the device; returns the trainer and the function's results."""
    data = data_of() if data is None else data
    callback = AtEpochEnd(function)
    arguments = {"max_epochs": NUM_EPOCHS, "seed": 3, **arguments}
    callbacks = [callback, *arguments.pop("callbacks", [])]
    trainer = trainer_of(Dense(), data, callbacks=callbacks, **arguments)
    trainer.fit()
    return trainer, callback.found


def without_steps_ahead(monkeypatch, function=lambda trainer: None, **arguments):
    with monkeypatch.context() as patch:
        patch.setattr(steps_ahead, "_MAX_BYTES_ON_CPU", -1)
        return run(function, **arguments)


def weights(trainer):
    return {name: np.array(array) for name, array in trainer.parameters().items()}


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def results(trainer):
    """Returns the weights, and the metrics that do not depend on the clock."""
    rows = [
        {name: value for name, value in row.items() if not name.startswith("perf/")}
        for row in trainer.history
    ]
    return weights(trainer), rows


def test_the_results_are_those_of_a_run_without_steps_ahead(monkeypatch, used):
    expected, at_ends = without_steps_ahead(monkeypatch, weights)
    assert used == []
    trainer, found = run(weights)
    assert used == [True] * (NUM_EPOCHS - 1)  # nothing follows the last epoch
    assert_same(results(trainer), results(expected))
    assert_same(found, at_ends)  # hooks find the weights at the end of the epoch


def test_checkpoints_hold_the_state_at_the_end_of_the_epoch(monkeypatch, used, tmp_path):
    def request(trainer):
        trainer.request_checkpoint()

    states = []
    for name in ("ahead", "not ahead"):
        train = run if name == "ahead" else partial(without_steps_ahead, monkeypatch)
        train(request, log_dir=tmp_path / name, max_epochs=3)
        trainer = trainer_of(Dense(), data_of(), log_dir=tmp_path / name, max_epochs=4, seed=3)
        trainer.fit(resume="auto")
        states.append(results(trainer))
    assert used == [False, True]  # TensorBoard draws the first batch of the second epoch
    assert_same(*states)


def test_a_change_of_the_model_at_the_end_of_an_epoch_takes_effect(monkeypatch, used):
    def halve(trainer):
        parameters = nnx.state(trainer.model, nnx.Param)
        nnx.update(trainer.model, jax.tree.map(lambda leaf: leaf / 2, parameters))

    expected, _ = without_steps_ahead(monkeypatch, halve)
    trainer, _ = run(halve)
    assert used == [False]  # after that, no steps are dispatched in vain
    assert_same(results(trainer), results(expected))


@pytest.mark.parametrize("reason", ["stop", "max_steps"])
def test_no_step_follows_the_end_of_the_run(monkeypatch, reason):
    def stop(trainer):
        if reason == "stop" and trainer.epoch == 1:
            trainer.stop("enough")

    arguments = {"max_steps": 8} if reason == "max_steps" else {}
    expected, _ = without_steps_ahead(monkeypatch, stop, **arguments)
    trainer, _ = run(stop, **arguments)
    assert trainer.global_step == expected.global_step == 8
    assert_same(results(trainer), results(expected))


def test_a_hook_that_is_due_at_the_first_step_of_some_epochs_shortens_it(monkeypatch, used):
    class First(Callback):
        """Sees the first step of epochs 1 and 2."""

        wants = False

        def __init__(self):
            self.steps = []

        @property
        def batch_period(self):
            return 1 if self.wants else None

        def on_train_epoch_start(self, trainer):
            self.wants = trainer.epoch in (1, 2)

        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            self.wants = False
            self.steps.append((trainer.global_step, float(outputs["loss"])))

    first, second = First(), First()
    expected, _ = without_steps_ahead(monkeypatch, callbacks=[first])
    trainer, _ = run(callbacks=[second])
    assert used == [False, False, True]
    assert [step for step, _ in second.steps] == [5, 9]
    assert second.steps == first.steps
    assert_same(results(trainer), results(expected))


def test_an_error_of_the_steps_ahead_is_raised_in_their_own_epoch(monkeypatch):
    dispatch = Dispatcher._run

    def failing(self, state, group, max_steps, **arguments):
        if group[0]["index"].tolist() in second_epoch:
            raise RuntimeError("no memory")
        return dispatch(self, state, group, max_steps, **arguments)

    data = data_of()
    second_epoch = [batch["index"].tolist() for batch in data.train.batches(epoch=1, seed=3)]
    monkeypatch.setattr(Dispatcher, "_run", failing)
    ended = []
    with pytest.raises(RuntimeError, match="no memory"):
        run(lambda trainer: ended.append(trainer.epoch), data=data)
    assert ended == [0]


@pytest.mark.parametrize("data", [
    DataModule(tiny_arrays(num=64), batch_size=16, keep_on_device=False),
    DataModule([tiny_arrays(num=16)] * 2),
])  # fmt: skip
def test_batches_that_the_host_must_read_are_not_dispatched_ahead(data, used):
    run(data=data)
    assert used == []


def test_the_speed_of_an_epoch_counts_from_the_dispatch_of_its_steps(used):
    trainer, _ = run(lambda trainer: time.sleep(0.2))
    assert used == [True] * (NUM_EPOCHS - 1)
    assert all(row["perf/images_per_second"] <= 64 / 0.2 for row in trainer.history[1:])


def group(*indices, mask=True):
    return [{"index": np.array(each), "mask": np.full(len(each), mask)} for each in indices]


@pytest.mark.parametrize(("epoch", "batches", "max_steps", "expected"), [
    (1, group([3, 1], [0, 2]), 4, True),
    (2, group([3, 1], [0, 2]), 4, False),
    (1, group([3, 1]), 4, False),
    (1, group([3, 1], [0, 2]), 2, False),
    (1, group([3, 1], [2, 0]), 4, False),
    (1, group([3, 1], [0, 2], mask=False), 4, False),
])  # fmt: skip
def test_steps_are_those_of_a_dispatch_with_the_same_batches(epoch, batches, max_steps, expected):
    ahead = Ahead(1, None, group([3, 1], [0, 2]), 4, 0.0, None)
    assert ahead.is_of(epoch, batches, max_steps) is expected


@pytest.mark.parametrize(("platform", "stats", "expected"), [
    ("cpu", None, True),
    ("gpu", {"bytes_limit": 1000, "peak_bytes_in_use": 200}, True),
    ("gpu", {"bytes_limit": 1000, "peak_bytes_in_use": 201}, False),
    ("gpu", None, False),
    ("cpu-small", None, False),
])  # fmt: skip
def test_a_copy_needs_room_twice_its_size(monkeypatch, platform, stats, expected):
    if platform == "cpu-small":
        platform = "cpu"
        monkeypatch.setattr(steps_ahead, "_MAX_BYTES_ON_CPU", 399)
    device = Mock(platform=platform, memory_stats=lambda: stats)
    shard = SimpleNamespace(device=device, data=SimpleNamespace(nbytes=200))
    state = [SimpleNamespace(addressable_shards=[shard])] * 2  # 400 bytes on the device
    assert has_room_for_copy(state) is expected
