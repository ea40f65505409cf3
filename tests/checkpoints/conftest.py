"""A run with two checkpoints, for the tests of this folder."""

import shutil

import pytest
from saved_runs import arrays_of

from nnx_alexnet.checkpoints import Checkpoints, items


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A run with checkpoints of two steps, the earlier one the best. Do not change it."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(folder, monitor="val/loss", keep_best=1)
    for step, value in [(10, 0.25), (20, 0.5)]:
        checkpoints.save(step, arrays_of(step), {"epoch": step // 10, "data": {}}, value=value)
    checkpoints.close()
    return folder.parent


@pytest.fixture
def run(saved, tmp_path):
    """A copy of the run, which a test may change."""
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def while_reading(monkeypatch):
    """Calls an action once, when the arrays or the JSON of a checkpoint are about to be read."""

    def at(name, action):
        real, done = getattr(items, name), []

        def read(folder, *arguments):
            if not done:
                done.append(folder)
                action(folder)
            return real(folder, *arguments)

        monkeypatch.setattr(items, name, read)

    return at
