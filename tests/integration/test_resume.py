"""Runs that are stopped, killed and started again, in processes of their own."""

import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
from helpers import event_values
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import Job, digest, run_dir, run_here, saved_steps, step_log
from resume_job import JOB, build

from nnx_alexnet.checkpoints.choosing import choose_checkpoint
from nnx_alexnet.checkpoints.items import read_loop


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The logs of a run that nothing happened to."""
    logs = tmp_path_factory.mktemp("reference")
    run_here(logs)
    return logs


def kill_again_and_again(logs, reference, *, kills, seed, **options):
    """Kills a run so often, at random times, and lets it end; returns the steps redone a kill."""
    rng = random.Random(seed)
    redone, done, last = [], 0, None
    while done < kills:
        job = Job(logs, step_seconds=0.02, **options)
        is_alive = job.wait_for("start") if rng.random() < 0.1 else job.wait_for("step")
        is_alive = is_alive and job.wait_for("step", rng.randrange(9))
        time.sleep(rng.uniform(0, 0.1))
        os.killpg(job.process.pid, signal.SIGKILL)
        job.end()
        started = job.steps("start")
        if last is not None and started:
            redone.append(last - started[0])
        last = max(job.steps(), default=started[0] if started else last)
        done += 1
        if not is_alive:
            raise AssertionError(f"the run had ended after {done} kills: {job.errors}")
    redone.append(last - max(saved_steps(logs), default=0))
    run_here(logs, **options)
    assert digest(logs) == digest(reference)
    assert step_log(logs) == step_log(reference)
    steps = [line["step"] for line in step_log(logs) if "train/loss_step" in line]
    assert steps == list(range(1, len(steps) + 1)), "each step once"
    return redone


def test_a_run_killed_at_a_random_time_ends_as_if_nothing_had_been(tmp_path, reference):
    redone = kill_again_and_again(tmp_path, reference, kills=1, seed=0)
    # A save every five steps: those since the last one, or one more if that was being written.
    assert max(redone) <= 2 * JOB["save_every"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_change_nothing(tmp_path):
    options = {"epochs": 30}
    run_here(tmp_path / "reference", **options)
    redone = kill_again_and_again(
        tmp_path / "killed", tmp_path / "reference", kills=50, seed=1, **options
    )
    print("steps redone a kill:", sorted(redone))
    # Those since the newest save that was complete; one more may be under way meanwhile.
    assert max(redone) <= 2 * JOB["save_every"]


def test_a_run_that_had_ended_stays_as_it_is(tmp_path, reference):
    shutil.copytree(reference, tmp_path / "copy")
    trainer = run_here(tmp_path / "copy")
    assert trainer.global_step == 40
    assert [row["epoch"] for row in trainer.history] == list(range(4))
    assert digest(tmp_path / "copy") == digest(reference)
    assert step_log(tmp_path / "copy") == step_log(reference)


def test_more_epochs_continue_a_finished_run(tmp_path, reference):
    shutil.copytree(reference, tmp_path / "copy")
    run_here(tmp_path / "copy", epochs=5)
    run_here(tmp_path / "straight", epochs=5)
    assert digest(tmp_path / "copy") == digest(tmp_path / "straight")


def test_a_run_resumes_with_another_number_of_workers(copied, reference):
    run_here(copied, num_workers=1)
    assert digest(copied) == digest(reference)


# Orbax leaves coroutines behind when it cannot read.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_continues_from_the_checkpoint_before_a_damaged_one(copied, reference, warnings):
    assert saved_steps(copied) == [10, 15]
    files = (run_dir(copied) / "checkpoints/15/model").rglob("d/*")
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    run_here(copied)
    assert sum("is damaged" in text for text in warnings.messages) == 1
    assert digest(copied) == digest(reference)
    assert step_log(copied) == step_log(reference)


STOPS = st.lists(st.integers(1, 12), min_size=1, max_size=3)


def test_a_run_stopped_before_and_after_a_save_ends_the_same(reference):
    stop_and_go(reference, stops=[4, 9], save_every=6)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@given(stops=STOPS, save_every=st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_wherever_a_run_stops_it_ends_the_same_often(reference, stops, save_every):
    stop_and_go(reference, stops, save_every, pictures=True)


def stop_and_go(reference, stops, save_every, *, pictures=False):
    options = {"save_every": save_every, "pictures": pictures}
    with tempfile.TemporaryDirectory() as logs:
        step = 0
        for more in stops:
            step += more
            trainer = run_here(Path(logs), stop_after=step, **options)
            assert trainer.global_step == step
        trainer = run_here(Path(logs), **options)
        assert digest(Path(logs)) == digest(reference)
        assert step_log(Path(logs)) == step_log(reference)
        assert [row["epoch"] for row in trainer.history] == list(range(4))


# With averaged weights, as every job. A micro-batch has six rows, or two of the last batch.
TOGETHER = {"micro_batches": 3, "mixup": 0.4, "conv_rate": 0.1, "schedule": "cosine"}


def test_micro_batches_ema_mixup_groups_and_a_schedule_resume_exactly(tmp_path):
    options = {**TOGETHER, "epochs": 1}
    run_here(tmp_path / "broken", stop_after=8, **options)
    assert saved_steps(tmp_path / "broken") == [5]
    run_here(tmp_path / "broken", **options)
    run_here(tmp_path / "whole", **options)
    assert digest(tmp_path / "broken") == digest(tmp_path / "whole")
    assert step_log(tmp_path / "broken") == step_log(tmp_path / "whole")
    assert {"lr/conv", "lr/rest"} <= step_log(tmp_path / "whole")[-1].keys()


@pytest.mark.slow
def test_a_killed_run_with_all_of_them_ends_as_if_nothing_had_been(tmp_path):
    run_here(tmp_path / "whole", **TOGETHER)
    kill_again_and_again(tmp_path / "killed", tmp_path / "whole", kills=3, seed=2, **TOGETHER)


def test_a_resume_reads_no_example_again(copied):
    trainer = build(copied, JOB)
    read = []
    trainer.data.train.labels()  # is known, as the digest is, once a sample was read
    trainer.data.train.source.dataset.read = read
    trainer.fit(resume="auto")
    # From step 15 on: half of the second epoch, and two whole ones of 150.
    assert len(read) == 150 - 5 * 16 + 2 * 150


MOMENTS = ["compilation", "a step", "validation", "saving"]


def stop_and_check(logs, number, moment, reference):
    """Sends a signal at a moment; the run must save the exact step and be resumable."""
    slow = {"step_seconds": 0.05, "validation_seconds": 0.1}
    job = Job(logs, **slow)
    if moment == "compilation":
        assert job.wait_for("start")
    elif moment == "validation":
        assert job.wait_for("validation")
    else:
        assert job.wait_for("step", 5 if moment == "saving" else 7)
    os.kill(job.process.pid, number)
    status = job.end()
    assert status == 128 + number, job.errors
    last = max(job.steps(), default=0)
    saved = choose_checkpoint(run_dir(logs), "last").path
    assert int(saved.name) == read_loop(saved)["global_step"] == last
    run_here(logs)
    assert digest(logs) == digest(reference)
    assert step_log(logs) == step_log(reference)


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(signal.SIGTERM, "validation", marks=pytest.mark.slow),
        (signal.SIGINT, "compilation"),
    ],
)
def test_a_signal_saves_the_exact_step(tmp_path, reference, number, moment):
    stop_and_check(tmp_path, number, moment, reference)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("repetition", range(5))
def test_forty_signals_save_the_exact_step(tmp_path, reference, number, moment, repetition):
    stop_and_check(tmp_path, number, moment, reference)


@pytest.mark.slow
def test_a_second_sigterm_ends_at_once(tmp_path):
    job = Job(tmp_path, validation_seconds=5.0)
    assert job.wait_for("validation")
    os.kill(job.process.pid, signal.SIGTERM)
    time.sleep(0.3)
    start = time.monotonic()
    os.kill(job.process.pid, signal.SIGTERM)
    assert job.process.wait(10) == -signal.SIGTERM
    assert time.monotonic() - start < 1


@pytest.mark.slow
def test_two_runs_cannot_write_one_folder_and_a_killed_one_lets_go(tmp_path):
    first = Job(tmp_path, step_seconds=0.5)
    assert first.wait_for("step")
    second = Job(tmp_path)
    status = second.end()
    kind, text = second.error()
    assert (status, kind) == (1, "ValueError")
    assert f"process {first.process.pid} on " in text
    first.process.kill()
    first.end()
    run_here(tmp_path)


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("num_classes", 5, "arrays.model/dense/kernel: saved float32[8, 4], now float32[8, 5]"),
        ("optimizer", "sgd", "arrays.optimizer/"),
        ("learning_rate", 0.02, "hyperparams.optimizer/opt_state/hyperparams/learning_rate: saved"),
        ("batch_size", 8, "data.batch_size: saved 16, now 8"),
        ("dtype", "bfloat16", "model.dense.dtype: saved None, now bfloat16"),
        ("num_examples", 140, "data.examples.train: saved 150, now 140"),
        ("seed", 1, "seed: saved 0, now 1"),
    ],
)
def test_another_run_is_refused_with_what_differs(tmp_path, reference, option, value, named):
    logs = tmp_path / "copy"
    shutil.copytree(reference, logs)
    before = sorted(path.name for path in (run_dir(logs) / "checkpoints").iterdir())
    trainer = build(logs, {**JOB, option: value})
    with pytest.raises(ValueError, match="is another run") as raised:
        trainer.fit(resume="auto")
    assert named in str(raised.value)
    assert 'resume="never"' in str(raised.value)
    assert sorted(path.name for path in (run_dir(logs) / "checkpoints").iterdir()) == before


def test_a_refused_resume_writes_nothing_also_later(tmp_path, reference):
    shutil.copytree(reference, tmp_path / "copy")
    log = run_dir(tmp_path / "copy") / "metrics.jsonl"
    before = log.read_bytes()
    trainer = build(tmp_path / "copy", {**JOB, "seed": 1})
    with pytest.raises(ValueError, match="is another run"):
        trainer.fit(resume="auto")
    trainer.validate()
    assert log.read_bytes() == before


def test_fewer_epochs_than_were_done_train_no_more(tmp_path, reference):
    shutil.copytree(reference, tmp_path / "copy")
    assert run_here(tmp_path / "copy", epochs=2).global_step == 40


def test_tensorboard_shows_each_step_once(tmp_path):
    run_here(tmp_path, stop_after=8, epochs=1)
    assert saved_steps(tmp_path)[-1] < 8, "some steps are taken again"
    run_here(tmp_path, epochs=1)
    steps = [step for step, _ in event_values(run_dir(tmp_path), "train/loss_step")]
    assert steps == list(range(1, 11))


def test_what_was_tested_after_a_run_stays_in_its_log(tmp_path):
    trainer = run_here(tmp_path, epochs=1)
    trainer.test()
    run_here(tmp_path, epochs=2)
    log = step_log(tmp_path)
    assert sum("test/loss" in line for line in log) == 1
    steps = [line["step"] for line in log if "train/loss_step" in line]
    assert steps == list(range(1, 21))
