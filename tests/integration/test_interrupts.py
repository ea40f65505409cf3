"""Ctrl-C inside a run: the step is finished and saved, and everything stays usable."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from flax import nnx
from helpers import Dense, RecordingCallback

from nnx_alexnet.callbacks import Callback, ModelCheckpoint


def dense_trainer(**arguments):
    return small_runs.tiny_trainer(**{"model": Dense(), **arguments})


class InterruptAt(Callback):
    def __init__(self, step, hook="on_train_batch_end"):
        self.step, self.hook = step, hook

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        if self.hook == "on_train_batch_end" and trainer.global_step == self.step:
            signal.raise_signal(signal.SIGINT)

    def on_validation_batch_end(self, trainer, outputs, batch, batch_index):
        if self.hook == "on_validation_batch_end" and trainer.global_step == self.step:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_finishes_the_step_saves_it_and_returns(tmp_path):
    saver, recorder = ModelCheckpoint(), RecordingCallback()
    trainer = dense_trainer(log_dir=tmp_path, callbacks=[InterruptAt(6), saver, recorder])
    handler = signal.getsignal(signal.SIGINT)
    history = trainer.fit()
    assert trainer.interrupted
    assert trainer.global_step == 6
    assert saver.last_path.name == "6"
    assert [row["step"] for row in history] == [4]
    assert recorder.calls[-3:] == ["on_train_end", "on_fit_end", "teardown"]
    assert np.isfinite(trainer.predict()).all()
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_in_validation_leaves_it_and_publishes_no_half_metrics():
    interrupt = InterruptAt(4, "on_validation_batch_end")
    trainer = dense_trainer(callbacks=[interrupt])
    history = trainer.fit()
    assert trainer.interrupted
    assert (trainer.global_step, trainer.epoch, trainer.step_in_epoch) == (4, 0, 4)
    assert history == [], "the epoch is open until it was validated"
    interrupt.step = -1
    assert "val/loss" in trainer.validate()


def test_a_second_ctrl_c_raises_and_the_model_stays_usable():
    class Twice(Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    model = Dense()
    with pytest.raises(KeyboardInterrupt):
        dense_trainer(model=model, callbacks=[Twice()]).fit()
    assert model(jnp.zeros((1, 8, 8, 1))).shape == (1, 4)


def test_what_a_hook_changed_for_a_validation_is_changed_back_when_a_signal_cuts_it_short():
    class Zeros(Callback):
        def on_validation_start(self, trainer):
            self.kept = jax.tree.map(jnp.copy, nnx.state(trainer.model, nnx.Param))
            nnx.update(trainer.model, jax.tree.map(jnp.zeros_like, self.kept))

        def on_validation_end(self, trainer):
            nnx.update(trainer.model, self.kept)

    trainer = dense_trainer(callbacks=[Zeros(), InterruptAt(4, "on_validation_batch_end")])
    trainer.fit()
    assert trainer.interrupted
    assert np.abs(trainer.model.dense.kernel[...]).max() > 0


def test_ctrl_c_during_the_last_save_does_not_spoil_what_comes_after(tmp_path):
    trainer = dense_trainer(log_dir=tmp_path)
    trainer.fit()
    # As a signal does while `fit` waits for the last save.
    trainer._verbs.requests.interrupt(signal.SIGINT)
    assert "val/loss" in trainer.validate()


def test_after_ctrl_c_the_other_verbs_are_whole():
    trainer = dense_trainer(callbacks=[InterruptAt(2)])
    trainer.fit()
    assert trainer.interrupted
    assert set(trainer.validate()) == {"val/loss", "val/accuracy"}
    assert trainer.predict().shape == (30, 4)


class CountsEpochs(Callback):
    """Stops in the second epoch; a signal may cut the validation short that this adds."""

    def __init__(self, *, interrupts):
        self.count, self.interrupts = 0, interrupts

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]

    def on_train_epoch_end(self, trainer):
        self.count += 1
        if trainer.epoch == 1:
            trainer.stop("enough")

    def on_validation_batch_end(self, trainer, outputs, batch, batch_index):
        if self.interrupts:
            signal.raise_signal(signal.SIGINT)


def test_an_epoch_whose_last_validation_is_cut_short_counts_once_after_a_resume(tmp_path):
    for interrupts in (True, False):
        callback = CountsEpochs(interrupts=interrupts)
        trainer = dense_trainer(
            callbacks=[callback], log_dir=tmp_path, validate_every_n_epochs=5, max_epochs=9
        )
        history = trainer.fit(resume="auto")
        assert trainer.interrupted is interrupts
    assert callback.count == 2
    assert [row["epoch"] for row in history] == [1]
    assert "val/loss" in history[0]
