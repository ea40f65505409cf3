import collections
import datetime
import enum
import json
import re
from pathlib import Path

import numpy as np
import pytest
from fake_trainer import FakeTrainer

from nnx_alexnet.callbacks import BETWEEN_DISPATCHES, Callback, CallbackList
from nnx_alexnet.support.log import logger


class Recorder(Callback):
    def __init__(self, name, calls, priority=0, error=None):
        self.name, self.calls, self.priority, self.error = name, calls, priority, error

    def _record(self, hook):
        self.calls.append((self.name, hook))
        if self.error is not None:
            raise self.error

    def teardown(self, trainer, stage):
        self._record("teardown")

    def on_exception(self, trainer, exception):
        self._record("on_exception")

    def on_train_start(self, trainer):
        self._record("on_train_start")


class Stateful(Callback):
    def __init__(self, state=None):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def test_lower_priority_runs_first_and_equals_keep_their_order():
    calls = []
    callbacks = [
        Recorder("saver", calls, 100),
        Recorder("first", calls),
        Recorder("second", calls),
        Recorder("early", calls, -5),
    ]
    CallbackList(callbacks).call("on_train_start", None)
    assert [name for name, _ in calls] == ["early", "first", "second", "saver"]


def test_only_callbacks_that_override_a_hook_are_called():
    calls = []
    callbacks = CallbackList([Callback(), Recorder("a", calls)])
    callbacks.call("on_train_end", None)
    callbacks.call("on_train_start", None)
    assert calls == [("a", "on_train_start")]


def test_an_unknown_hook_is_refused():
    with pytest.raises(ValueError, match="did you mean 'on_train_start'"):
        CallbackList().call("on_trian_start", None)


@pytest.mark.parametrize("wrong", [Recorder, "early stopping", None])
def test_objects_that_are_not_callbacks_are_refused(wrong):
    with pytest.raises(TypeError, match="`callbacks` must hold instances of `Callback`"):
        CallbackList([wrong])


@pytest.mark.parametrize("hook", ["on_exception", "teardown"])
def test_a_failing_cleanup_hook_does_not_stop_the_other_callbacks(hook):
    calls = []
    callbacks = CallbackList(
        [
            Recorder("a", calls, error=RuntimeError("first")),
            Recorder("b", calls, error=KeyboardInterrupt("second")),
            Recorder("c", calls),
        ]
    )
    with pytest.raises(RuntimeError, match="first"):
        callbacks.call(hook, None, None)
    assert [name for name, _ in calls] == ["a", "b", "c"]


def test_a_failing_hook_stops_the_call_immediately():
    calls = []
    callbacks = CallbackList(
        [Recorder("a", calls, error=RuntimeError("first")), Recorder("b", calls)]
    )
    with pytest.raises(RuntimeError, match="first"):
        callbacks.call("on_train_start", None)
    assert calls == [("a", "on_train_start")]


def test_batch_hooks_are_called_at_multiples_of_the_global_step():
    class Batches(Callback):
        def __init__(self, every_n_steps):
            self.every_n_steps = every_n_steps
            self.steps = []

        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            self.steps.append(trainer.global_step)

    class Never(Batches):
        batch_period = None

    each, third, never = Batches(None), Batches(3), Never(None)
    trainer = FakeTrainer([each, third, never])
    trainer.global_step = 4  # resumed in the middle: the schedule is the unbroken run's
    trainer.run_epoch({}, steps=6)
    assert each.steps == [5, 6, 7, 8, 9, 10]
    assert third.steps == [6, 9]
    assert never.steps == []


class Starts(Callback):
    def on_train_batch_start(self, trainer, batch, batch_index):
        pass


class Ends(Callback):
    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        pass


def with_period(callback, period):
    callback.every_n_steps = period
    return callback


class Clock(Ends):
    batch_period = BETWEEN_DISPATCHES


def test_a_dispatch_ends_before_a_start_hook_and_at_an_end_hook():
    ends = CallbackList([with_period(Ends(), 4), with_period(Ends(), 10)])
    assert [ends.next_train_batch(step) for step in (0, 3, 4, 8, 10)] == [4, 4, 8, 10, 12]
    starts = CallbackList([with_period(Starts(), 4)])
    assert [starts.next_train_batch(step) for step in (0, 2, 3, 4)] == [3, 3, 7, 7]
    assert CallbackList([Callback(), Clock()]).next_train_batch(7) is None


