"""`FitLoop`: the order of operations of `fit`, with a model whose steps are computed by hand."""

import logging
import time

import numpy as np
import optax
import pytest
from helpers import RecordingCallback
from parts import Product, Scale, split_of

from nnx_alexnet import DataModule, Trainer
from nnx_alexnet.callbacks import Callback, ModelCheckpoint

TRAIN, VAL = split_of(*[1.0] * 8), split_of(2.0, 4.0)  # four steps in an epoch


def scale_trainer(*callbacks, val=VAL, train=TRAIN, **arguments):
    arguments = {"max_epochs": 2, "log_dir": None, "optimizer": optax.sgd(0.25), **arguments}
    return Trainer(
        Scale(8.0), DataModule(train, val, batch_size=2), task=Product(), callbacks=callbacks,
        progress_bar=False, **arguments,
    )  # fmt: skip


class At(Callback):
    """Does something at one hook."""

    def __init__(self, hook, action):
        self.hook, self.action = hook, action

    def _act(self, hook, trainer):
        if hook == self.hook:
            self.action(trainer)

    def on_train_epoch_start(self, trainer):
        self._act("on_train_epoch_start", trainer)

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        self._act("on_train_batch_end", trainer)

    def on_validation_batch_end(self, trainer, outputs, batch, batch_index):
        self._act("on_validation_batch_end", trainer)

    def on_validation_end(self, trainer):
        self._act("on_validation_end", trainer)

    def on_train_epoch_end(self, trainer):
        self._act("on_train_epoch_end", trainer)


# ---- The order ----------------------------------------------------------------------------------

STEP = ["on_train_batch_start", "on_train_batch_end"]
VALIDATION = [
    "on_validation_start", "on_validation_epoch_start", "on_validation_batch_start",
    "on_validation_batch_end", "on_log", "on_validation_epoch_end", "on_validation_end",
]  # fmt: skip
EPOCH = ["on_train_epoch_start", *STEP * 4, *VALIDATION, "on_train_epoch_end"]


def test_the_hooks_of_a_fit_are_called_in_their_order():
    recorder = RecordingCallback()
    scale_trainer(recorder).fit()
    assert recorder.calls == [
        "setup", "on_fit_start", "on_train_start", *EPOCH, *EPOCH, "on_train_end", "on_fit_end",
        "teardown",
    ]  # fmt: skip


def test_an_exception_is_told_to_every_callback_and_reaches_the_caller():
    def fail(trainer):
        raise RuntimeError("mine")

    recorder = RecordingCallback()
    trainer = scale_trainer(At("on_train_epoch_end", fail), recorder)
    with pytest.raises(RuntimeError, match="mine"):
        trainer.fit()
    assert recorder.calls == [
        "setup", "on_fit_start", "on_train_start", *EPOCH[:-1], "on_exception", "teardown"
    ]  # fmt: skip
    assert float(trainer.model.weight[...]) == 7.0, "8 less 4 steps of 0.25"


def test_all_metrics_of_an_epoch_are_there_before_its_first_hook_at_the_end():
    seen = []

    def look(trainer):
        seen.append((dict(trainer.metrics), trainer.metric_steps["val/loss"]))

    scale_trainer(At("on_validation_end", look), max_epochs=1).fit()
    ((metrics, step),) = seen
    # The weight is 8, 7.75, 7.5 and 7.25 in the steps, and 7 in the validation of 2 and 4.
    assert (metrics["train/loss"], metrics["val/loss"], step) == (7.625, 21.0, 4)


def test_a_checkpoint_that_the_end_of_an_epoch_asks_for_is_of_the_next_one(tmp_path):
    saver = ModelCheckpoint("val/loss", every_n_epochs=1)
    trainer = scale_trainer(saver, max_epochs=1, log_dir=tmp_path)
    trainer.fit()
    (saved,) = (trainer.run_dir / "checkpoints").iterdir()
    assert (saved.name, saver.best_value) == ("4", 21.0)


# ---- When a validation is due -------------------------------------------------------------------


@pytest.mark.parametrize(("every", "steps"), [(1, [4, 8, 12]), (2, [8, 12]), (5, [12])])
def test_validation_is_every_n_epochs_and_at_the_last_one(every, steps):
    history = scale_trainer(max_epochs=3, validate_every_n_epochs=every).fit()
    assert [row["step"] for row in history] == steps
    assert all("val/loss" in row and "train/loss" in row for row in history)


def test_without_a_validation_split_history_has_a_row_for_each_epoch():
    history = scale_trainer(val=None, validate_every_n_epochs=5).fit()
    assert [(row["epoch"], row["step"]) for row in history] == [(0, 4), (1, 8)]
    assert not any(name.startswith("val/") for row in history for name in row)


def test_an_epoch_that_a_callback_makes_the_last_one_at_its_end_is_validated():
    trainer = scale_trainer(
        At("on_train_epoch_end", lambda trainer: trainer.stop("enough")), validate_every_n_epochs=4
    )
    (row,) = trainer.fit()
    assert (row["val/loss"], row["train/loss"]) == (21.0, 7.625)


# ---- When a run ends ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "steps"), [(2, None, 8), (None, 5, 5), (1, 9, 4)]
)
def test_the_run_ends_at_whichever_limit_comes_first(max_epochs, max_steps, steps):
    trainer = scale_trainer(max_epochs=max_epochs, max_steps=max_steps)
    trainer.fit()
    assert trainer.global_step == steps
    assert float(trainer.model.weight[...]) == 8.0 - 0.25 * steps


