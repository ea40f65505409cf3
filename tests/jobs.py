"""Runs that tests and benchmarks stop, kill and start again, in this process or in others.

`Job` is a run of `resume_job.py` in a process of its own, `run_here` one in this process, and
`DistributedJob` one of `distributed_job.py` in several. The other functions read what a run leaves.
"""

import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
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


# ---- Several processes -------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _environment(devices: int) -> dict[str, str]:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


class DistributedJob:
    """The processes of `distributed_job.py`; after `wait`, their reports are in `reports`."""

    def __init__(self, folder, *, processes=2, devices=2, **options):
        self.folder = folder
        if processes > 1:
            options |= {"port": _free_port(), "processes": processes}
        self.logs = [folder / f"{number}.log" for number in range(processes)]
        self.processes = []
        for number, log in enumerate(self.logs):
            (folder / f"{number}.json").unlink(missing_ok=True)
            with log.open("w") as file:
                command = [
                    sys.executable,
                    TESTS / "distributed_job.py",
                    folder,
                    str(number),
                    json.dumps(options),
                ]
                self.processes.append(
                    subprocess.Popen(command, env=_environment(devices), stdout=file, stderr=file)
                )

    def wait(self, timeout=120):
        """Waits for the end of all; returns their exit statuses."""
        end = time.monotonic() + timeout
        try:
            codes = [p.wait(max(0.1, end - time.monotonic())) for p in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        files = [self.folder / f"{number}.json" for number in range(len(self.processes))]
        self.reports = [json.loads(file.read_text()) if file.exists() else {} for file in files]
        return codes

    def text(self, number):
        """Returns what a process has printed."""
        return self.logs[number].read_text()

    def step(self, number):
        """Returns the last step of a job with a `pause`; 0 before the first."""
        file = self.folder / f"{number}.step"
        text = file.read_text() if file.exists() else ""
        return int(text or 0)

    def until_step(self, step, timeout=90):
        """Waits until all processes have taken a step."""
        end = time.monotonic() + timeout
        while min(self.step(0), self.step(1)) < step:
            assert time.monotonic() < end, self.text(0) + self.text(1)
            time.sleep(0.02)


def run_processes(folder, **options):
    """Runs the processes to their end; returns their reports."""
    job = DistributedJob(folder, **options)
    codes = job.wait()
    assert codes == [0] * len(codes), "\n".join(job.text(number) for number in range(len(codes)))
    return job.reports
