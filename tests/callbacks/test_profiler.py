import gzip
import json
import re

import jax
import pytest
from flax import nnx
from helpers import TinyNet, tiny_arrays

from nnx_alexnet import DataModule, Trainer
from nnx_alexnet.callbacks import Callback, Profiler


class SmallNet(nnx.Module):
    """Without a convolution, so that several steps are one dispatch on a CPU too."""

    def __init__(self, rngs):
        self.dense = nnx.Linear(64, 4, rngs=rngs)

    def __call__(self, image):
        return self.dense(image.reshape(len(image), -1))


def trainer_of(tmp_path, *callbacks, model=None, **arguments):
    data = DataModule(tiny_arrays(num=64), batch_size=8)
    model = TinyNet(4, rngs=nnx.Rngs(0)) if model is None else model
    arguments = {"max_steps": 20, "log_dir": tmp_path, "progress_bar": False, **arguments}
    return Trainer(model, data, callbacks=callbacks, **arguments)


def traced_steps(run_dir):
    """The numbers of the annotated dispatches in the trace."""
    (path,) = run_dir.glob("plugins/profile/*/*.trace.json.gz")
    assert list(path.parent.glob("*.xplane.pb"))
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    found = {
        int(event["args"]["step_num"])
        for event in events
        if re.fullmatch(r"train( \d+)?", event.get("name", ""))
        and "step_num" in event.get("args", {})
    }
    return sorted(found)


def test_the_trace_holds_the_steps_that_were_asked_for(tmp_path):
    trainer = trainer_of(tmp_path, Profiler(start_step=5, num_steps=3))
    trainer.fit()
    assert traced_steps(trainer.run_dir) == [6, 7, 8]


def test_a_dispatch_of_several_steps_ends_where_the_trace_does(tmp_path):
    trainer = trainer_of(tmp_path, Profiler(start_step=5, num_steps=3), model=SmallNet(nnx.Rngs(0)))
    trainer.fit()
    assert traced_steps(trainer.run_dir) == [8]


def test_profile_adds_one_that_skips_the_compilation(tmp_path):
    trainer = trainer_of(tmp_path, profile=True)
    trainer.fit()
    assert traced_steps(trainer.run_dir) == [11, 12, 13, 14, 15]


def test_a_run_that_ends_in_the_trace_still_writes_it(tmp_path):
    class Fail(Callback):
        def on_train_epoch_end(self, trainer):
            raise RuntimeError("boom")

    trainer = trainer_of(tmp_path, Profiler(start_step=5, num_steps=100), Fail())
    with pytest.raises(RuntimeError, match="boom"):
        trainer.fit()
    assert traced_steps(trainer.run_dir) == [6, 7, 8]
    jax.profiler.start_trace(str(tmp_path / "other"))  # none is under way
    jax.profiler.stop_trace()


def test_a_shorter_run_and_a_resumed_one_past_the_start_trace_nothing(tmp_path):
    trainer = trainer_of(tmp_path, Profiler(start_step=30))
    trainer.fit()
    again = trainer_of(tmp_path, Profiler(start_step=5), max_steps=40)
    again.fit(resume=trainer.run_dir)
    assert again.global_step == 40
    assert not (trainer.run_dir / "plugins").exists()


def test_another_trace_under_way_does_not_end_training(tmp_path):
    jax.profiler.start_trace(str(tmp_path / "own"))
    try:
        trainer = trainer_of(tmp_path, Profiler(start_step=5))
        trainer.fit()
    finally:
        jax.profiler.stop_trace()
    assert trainer.global_step == 20


@pytest.mark.parametrize("arguments", [{"start_step": 0}, {"num_steps": 0}, {"num_steps": 1.5}])
def test_wrong_arguments_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}`"):
        Profiler(**arguments)


def test_a_trace_needs_a_folder(tmp_path):
    with pytest.raises(ValueError, match="`log_dir` is None"):
        trainer_of(tmp_path, profile=True, log_dir=None).fit()
