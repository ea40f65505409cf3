"""A run that was stopped, for the tests that continue or damage it."""

import shutil

import pytest
from jobs import run_here


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The logs of a run that was stopped after 17 steps, with checkpoints of 10 and 15."""
    logs = tmp_path_factory.mktemp("stopped")
    run_here(logs, stop_after=17)
    return logs


@pytest.fixture
def copied(stopped, tmp_path):
    """A copy of these logs."""
    shutil.copytree(stopped, tmp_path / "copy")
    return tmp_path / "copy"
