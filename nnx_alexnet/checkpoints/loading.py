"""Loads the model of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from nnx_alexnet.checkpoints.choosing import (
    MAX_ATTEMPTS,
    OPEN_CHOICES,
    Choice,
    choose_checkpoint,
)
from nnx_alexnet.checkpoints.integrity import DamagedError, VanishedError
from nnx_alexnet.checkpoints.items import read_checkpoint, read_shapes
from nnx_alexnet.checkpoints.same_run import differences
from nnx_alexnet.devices import describe_leaf, model_state, named_leaves, on_device
from nnx_alexnet.support import absolute_path, logger, shown


def load_checkpoint(
    path: str | Path, model: nnx.Module, *, which: str | int = "auto", partial: bool = False
) -> dict[str, Any]:
    """Puts the parameters and statistics of a checkpoint into a freshly built model.

    These are the values with which the checkpoint was evaluated: the averages, if the run kept any
    (`EMA`, `SWA`, `optax.contrib.schedule_free`). The log reports which step was loaded, and why.

    Args:
        path: a run folder (`logs/<name>/version_<n>`) or one checkpoint in it
            (`.../checkpoints/<step>`).
        model: a model of the same architecture; changed in place.
        which: the checkpoint of a run folder: `"auto"` (the default: the best if a metric ranked
            the run's checkpoints, else the latest), `"best"`, `"last"`, or a step. Damaged
            checkpoints are reported and never count as the best or the latest.
        partial: whether the model may be of another architecture, such as one with another head
            (default False). The arrays whose path, shape and dtype are those of the checkpoint are
            loaded, except random keys; all others keep their values.

    Returns:
        What was saved besides the weights: `global_step`, `epoch`, `metrics`, `class_names`, ...
        With `partial`, also the paths of the arrays of the model: `loaded`, `skipped` (another
        shape or dtype in the checkpoint) and `left` (not in the checkpoint). The log lists them.

    Raises:
        ValueError: there is no such checkpoint, it is damaged, or it is of another architecture;
            the message lists the differences (path, saved, now). With `partial`: no array fits.
        TypeError: `model` is not a module.
        OSError: it could not be read, though nothing shows that it is damaged.

    Example:
        >>> import tempfile
        >>> from flax import nnx
        >>> from nnx_alexnet.checkpoints.loading import load_checkpoint
        >>> from nnx_alexnet.devices.named_arrays import named_leaves, on_host
        >>> from nnx_alexnet.checkpoints.store import Checkpoints
        >>> trained = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        >>> checkpoints = Checkpoints(tempfile.mkdtemp())
        >>> arrays = {f"model/{n}": on_host(leaf) for n, leaf in named_leaves(trained).items()}
        >>> checkpoints.save(5, arrays, {"epoch": 1})
        >>> checkpoints.close()
        >>> fresh = nnx.Linear(2, 3, rngs=nnx.Rngs(1))
        >>> load_checkpoint(checkpoints.directory, fresh)["epoch"]
        1
        >>> bool((fresh.kernel == trained.kernel).all())
        True
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"`model` (={shown(model)}) must be an nnx.Module that is built like the trained model."
        )
    excluded: set[Path] = set()
    for attempts_left in reversed(range(MAX_ATTEMPTS)):
        choice = choose_checkpoint(path, which, excluded=excluded)
        is_open = str(which) in OPEN_CHOICES and choice.path != absolute_path(path, "path")
        try:
            loop = load_chosen(choice, model, partial=partial)
        except DamagedError as error:
            if not is_open:
                raise
            logger.warning("%s It is not used.", error)
            excluded.add(choice.path)
        except VanishedError:  # the run continues: list its checkpoints again
            if not (is_open and attempts_left):
                raise
        else:
            break
    return loop


def load_chosen(
    choice: Choice, model: nnx.Module, *, partial: bool = False, reports: bool = True
) -> dict[str, Any]:
    """Loads a checkpoint that was chosen before, as `load_checkpoint` does.

    Args:
        choice: the checkpoint.
        model: see `load_checkpoint`.
        partial: see `load_checkpoint`.
        reports: whether to log the checkpoint and the reason of the choice.
    """
    folder = choice.path
    leaves = named_leaves(model)
    here = {name: describe_leaf(leaf) for name, leaf in leaves.items()}
    there = {name: str(about) for name, about in read_shapes(folder, "model").items()}
    lines = differences(there, here)
    if lines and not partial:
        raise ValueError(
            f"`model` is not of the architecture saved in {folder}. Build it with the arguments "
            "that it was trained with, or load what fits with partial=True. Differences:\n  "
            + "\n  ".join(lines)
        )
    report = _compare(model, here, there) if partial else {"loaded": [*leaves]}
    if not report["loaded"]:
        raise ValueError(
            f"`model` shares no array of the same path and shape with {folder}. Differences:\n  "
            + "\n  ".join(lines)
        )
    saved = read_checkpoint(folder, items=("model", "evaluation"))
    arrays = saved.evaluated_model()
    with jax.transfer_guard("allow"):
        restored = leaves | {
            name: on_device(arrays[name], leaves[name]) for name in report["loaded"]
        }
    structure = jax.tree.structure(model_state(model))
    nnx.update(model, jax.tree.unflatten(structure, restored.values()))
    if reports:
        logger.info("Loaded %s: %s.", folder, choice.reason)
    if not partial:
        return saved.loop
    for what, names in zip(_OUTCOMES.values(), report.values(), strict=True):
        if names:
            logger.info("%s: %s.", what, ", ".join(names))
    return saved.loop | report


_NOT_LEARNED = nnx.Any(nnx.RngState, nnx.Intermediate)
_OUTCOMES = {
    "loaded": "Loaded from the checkpoint",
    "skipped": "Skipped, because they have another shape in the checkpoint",
    "left": "Left as they are, because they are not in the checkpoint",
}


def _compare(
    model: nnx.Module, here: Mapping[str, str], there: Mapping[str, str]
) -> dict[str, list[str]]:
    """Returns which arrays of a model are loaded, skipped and left; random keys are not listed."""
    report: dict[str, list[str]] = {outcome: [] for outcome in _OUTCOMES}
    for name in named_leaves(nnx.state(model, nnx.Not(_NOT_LEARNED))):
        if name not in there:
            report["left"].append(name)
        elif there[name] != here[name]:
            report["skipped"].append(name)
        else:
            report["loaded"].append(name)
    return report
