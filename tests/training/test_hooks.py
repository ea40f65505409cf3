"""`Hooks`: every hook gets the trainer, and a failing clean-up hides no other error."""

import pytest

from nnx_alexnet.callbacks import Callback, CallbackList
from nnx_alexnet.training.hooks import Hooks


class Keeps(Callback):
    """Keeps the arguments of its hooks."""

    def __init__(self, every_n_steps=None):
        self.every_n_steps = every_n_steps
        self.calls = []

    def on_train_start(self, trainer):
        self.calls.append(("on_train_start", trainer))

    def on_validation_batch_end(self, trainer, outputs, batch, batch_index):
        self.calls.append(("on_validation_batch_end", trainer, outputs, batch, batch_index))

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        self.calls.append(("on_train_batch_end", trainer, outputs, batch, batch_index))


class FailsAtTeardown(Callback):
    def teardown(self, trainer, stage):
        raise OSError("the file is gone")


def test_the_trainer_is_the_first_argument_of_each_hook():
    keeps = Keeps()
    hooks = Hooks(CallbackList([keeps]), "trainer")
    hooks.call("on_train_start")
    hooks.call("on_validation_batch_end", "outputs", "batch", 3)
    hooks.train_batch("on_train_batch_end", 5, "outputs", "batch", 4)
    assert keeps.calls == [
        ("on_train_start", "trainer"),
        ("on_validation_batch_end", "trainer", "outputs", "batch", 3),
        ("on_train_batch_end", "trainer", "outputs", "batch", 4),
    ]


def test_a_train_batch_hook_runs_at_its_steps_alone():
    keeps = Keeps(every_n_steps=3)
    hooks = Hooks(CallbackList([keeps]), "trainer")
    for step in range(1, 8):
        hooks.train_batch("on_train_batch_end", step, None, None, step - 1)
    assert [call[-1] for call in keeps.calls] == [2, 5]


def test_the_error_of_a_teardown_is_raised_after_a_run_without_one():
    hooks = Hooks(CallbackList([FailsAtTeardown()]), "trainer")
    with pytest.raises(OSError, match="the file is gone"):
        hooks.clean_up(None, "teardown", "fit")


def test_the_error_of_a_teardown_is_logged_after_a_run_that_failed(warnings):
    hooks = Hooks(CallbackList([FailsAtTeardown()]), "trainer")
    hooks.clean_up(ValueError("first"), "teardown", "fit")
    assert warnings.messages == ["`teardown` also failed: OSError('the file is gone')"]


def test_ctrl_c_in_a_teardown_is_never_hidden():
    class Interrupted(Callback):
        def teardown(self, trainer, stage):
            raise KeyboardInterrupt

    hooks = Hooks(CallbackList([Interrupted()]), "trainer")
    with pytest.raises(KeyboardInterrupt):
        hooks.clean_up(ValueError("first"), "teardown", "fit")
