"""Restores the initial weights of a run that failed before its first checkpoint.

Such a run has already changed the model, even if only by one step. In the same process, the run may
be started again with the same model object, possibly by another Trainer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple
from weakref import finalize

import numpy as np
from flax import nnx

from nnx_alexnet.support import logger
from nnx_alexnet.training.model_arrays import ModelArrays


class _Start(NamedTuple):
    """The folder of a run, and the initial arrays of its model, by their path."""

    run_dir: Path
    arrays: dict[str, np.ndarray[Any, Any]]


# Keys are the `id` of each live model, because a model that is a dataclass cannot be hashed.
_starts: dict[int, _Start] = {}


def keep_or_restore(arrays: ModelArrays, run_dir: Path) -> None:
    """Keeps the initial weights of a run, or restores them if this run was started before.

    Args:
        arrays: the arrays of the model.
        run_dir: the folder of the run, which has no checkpoint.
    """
    start = _starts.get(id(arrays.model))
    if start is not None and start.run_dir == run_dir:
        arrays.restore_model(start.arrays)
        logger.info("%s has no checkpoint: the run starts again from its initial weights.", run_dir)
        return
    initial = arrays.model_to_host()
    if start is None:
        finalize(arrays.model, _starts.pop, id(arrays.model), None)
    _starts[id(arrays.model)] = _Start(run_dir, initial)


def forget(model: nnx.Module) -> None:
    """Drops the initial weights: from now on, the run can resume from a checkpoint."""
    _starts.pop(id(model), None)
