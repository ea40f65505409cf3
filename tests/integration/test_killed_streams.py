"""Runs over the streams of several libraries that are killed and started again."""

import os
import signal

import pytest
from jobs import Job, digest, run_here, saved_steps, step_log
from streams import IN_PROCESS, WITH_WORKERS

RUN = {"epochs": 2, "save_every": 3}


def kill_after_a_save(logs, name, *, above):
    """Kills a run when it has saved a step in the middle of an epoch; returns that step."""
    job = Job(logs, step_seconds=0.3, stream=name, **RUN)
    while not (saved := [step for step in saved_steps(logs) if step > above and step % 10]):
        assert job.wait_for("step"), job.errors
    os.killpg(job.process.pid, signal.SIGKILL)
    job.end()
    return saved[-1]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [*IN_PROCESS, *WITH_WORKERS, "hf_map"])
def test_a_run_killed_twice_continues_its_stream(tmp_path, name):
    killed = tmp_path / "killed"
    saved = kill_after_a_save(killed, name, above=0)
    kill_after_a_save(killed, name, above=saved)
    run_here(killed, stream=name, **RUN)
    run_here(tmp_path / "whole", stream=name, **RUN)
    assert digest(killed) == digest(tmp_path / "whole")
    assert step_log(killed) == step_log(tmp_path / "whole")
