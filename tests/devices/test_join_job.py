"""Joining a job; what the joined processes do together is tested in test_distributed.py."""

import logging
import os
import subprocess
import sys
import time

import jax
import pytest

from nnx_alexnet.devices.join_job import initialize_distributed
from nnx_alexnet.support import logger

# Nobody listens on the discard port.
ADDRESS = "127.0.0.1:9"


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in [n for n in os.environ if n.startswith(("SLURM_", "OMPI_", "KUBERNETES_"))]:
        monkeypatch.delenv(name)


def test_a_process_without_a_job_joins_nothing():
    assert not initialize_distributed()
    assert not initialize_distributed(num_processes=1)
    assert not jax.distributed.is_initialized()


def test_a_coordinator_that_does_not_run_is_an_error_in_bounded_time():
    script = (
        "from nnx_alexnet import initialize_distributed\n"
        f"initialize_distributed({ADDRESS!r}, 2, 1, timeout=3)"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert time.monotonic() - started < 20
    assert done.returncode == 1
    assert f"TimeoutError: `coordinator` (='{ADDRESS}') could not be reached in 3 s" in done.stderr


def test_the_command_reports_it_in_one_line():
    address = "no-such-host.invalid:1234"
    options = {"coordinator": address, "num_processes": 2, "process_id": 1, "timeout": 2}
    words = [f"--distributed.{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        [sys.executable, "-m", "nnx_alexnet", "fit", *words],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"error: --distributed.coordinator (='{address}') could not be reached" in done.stderr


@pytest.mark.parametrize("name", ["timeout", "heartbeat_timeout"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_timeouts_must_be_positive_integers(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` \(={value}\) must be a positive integer"):
        initialize_distributed(ADDRESS, 2, 1, **{name: value})


def test_what_the_launcher_does_not_reveal_must_be_given(monkeypatch):
    with pytest.raises(ValueError, match="`coordinator`, `process_id` must be given"):
        initialize_distributed(num_processes=4)
    for name, value in [("SIZE", "4"), ("RANK", "3"), ("LOCAL_RANK", "1")]:
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    with pytest.raises(ValueError, match="`coordinator` must be given"):
        initialize_distributed()


def test_arguments_are_checked_even_if_the_launcher_is_known(monkeypatch):
    for name, value in [("NTASKS", "8"), ("STEP_NODELIST", "node[01-02]"), ("PROCID", "5")]:
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(ValueError, match="must be the address of process 0 with a port"):
        initialize_distributed("10.0.0.1")


def test_in_a_job_that_is_already_joined_only_the_first_process_logs(monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    level = logger.level
    try:
        for index, expected in [(0, level), (1, logging.WARNING)]:
            monkeypatch.setattr(jax, "process_index", lambda index=index: index)
            assert initialize_distributed()
            assert logger.level == expected
    finally:
        logger.setLevel(level)
        for handler in logger.handlers:
            handler.setFormatter(logging.Formatter("%(message)s"))
