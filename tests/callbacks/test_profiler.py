import gzip
import json
import re

import jax
import pytest
from helpers import Dense, tiny_arrays, trainer_of

from nnx_alexnet import DataModule
from nnx_alexnet.callbacks import Callback, Profiler

DATA = DataModule(tiny_arrays(num=64), batch_size=8)


def profiled(tmp_path, *callbacks, model=None, **arguments):
    arguments = {"max_steps": 20, "log_dir": tmp_path, **arguments}
    return trainer_of(model, DATA, callbacks=callbacks, **arguments)


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


def test_the_trace_holds_the_requested_steps(tmp_path):
    trainer = profiled(tmp_path, Profiler(start_step=5, num_steps=3))
    trainer.fit()
    assert traced_steps(trainer.run_dir) == [6, 7, 8]


def test_dispatches_of_several_steps_end_where_the_trace_does(tmp_path):
    trainer = profiled(tmp_path, Profiler(start_step=5, num_steps=3), model=Dense())
    trainer.fit()
    assert traced_steps(trainer.run_dir) == [8]


def test_by_default_it_traces_steps_after_the_compilation(tmp_path):
    trainer = profiled(tmp_path, Profiler())
    trainer.fit()
    assert traced_steps(trainer.run_dir) == [11, 12, 13, 14, 15]


def test_a_run_that_fails_within_the_trace_still_writes_it(tmp_path):
    class Fail(Callback):
        def on_train_epoch_end(self, trainer):
            raise RuntimeError("boom")

    trainer = profiled(tmp_path, Profiler(start_step=5, num_steps=100), Fail())
    with pytest.raises(RuntimeError, match="boom"):
        trainer.fit()
    assert traced_steps(trainer.run_dir) == [6, 7, 8, 9]  # 9: dispatched before the hook failed
    jax.profiler.start_trace(str(tmp_path / "other"))  # no other is running
    jax.profiler.stop_trace()


def test_runs_that_never_pass_the_start_step_trace_nothing(tmp_path):
    trainer = profiled(tmp_path, Profiler(start_step=30))
    trainer.fit()
    again = profiled(tmp_path, Profiler(start_step=5), max_steps=40)
    again.fit(resume=trainer.run_dir)
    assert again.global_step == 40
    assert not (trainer.run_dir / "plugins").exists()


def test_another_running_trace_does_not_end_training(tmp_path):
    jax.profiler.start_trace(str(tmp_path / "own"))
    try:
        trainer = profiled(tmp_path, Profiler(start_step=5))
        trainer.fit()
    finally:
        jax.profiler.stop_trace()
    assert trainer.global_step == 20


@pytest.mark.parametrize("arguments", [{"start_step": 0}, {"num_steps": 0}, {"num_steps": 1.5}])
def test_arguments_must_be_positive_integers(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}`"):
        Profiler(**arguments)


def test_a_trace_needs_a_folder(tmp_path):
    with pytest.raises(ValueError, match="`log_dir` is None"):
        profiled(tmp_path, Profiler(), log_dir=None).fit()
