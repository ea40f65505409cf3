"""Runs that tests and benchmarks stop, kill and start again: `resume_job.py`, here or as a process.

`Job` is a run in a process of its own, `run_here` one in this process. The other functions read
what such a run has left.
"""

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from resume_job import JOB, build

from nnx_alexnet.callbacks import Callback
from nnx_alexnet.checkpoints.choosing import choose_checkpoint
from nnx_alexnet.checkpoints.items import find_steps, read_checkpoint

TESTS = Path(__file__).parent


class Job:
    """`resume_job.py` as a process, whose lines can be read as it prints them."""

    def __init__(self, logs, **options):
        command = [sys.executable, str(TESTS / "resume_job.py"), str(logs)]
        command += [f"{name}={value}" for name, value in options.items()]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self.errors = ""
        self._queue: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self._error_reader = threading.Thread(target=self._read_errors, daemon=True)
        self._error_reader.start()

    def _read(self):
        with self.process.stdout as lines:
            for line in lines:
                self._queue.put(line.strip())
        self._queue.put(None)

    def _read_errors(self):
        with self.process.stderr as errors:
            self.errors = errors.read()

    def next_line(self, timeout=120):
        """Returns the next line; None when the process has ended."""
        line = self._queue.get(timeout=timeout)
        if line is not None:
            self.lines.append(line)
        return line

    def wait_for(self, word, times=1):
        """Waits for so many lines that begin with a word; returns False if the process ended."""
        for _ in range(times):
            while (line := self.next_line()) is not None and not line.startswith(word):
                pass
            if line is None:
                return False
        return True

    def end(self, timeout=120):
        """Waits for the end; returns the exit status."""
        while self.next_line(timeout) is not None:
            pass
        status = self.process.wait(timeout)
        self._error_reader.join(10)
        return status

    def steps(self, word="step"):
        """Returns the numbers in the lines that begin with a word."""
        return [int(line.split()[1]) for line in self.lines if line.startswith(f"{word} ")]

    def error(self):
        """Returns the type and the text of what `fit` raised."""
        found = [line for line in self.lines if line.startswith("error ")]
        assert found, self.errors
        about = json.loads(found[0].removeprefix("error "))
        return about["type"], about["text"]


class StopAfter(Callback):
    """Raises in a run of this process after so many steps."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        if trainer.global_step == self.step:
            raise RuntimeError("stopped on purpose")


def run_here(logs, *, stop_after=None, **options):
    """Runs the job in this process; if it is stopped, it saves nothing. Returns its trainer."""
    options |= {} if stop_after is None else {"save_on_exception": False}
    callbacks = [] if stop_after is None else [StopAfter(stop_after)]
    trainer = build(logs, {**JOB, **options}, callbacks)
    if stop_after is None:
        trainer.fit(resume="auto")
    else:
        with pytest.raises(RuntimeError, match="on purpose"):
            trainer.fit(resume="auto")
    return trainer


def run_dir(logs):
    """Returns the folder of the job's run."""
    return logs / "job/version_0"


def saved_steps(logs):
    """Returns the steps of the checkpoints, in order."""
    return sorted(find_steps(run_dir(logs) / "checkpoints"))


def digest(logs):
    """Returns the digest of the newest checkpoint."""
    return read_checkpoint(choose_checkpoint(run_dir(logs), "last").path, items=()).digest


def step_log(logs):
    """Returns the lines of the log, without what depends on the clock."""
    lines = map(json.loads, (run_dir(logs) / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if not k.startswith("perf/")} for line in lines]
