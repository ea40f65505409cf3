"""Small checkpoints that several test files write, read and damage."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

from nnx_alexnet.checkpoints import Checkpoint, Checkpoints, orbax_files
from nnx_alexnet.devices import named_leaves, on_host


def linear(seed: int = 0) -> nnx.Linear:
    """The model of the checkpoints of `arrays_of`."""
    return nnx.Linear(20, 30, rngs=nnx.Rngs(seed))


def arrays_of(step: int) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint, which differ between steps."""
    arrays = {f"model/{name}": on_host(leaf) for name, leaf in named_leaves(linear(step)).items()}
    return arrays | {"optimizer/count": np.array(step, np.int32)}


def small(step: int) -> dict[str, np.ndarray]:
    """A few numbers, where the content does not matter."""
    return {"model/weights": np.full((3,), float(step)), "optimizer/count": np.array(step)}


def save_all(directory: Path, values: dict[int, float | None], **options: Any) -> Checkpoints:
    """Writes a checkpoint of each step, ranked by its value."""
    checkpoints = Checkpoints(directory, **options)
    for step, value in values.items():
        checkpoints.save(step, small(step), {"global_step": step}, value=value)
    checkpoints.close()
    return checkpoints


def listed(folder: Path) -> list[str]:
    """The names in a folder."""
    return sorted(path.name for path in folder.iterdir())


def names(run: Path) -> list[str]:
    """The names in the folder of checkpoints of a run."""
    return listed(run / "checkpoints")


def resume(run: Path) -> Checkpoint | None:
    """The checkpoint from which a run resumes."""
    checkpoints = Checkpoints(run / "checkpoints", monitor="val/loss", keep_best=1)
    try:
        return checkpoints.restore(lambda loop: None)
    finally:
        checkpoints.close()


def fail_in_orbax(monkeypatch: pytest.MonkeyPatch, cause: Exception) -> None:
    """Lets every use of Orbax fail."""

    def fail() -> None:
        raise cause

    monkeypatch.setattr(orbax_files, "_handler", fail)


def fail_to_open(monkeypatch: pytest.MonkeyPatch, cause: Exception) -> None:
    """Lets every file of a checkpoint fail to open."""
    real = os.open

    def fail(path: Any, *arguments: Any, **options: Any) -> int:
        if "checkpoints/" in str(path):
            raise cause
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", fail)
