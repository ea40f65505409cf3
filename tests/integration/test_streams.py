"""Runs that are stopped in the middle of an epoch of a stream, and resumed."""

import numpy as np
import pytest
from helpers import tiny_arrays, trainer_of
from jobs import StopAfter, digest, run_here, saved_steps, step_log

from nnx_alexnet import DataModule
from nnx_alexnet.callbacks import ModelCheckpoint

SHORT = {"epochs": 2, "save_every": 3}


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("grain_map", [14]),
        ("hf_stream", [5]),
        pytest.param("torchdata", [5, 14], marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_continues_its_stream(tmp_path, name, stops):
    for stop_after in stops:
        run_here(tmp_path / "stopped", stop_after=stop_after, stream=name, **SHORT)
    for logs in ("stopped", "whole"):
        run_here(tmp_path / logs, stream=name, **SHORT)
    assert digest(tmp_path / "stopped") == digest(tmp_path / "whole")
    assert step_log(tmp_path / "stopped") == step_log(tmp_path / "whole")


class Endless:
    """Batches without an end, whose iterator has a state."""

    def __init__(self, brightness=0):
        self.brightness = brightness

    def __iter__(self):
        return EndlessIterator(self.brightness)


class EndlessIterator:
    def __init__(self, brightness):
        self.brightness, self.number = brightness, 0

    def __iter__(self):
        return self

    def __next__(self):
        self.number += 1
        images, labels = tiny_arrays(num=8, seed=self.number)
        return images + np.uint8(self.brightness), labels

    def get_state(self):
        return {"number": self.number}

    def set_state(self, state):
        self.number = state["number"]


def run_endless(logs, stream, *, steps, accept=(), stop_after=None):
    """Runs over an endless stream; if it is stopped, a save of every second step is the newest."""
    callbacks = [ModelCheckpoint(every_n_steps=2, save_on_exception=False)]
    callbacks += [] if stop_after is None else [StopAfter(stop_after)]
    trainer = trainer_of(
        data=DataModule(stream), log_dir=logs, name="job", max_steps=steps, callbacks=callbacks,
    )  # fmt: skip
    if stop_after is None:
        trainer.fit(resume="auto", accept=accept)
    else:
        with pytest.raises(RuntimeError, match="on purpose"):
            trainer.fit(resume="auto", accept=accept)


def test_an_endless_stream_continues_after_a_stop_and_after_its_last_step(tmp_path):
    run_endless(tmp_path / "whole", Endless(), steps=9)
    run_endless(tmp_path / "stopped", Endless(), steps=9, stop_after=5)
    run_endless(tmp_path / "stopped", Endless(), steps=7)
    run_endless(tmp_path / "stopped", Endless(), steps=9)
    assert digest(tmp_path / "stopped") == digest(tmp_path / "whole")


def test_other_data_at_the_position_are_refused_and_may_be_accepted(tmp_path):
    run_endless(tmp_path, Endless(), steps=9, stop_after=5)
    with pytest.raises(ValueError, match=r"`train` cannot continue .* after batch [45] of epoch 1"):
        run_endless(tmp_path, Endless(brightness=1), steps=9)
    run_endless(tmp_path, Endless(brightness=1), steps=9, accept="stream")
    assert saved_steps(tmp_path)[-1] == 9


def test_another_way_to_find_the_position_is_a_difference_between_runs(tmp_path):
    run_endless(tmp_path, Endless(), steps=9, stop_after=5)
    plain = (tiny_arrays(num=8, seed=number) for number in range(1, 20))
    with pytest.raises(ValueError, match=r"stream: saved EndlessIterator.get_state, now nothing"):
        run_endless(tmp_path, plain, steps=9)
