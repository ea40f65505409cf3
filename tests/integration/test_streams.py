"""Runs that are stopped in the middle of an epoch of a stream, and resumed."""

import os
import signal

import pytest
from jobs import Job, digest, run_here, saved_steps, step_log
from streams import IN_PROCESS, WITH_WORKERS

OPTIMIZED = True  # as the processes that are killed

SHORT = {"epochs": 2, "save_every": 3}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Returns the logs of a run over a stream that nothing happened to; each stream runs once."""
    made = {}

    def logs(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            run_here(made[name], stream=name, **SHORT)
        return made[name]

    return logs


def check_same(logs, reference):
    assert digest(logs) == digest(reference)
    assert step_log(logs) == step_log(reference)


@pytest.mark.parametrize(
    ("name", "stops"), [("grain_map", [14]), ("hf_stream", [5]), ("torchdata", [5, 14])]
)
def test_a_stopped_run_continues_its_stream(tmp_path, reference, name, stops):
    for stop_after in stops:
        run_here(tmp_path, stop_after=stop_after, stream=name, **SHORT)
    run_here(tmp_path, stream=name, **SHORT)
    check_same(tmp_path, reference(name))


def kill_after_a_save(logs, name, *, above):
    """Kills a run when it has saved a step in the middle of an epoch; returns that step."""
    job = Job(logs, step_seconds=0.3, stream=name, **SHORT)
    while not (saved := [step for step in saved_steps(logs) if step > above and step % 10]):
        assert job.wait_for("step"), job.errors
    os.killpg(job.process.pid, signal.SIGKILL)
    job.end()
    return saved[-1]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [*IN_PROCESS, *WITH_WORKERS, "hf_map"])
def test_a_run_killed_twice_continues_its_stream(tmp_path, reference, name):
    saved = kill_after_a_save(tmp_path, name, above=0)
    kill_after_a_save(tmp_path, name, above=saved)
    run_here(tmp_path, stream=name, **SHORT)
    check_same(tmp_path, reference(name))