def test_a_callback_between_dispatches_is_due_at_every_step_but_not_by_step():
    callbacks = CallbackList([with_period(Ends(), 4), Clock()])
    hook = "on_train_batch_end"
    assert all(callbacks.is_due(hook, step) for step in range(1, 9))
    assert [step for step in range(1, 9) if callbacks.is_due_by_step(hook, step)] == [4, 8]
    assert not callbacks.is_due("on_train_batch_start", 4)  # no callback has that hook


def test_each_callback_gets_a_copy_of_the_state_under_its_key(caplog):
    class Other(Stateful):
        pass

    saved = CallbackList([Stateful({"best": [1]}), Other({}), Callback()]).state_dict()
    assert saved == {"Stateful": {"best": [1]}}
    mine, other = Stateful(), Other("untouched")
    logger.addHandler(caplog.handler)
    with caplog.at_level("INFO", logger="nnx_alexnet"):
        CallbackList([mine, other]).load_state_dict({**saved, "Gone": {"x": 1}})
    logger.removeHandler(caplog.handler)
    assert "The saved state of 'Gone' is not used" in caplog.text
    assert mine.state == {"best": [1]}
    assert mine.state["best"] is not saved["Stateful"]["best"]
    assert other.state == "untouched"


class Color(enum.IntEnum):
    RED = 1


circle: list = []
circle.append(circle)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"counts": {7: 2}}, r"['counts'] has the key 7 (int): JSON keeps only string keys"),
        ({"a": [{}, {None: 2}]}, r"['a'][1] has the key None (NoneType)"),
        ({"a": {True: 2}}, r"['a'] has the key True (bool)"),
        ({"shape": (3, 4)}, r"['shape'] is (3, 4) (builtins.tuple)"),
        ({"best": np.float64(0.5)}, r"['best'] is np.float64(0.5) (numpy.float64)"),
        ({"best": [0, np.float32(0.5)]}, r"['best'][1] is np.float32(0.5) (numpy.float32)"),
        ({"steps": np.arange(2)}, r"['steps'] is array([0, 1]) (numpy.ndarray), which JSON"),
        ({"seen": {1, 2}}, r"['seen'] is {1, 2} (builtins.set)"),
        ({"color": Color.RED}, r"['color'] is <Color.RED: 1> ("),
        ({"ordered": collections.OrderedDict(a=1)}, r"['ordered'] is OrderedDict("),
        ({"counted": collections.Counter("a")}, r"['counted'] is Counter("),
        ({"name": b"x"}, r"['name'] is b'x' (builtins.bytes)"),
        ({"when": datetime.date(2026, 1, 1)}, r"['when'] is datetime.date(2026, 1, 1)"),
        ({"path": Path("x")}, r"['path'] is PosixPath('x')"),
        ({"z": 1j}, r"['z'] is 1j (builtins.complex)"),
        ({"large": 10**5000}, r"['large'] is an integer of 16,610 bits, too many."),
        ({"circle": circle}, "is nested too deeply, or contains itself."),
        (("a", 1), r"() is ('a', 1) (builtins.tuple)"),
    ],
)
def test_a_state_that_json_would_change_is_refused(state, message):
    start = re.escape("`Stateful.state_dict()`").removesuffix("`")
    with pytest.raises(TypeError, match=start) as raised:
        CallbackList([Stateful(state)]).state_dict()
    assert message.removeprefix("()") in str(raised.value)


def test_a_state_that_json_preserves_is_accepted():
    state = {
        "none": None, "yes": True, "int": -(2**70), "nan": float("nan"), "inf": float("-inf"),
        "zero": -0.0, "text": "\u00fc\ud800\n", "list": [1, [2.5, {}], []], "dict": {"": {"7": 2}},
    }  # fmt: skip
    saved = CallbackList([Stateful(state)]).state_dict()
    found = json.loads(json.dumps(saved))["Stateful"]
    assert repr(found) == repr(state)


def test_two_states_under_one_key_are_refused():
    with pytest.raises(ValueError, match="two callbacks with the `state_key` 'Stateful'"):
        CallbackList([Stateful(), Stateful()])
    assert len(CallbackList([Callback(), Callback()])) == 2
