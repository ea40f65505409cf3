"""`Saver`: what a checkpoint holds, when it is written, and how a run continues from it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nnx_alexnet.callbacks import Callback, CallbackList
from nnx_alexnet.checkpoints import Checkpoint
from nnx_alexnet.devices import NonFiniteError
from nnx_alexnet.training.hooks import Hooks
from nnx_alexnet.training.progress import Progress
from nnx_alexnet.training.requests import Requests
from nnx_alexnet.training.saver import Saver


class Store:
    """Keeps what it is given to save."""

    def __init__(self, calls):
        self.calls, self.has_written, self.saved, self.error = calls, False, [], None

    def save(self, step, arrays, loop, *, value, gives_way):
        self.calls.append(f"save {step}")
        if self.error is not None:
            raise self.error
        self.saved.append(SimpleNamespace(
            step=step, arrays=arrays, loop=loop, value=value, gives_way=gives_way
        ))  # fmt: skip

    def wait(self):
        self.calls.append("wait")


class Arrays:
    """One array, whose value is the state."""

    model_class = "helpers.TinyNet"

    def __init__(self, value):
        self.value = value

    def to_host(self):
        return {"model/w": np.array(self.value)}

    def take(self):
        return self.value

    def put(self, state):
        self.value = state

    def restore(self, arrays):
        self.value = float(arrays["model/w"])


class Dispatcher:
    """Steps under way whose results may not be readable."""

    def __init__(self, calls):
        self.calls, self.errors, self.restored = calls, [], None

    def read_all(self, *, publishes=True):
        self.calls.append("read" if publishes else "read without publishing")
        if self.errors:
            raise self.errors.pop(0)

    def sums(self):
        return {"window/0": np.array(5.0)}

    def restore_sums(self, sums):
        self.restored = {name: float(array) for name, array in sums.items()}


class Counts(Callback):
    """Has a state."""

    count = 0

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]

    def on_train_start(self, trainer):
        raise trainer


class Made:
    """A saver and the parts around it, after seven steps: three of the second epoch."""

    def __init__(self, *, writes=True, ranked_by="val/loss", save_on_exception=True, stream=None):
        self.calls, self.stream = [], stream
        self.store = Store(self.calls)
        self.arrays, self.dispatcher, self.counts = Arrays(1.0), Dispatcher(self.calls), Counts()
        self.progress = Progress(lambda metrics, step: None)
        self.progress.advance(num_steps=4, num_examples=8)
        self.progress.end_epoch(is_whole=True)
        self.progress.advance(num_steps=3, num_examples=6)
        self.requests = Requests(self.progress.stop)
        self.hooks = Hooks(CallbackList([self.counts]), None)
        self.run = SimpleNamespace(
            run_dir=Path("logs/run/version_0") if writes else None,
            checkpoints=self.store if writes else None,
            about_data={"name": "digits"}, identity={"seed": 0},
            on_saved=lambda: self.calls.append("on_saved"),
        )  # fmt: skip
        policy = SimpleNamespace(ranked_by=ranked_by, save_on_exception=save_on_exception)
        self.saver = Saver(
            progress=self.progress, arrays=self.arrays, dispatcher=self.dispatcher,
            hooks=self.hooks, requests=self.requests, run=self.run,
            policy=policy if writes else None, stream=stream,
        )  # fmt: skip

    def fail(self, error):
        """Runs a body that raises."""
        with self.saver.saving_on_exception():
            raise error

    def raise_in_a_hook(self, error):
        with self.saver.saving_on_exception():
            self.hooks.callbacks.call("on_train_start", error)


# ---- What a checkpoint holds --------------------------------------------------------------------


def test_nothing_is_saved_that_nobody_asked_for():
    made = Made()
    made.saver.save_if_asked()
    assert made.calls == []


def test_a_request_is_saved_once_and_after_all_steps_were_read():
    made = Made()
    made.requests.save()
    made.saver.save_if_asked()
    made.saver.save_if_asked()
    assert made.calls == ["read", "save 7"]


def test_a_checkpoint_holds_arrays_position_records_and_states():
    made = Made()
    made.counts.count = 3
    made.progress.publish({"train/loss_step": 0.5}, 6)
    made.requests.save()
    made.saver.save_if_asked()
    (saved,) = made.store.saved
    assert {name: float(array) for name, array in saved.arrays.items()} == {
        "model/w": 1.0, "metrics/window/0": 5.0
    }  # fmt: skip
    assert saved.loop == {
        "epoch": 1, "step_in_epoch": 3, "global_step": 7, "is_epoch_open": True,
        "stop_reason": None, "metrics": {"train/loss_step": 0.5},
        "metric_steps": {"train/loss_step": 6}, "history": [], "logged": {},
        "callbacks": {"Counts": {"count": 3}}, "data": {"name": "digits"}, "identity": {"seed": 0},
        "model_class": "helpers.TinyNet",
    }  # fmt: skip


def test_between_two_epochs_there_are_no_sums_to_save():
    made = Made()
    made.progress.end_epoch(is_whole=True)
    made.requests.save()
    made.saver.save_if_asked()
    assert [*made.store.saved[0].arrays] == ["model/w"]


@pytest.mark.parametrize(("step", "value"), [(7, 0.5), (6, None)])
def test_a_checkpoint_is_ranked_by_a_value_of_its_own_step(step, value):
    made = Made()
    made.progress.publish({"val/loss": 0.5}, step)
    made.requests.save()
    made.saver.save_if_asked()
    assert made.store.saved[0].value == value


@pytest.mark.parametrize("gives_way", [True, False])
def test_a_request_may_give_way(gives_way):
    made = Made(ranked_by=None)
    made.requests.save(gives_way=gives_way)
    made.saver.save_if_asked()
    (saved,) = made.store.saved
    assert (saved.value, saved.gives_way) == (None, gives_way)


def test_the_initial_weights_are_forgotten_once_a_checkpoint_is_on_the_disk():
    made = Made()
    for has_written in (False, True):
        made.store.has_written = has_written
        made.requests.save()
        made.saver.save_if_asked()
    assert made.calls == ["read", "save 7", "read", "on_saved", "save 7"]


def test_another_process_saves_nothing():
    made = Made()
    made.run.checkpoints = None
    made.requests.save()
    made.saver.save_if_asked()
    made.saver.wait()
    assert made.calls == ["read"]


def test_without_a_folder_a_request_is_dropped():
    made = Made(writes=False)
    made.requests.save()
    made.saver.save_if_asked()
    assert made.calls == []
    assert not made.requests.is_save_asked


def test_while_an_epoch_ends_the_states_of_callbacks_are_those_of_before():
    made = Made()
    made.counts.count = 1
    made.saver.begin_end_of_epoch()
    made.counts.count = 2
    made.requests.save()
    made.saver.save_if_asked()
    made.saver.epoch_ended()
    made.requests.save()
    made.saver.save_if_asked()
    states = [saved.loop["callbacks"]["Counts"]["count"] for saved in made.store.saved]
    assert states == [1, 2]


# ---- Continuing ---------------------------------------------------------------------------------


def checkpoint_of(stream=None, **changes):
    made = Made(stream=stream)
    made.arrays.value, made.counts.count = 9.0, 4
    made.requests.save()
    made.saver.save_if_asked()
    (saved,) = made.store.saved
    return Checkpoint(7, saved.arrays, saved.loop | changes, "")


class Stream:
    """Training data that are an iterable, and whether it can continue."""

    def __init__(self, *, can_continue=True):
        self.can_continue, self.restored = can_continue, None

    def position(self, epoch, step):
        return {"epoch": epoch, "after": step}

    def restore(self, saved, *, epoch, step, accepts_other):
        self.restored = saved, epoch, step, accepts_other
        return self.can_continue


@pytest.mark.parametrize("stream", [None, Stream(), Stream(can_continue=False)])
def test_a_run_continues_with_what_a_checkpoint_holds(stream):
    made = Made(stream=stream)
    made.progress = made.saver._progress = Progress(lambda metrics, step: None)
    made.saver.restore(checkpoint_of())
    progress, can_continue = made.progress, stream is None or stream.can_continue
    assert (made.arrays.value, made.counts.count) == (9.0, 4)
    assert (progress.epoch, progress.global_step) == (1, 7)
    # Data that cannot be read from the middle repeat the epoch, with new sums.
    assert progress.step_in_epoch == (3 if can_continue else 0)
    assert made.dispatcher.restored == ({"window/0": 5.0} if can_continue else None)


@pytest.mark.parametrize("accept", [(), ("optimizer",), ("stream",)])
def test_the_position_of_a_stream_is_saved_and_restored(accept):
    saved = checkpoint_of(stream=Stream())
    assert saved.loop["stream"] == {"epoch": 1, "after": 3}
    made = Made(stream=Stream())
    made.saver.restore(saved, accept)
    assert made.stream.restored == ({"epoch": 1, "after": 3}, 1, 3, "stream" in accept)


def test_data_that_are_read_by_index_have_no_position():
    assert "stream" not in checkpoint_of().loop


# ---- When the run fails -------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("mine"), FloatingPointError("mine")])
def test_a_run_that_fails_saves_its_last_step_and_waits_for_it(error):
    made = Made()
    with pytest.raises(type(error), match="mine"):
        made.fail(error)
    assert made.calls == ["read", "read", "save 7", "wait"]
    assert made.store.saved[0].gives_way


def test_a_checkpoint_that_was_asked_for_before_the_failure_does_not_give_way():
    made = Made()
    made.requests.save()
    with pytest.raises(ValueError, match="mine"):
        made.fail(ValueError("mine"))
    assert not made.store.saved[0].gives_way


def test_a_run_that_succeeds_saves_nothing_more():
    made = Made()
    with made.saver.saving_on_exception():
        pass
    assert made.calls == []


@pytest.mark.parametrize("error", [NonFiniteError("nan"), SystemExit(3), KeyboardInterrupt()])
def test_a_bad_step_or_an_end_from_outside_is_not_saved(error):
    made = Made()
    with pytest.raises(type(error)):
        made.fail(error)
    assert made.calls == []


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_callback_that_ends_the_program_leaves_the_last_step(error):
    made = Made()
    with pytest.raises(type(error)):
        made.raise_in_a_hook(error)
    assert [saved.step for saved in made.store.saved] == [7]


def test_a_second_ctrl_c_inside_a_hook_saves_nothing():
    made = Made()
    made.requests.interrupt(2)
    with pytest.raises(KeyboardInterrupt):
        made.raise_in_a_hook(KeyboardInterrupt())
    assert made.calls == []


def test_steps_under_way_that_are_not_finite_keep_the_last_one_from_being_saved(warnings):
    made = Made()
    made.dispatcher.errors = [NonFiniteError("Step 7 had a loss of nan")]
    with pytest.raises(ValueError, match="mine"):
        made.fail(ValueError("mine"))
    assert made.store.saved == []
    assert "Step 7 had a loss of nan" in warnings.text


def test_a_callback_that_can_never_log_does_not_keep_the_last_step_from_being_saved(warnings):
    made = Made()
    made.dispatcher.errors = [RuntimeError("no connection")]
    with pytest.raises(RuntimeError, match="no connection"):
        made.fail(RuntimeError("no connection"))
    assert made.calls == ["read", "read without publishing", "read", "save 7", "wait"]


def test_an_error_of_the_last_save_does_not_hide_that_of_the_run(warnings):
    made = Made()
    made.store.error = OSError("the disk is full")
    with pytest.raises(ValueError, match="mine"):
        made.fail(ValueError("mine"))
    assert "the disk is full" in warnings.text


def fail_at_the_end_of_an_epoch(made):
    with made.saver.saving_on_exception():
        made.saver.begin_end_of_epoch()
        made.arrays.value, made.counts.count = 0.0, 2  # zeros put in for the validation
        raise ValueError("mine")


def test_a_failed_end_of_an_epoch_is_saved_as_it_was_before_it():
    made = Made()
    made.counts.count = 1
    with pytest.raises(ValueError, match="mine"):
        fail_at_the_end_of_an_epoch(made)
    (saved,) = made.store.saved
    assert float(saved.arrays["model/w"]) == 1.0
    assert saved.loop["callbacks"] == {"Counts": {"count": 1}}
    assert made.arrays.value == 1.0


@pytest.mark.parametrize("reason", ["switched off", "no step yet", "no folder", "other processes"])
def test_a_failed_run_saves_nothing_where(reason):
    made = Made(writes=reason != "no folder", save_on_exception=reason != "switched off")
    if reason == "no step yet":
        made.progress.global_step = 0
    if reason == "other processes":
        made.requests._agreement.is_alone = False
    with pytest.raises(ValueError, match="mine"):
        made.fail(ValueError("mine"))
    assert made.calls == []


@pytest.mark.parametrize(
    ("position", "place"),
    [
        ({"epoch": 2, "step_in_epoch": 3, "is_epoch_open": True}, "in epoch 3"),
        ({"epoch": 1, "step_in_epoch": 0, "is_epoch_open": False}, "1 epoch done"),
    ],
    ids=["in an epoch", "after an epoch"],
)
def test_the_log_reports_where_a_run_continues(position, place, warnings):
    warnings.set_level("INFO", logger="nnx_alexnet")
    made = Made()
    made.saver.restore(checkpoint_of(global_step=7, **position))
    assert f"after step 7, {place}." in warnings.text