def test_a_callback_that_stops_closes_the_epoch_as_a_whole_one(caplog):
    def stop(trainer):
        if trainer.global_step == 5:
            trainer.stop("five is enough")

    recorder = RecordingCallback()
    trainer = scale_trainer(At("on_train_batch_end", stop), recorder)
    with caplog.at_level(logging.INFO):
        assert [row["step"] for row in trainer.fit()] == [4, 5]
    assert trainer.stop_reason == "five is enough"
    assert (trainer.epoch, trainer.step_in_epoch) == (1, 1)
    assert recorder.calls[-3:] == ["on_train_end", "on_fit_end", "teardown"]


def test_stopping_before_the_first_step_of_an_epoch_is_no_error_of_the_data():
    def stop(trainer):
        if trainer.epoch == 1:
            trainer.stop("enough")

    trainer = scale_trainer(At("on_train_epoch_start", stop))
    assert [row["step"] for row in trainer.fit()] == [4]
    assert trainer.epoch == 1


def interrupt(trainer):
    trainer._verbs.requests.interrupt(2)


class Counts(Callback):
    """Counts the epochs that ended, as part of a checkpoint."""

    count = 0

    def on_train_epoch_end(self, trainer):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


@pytest.mark.parametrize(
    ("hook", "every", "epoch"),
    [
        ("on_validation_batch_end", 1, 0),  # the resumed run validates again
        ("on_validation_end", 1, 1),
        ("on_train_epoch_end", 1, 1),
        ("on_train_epoch_end", 2, 1),  # an epoch without a validation
    ],
)
def test_a_signal_while_an_epoch_ends_changes_nothing_in_the_end(hook, every, epoch, tmp_path):
    options = {"log_dir": tmp_path, "max_epochs": 2, "validate_every_n_epochs": every}
    stopped = scale_trainer(At(hook, interrupt), Counts(), **options)
    stopped.fit()
    assert stopped.interrupted
    assert (stopped.global_step, stopped.epoch) == (4, epoch)
    counts = Counts()
    history = scale_trainer(counts, **options).fit(resume="auto")
    assert [row["epoch"] for row in history] == ([0, 1] if every == 1 else [1])
    assert [row["val/loss"] for row in history] == ([21.0, 18.0] if every == 1 else [18.0])
    assert counts.count == 2, "each epoch ends once"


def test_a_signal_before_the_last_validation_leaves_it_to_the_resumed_run(tmp_path):
    def stop(trainer):
        trainer.stop("enough")
        interrupt(trainer)

    options = {"log_dir": tmp_path, "max_epochs": 8, "validate_every_n_epochs": 4}
    stopped = scale_trainer(At("on_train_epoch_end", stop), **options)
    assert stopped.fit() == []
    resumed = scale_trainer(**options)
    (row,) = resumed.fit(resume="auto")
    assert (row["epoch"], row["val/loss"], resumed.stop_reason) == (0, 21.0, "enough")


# ---- What a fit leaves --------------------------------------------------------------------------


def test_the_device_lets_the_data_go_after_an_error():
    def fail(trainer):
        assert trainer.data_is_on_device
        raise RuntimeError("mine")

    trainer = scale_trainer(At("on_train_batch_end", fail))
    with pytest.raises(RuntimeError, match="mine"):
        trainer.fit()
    assert not trainer.data_is_on_device
    assert not trainer._verbs.dispatcher.is_busy


def test_what_a_fit_has_cost_is_published_and_known_before():
    trainer = scale_trainer(steps_per_execution=2)
    names = trainer.metric_names
    row = trainer.fit()[-1]
    costs = {name for name in row if name.startswith("perf/")}
    assert costs == {
        "perf/images_per_second", "perf/step_seconds", "perf/data_wait", "perf/compile_seconds"
    }  # fmt: skip
    assert costs < names
    assert row["perf/images_per_second"] * row["perf/step_seconds"] == pytest.approx(2)
    assert 0 <= row["perf/data_wait"] <= 1
    assert row["perf/compile_seconds"] > 0


class Slow:
    """A dataset whose examples take longer than a step."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        time.sleep(0.02)
        return np.ones(1, np.float32), 0


@pytest.mark.parametrize("is_slow", [True, False])
def test_waiting_for_data_is_a_share_of_the_time(is_slow):
    trainer = scale_trainer(train=Slow() if is_slow else TRAIN, steps_per_execution=1)
    assert (trainer.fit()[-1]["perf/data_wait"] > 0.5) is is_slow


def test_accepted_hyperparameters_are_those_of_the_code(tmp_path):
    """The rate of the code counts from the resumed step on, not the saved one."""

    def rated(rate):
        return optax.inject_hyperparams(optax.sgd)(rate)

    scale_trainer(optimizer=rated(0.25), max_epochs=1, log_dir=tmp_path).fit()
    trainer = scale_trainer(optimizer=rated(0.5), log_dir=tmp_path)
    trainer.fit(resume="auto", accept="optimizer")
    assert float(trainer.model.weight[...]) == 8.0 - 4 * 0.25 - 4 * 0.5
    np.testing.assert_allclose(trainer.history[-1]["lr"], 0.5)


def test_a_finished_run_that_is_extended_equals_a_longer_one_from_the_start(tmp_path):
    def run(name, epochs, resume="never"):
        trainer = scale_trainer(
            log_dir=tmp_path, name=name, max_epochs=epochs, train=split_of(*map(float, range(8))),
            optimizer=optax.adam(0.1),
        )  # fmt: skip
        return trainer, trainer.fit(resume=resume)

    whole, expected = run("whole", 4)
    run("short", 2)
    extended, history = run("short", 4, "auto")
    assert [row["epoch"] for row in history] == [0, 1, 2, 3]
    assert [row["val/loss"] for row in history] == [row["val/loss"] for row in expected]
    assert extended.model.weight[...] == whole.model.weight[...]
