"""Checkpoints on disk: everything that touches Orbax.

A checkpoint is a folder `checkpoints/<step>/` of items: `model` (parameters, BatchNorm
statistics, dropout keys), `optimizer`, `metrics` (the sums of the running epoch), `loop` (JSON:
the position of the run, its metrics, the state of its callbacks, and what is needed to use the
model without its data), and `manifest` (the digests of all these).
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax import nnx, traverse_util

from nnx_alexnet.errors import unknown
from nnx_alexnet.identity import differences
from nnx_alexnet.leaves import describe_leaf, named_leaves, on_device
from nnx_alexnet.manifest import Arrays, damaged, manifest_of
from nnx_alexnet.paths import absolute_path

Mode = Literal["min", "max"]

_ITEMS = ("model", "optimizer", "metrics")

# What a damaged checkpoint may raise when it is read: Orbax and TensorStore raise all kinds.
UNREADABLE = (Exception,)


class Checkpoint(NamedTuple):
    """What was read of a checkpoint, and found whole.

    Attributes:
        step: the optimizer steps done.
        arrays: every array by its path, the item first ("model/conv1/kernel").
        loop: the JSON item.
    """

    step: int
    arrays: Arrays
    loop: dict[str, Any]

    def item(self, name: str) -> dict[str, np.ndarray[Any, Any]]:
        """Returns the arrays of one item, by their path inside it."""
        prefix = f"{name}/"
        return {
            path.removeprefix(prefix): array
            for path, array in self.arrays.items()
            if path.startswith(prefix)
        }


def kept_steps(
    steps: Sequence[int],
    values: Mapping[int, float],
    *,
    keep_latest: int,
    keep_best: int,
    mode: Mode,
) -> set[int]:
    """Returns the steps to keep: the latest ones, and the best ones by metric.

    Args:
        steps: every step on disk.
        values: the monitored value of the steps where it was measured; one that is not finite
            is never among the best.
        keep_latest: how many of the largest steps to keep.
        keep_best: how many of the best to keep besides; of equal values the earlier step wins.
        mode: whether smaller (`"min"`) or larger (`"max"`) values are better.

    Returns:
        A subset of `steps`.

    Example:
        >>> from nnx_alexnet.checkpoints import kept_steps
        >>> values = {10: 0.7, 20: 0.9, 30: float("nan")}
        >>> sorted(kept_steps([10, 20, 30], values, keep_latest=1, keep_best=1, mode="max"))
        [20, 30]
    """
    ordered = sorted(steps)
    latest = ordered[len(ordered) - keep_latest :] if keep_latest < len(ordered) else ordered
    ranked = [step for step in ordered if math.isfinite(values.get(step, math.nan))]
    ranked.sort(key=lambda step: -values[step] if mode == "max" else values[step])
    return {*latest, *ranked[:keep_best]}


def _array_handler() -> Any:
    import orbax.checkpoint as ocp

    # Orbax reports each save, and each error with pages of traces; what it raises says enough.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # Random weights hardly compress: zstd saved 8% of AlexNet's 259 MB for 2 s of processor.
    return ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=_alone())


def _json_handler() -> Any:
    import orbax.checkpoint as ocp

    return ocp.JsonCheckpointHandler(multiprocessing_options=_alone())


def _checkpointer(handler: Any) -> Any:
    import orbax.checkpoint as ocp

    return ocp.Checkpointer(handler, multiprocessing_options=_alone())


def _alone() -> Any:
    """Lets Orbax wait for no other process: the first one writes, and each reads when it will."""
    import orbax.checkpoint as ocp

    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
    )


def write_checkpoint(folder: Path, arrays: Arrays, loop: Mapping[str, Any]) -> None:
    """Writes all items to a temporary folder, and renames it when it is complete.

    Of several processes the first one alone may call this.

    Args:
        folder: the folder of the checkpoint, absolute; it must not exist.
        arrays: by their path, the item first.
        loop: what JSON can hold.
    """
    import orbax.checkpoint as ocp

    nested = traverse_util.unflatten_dict(dict(arrays), sep="/")
    items = {name: ocp.args.PyTreeSave(nested[name]) for name in _ITEMS if name in nested}
    handlers = {name: _array_handler() for name in items}
    json_handlers = {name: _json_handler() for name in ("loop", "manifest")}
    options = ocp.CompositeOptions(multiprocessing_options=_alone())
    handler = ocp.CompositeCheckpointHandler(composite_options=options, **handlers, **json_handlers)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _checkpointer(handler) as checkpointer:
        checkpointer.save(
            folder,
            args=ocp.args.Composite(
                **items,
                loop=ocp.args.JsonSave(loop),
                manifest=ocp.args.JsonSave(manifest_of(arrays, loop)),
            ),
        )


def _read_json(path: Path) -> dict[str, Any]:
    with _checkpointer(_json_handler()) as checkpointer:
        return dict(checkpointer.restore(path))


def _read_arrays(path: Path, item: str) -> dict[str, np.ndarray[Any, Any]]:
    """Reads one item as NumPy arrays by their path; nothing of it says where they go."""
    import orbax.checkpoint as ocp

    with _checkpointer(_array_handler()) as checkpointer:
        tree = checkpointer.metadata(path / item).item_metadata.tree
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        nested = checkpointer.restore(path / item, args=ocp.args.PyTreeRestore(restore_args=how))
    flat = traverse_util.flatten_dict({item: nested}, sep="/")
    return {name: np.asarray(array) for name, array in flat.items()}


def read_checkpoint(path: Path, items: Sequence[str] = _ITEMS) -> Checkpoint:
    """Reads a checkpoint and compares it with its digests.

    Args:
        path: the folder of one checkpoint, absolute.
        items: which of its arrays to read (default all).

    Returns:
        The checkpoint.

    Raises:
        ValueError: it is damaged; the message names what differs.
        Exception: it is damaged so that Orbax cannot read it; the type says nothing.
    """
    loop, manifest = _read_json(path / "loop"), _read_json(path / "manifest")
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for item in items:
        if (path / item).is_dir() or any(p.startswith(f"{item}/") for p in manifest["arrays"]):
            arrays |= _read_arrays(path, item)
    if differing := damaged(manifest, arrays, loop):
        raise ValueError(f"{path} is damaged: {', '.join(differing[:5])} differ from the digests")
    step = int(path.name) if path.name.isdigit() else loop["global_step"]  # a renamed copy
    return Checkpoint(step, arrays, loop)


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns the digests that a checkpoint was written with."""
    return _read_json(path / "manifest")


def read_loop(path: str | Path) -> dict[str, Any]:
    """Returns the JSON item of a checkpoint: position, metrics, ranking, classes.

    Args:
        path: the folder of one checkpoint, `.../checkpoints/<step>`.

    Returns:
        The dict that was saved.

    Raises:
        ValueError: it is damaged.
    """
    return read_checkpoint(absolute_path(path, "path"), items=()).loop


def find_steps(directory: Path) -> dict[int, Path]:
    """Returns the folders of a `checkpoints` folder that are named like a step, by step."""
    found = [path for path in directory.glob("*") if re.fullmatch(r"\d+", path.name)]
    return {int(path.name): path for path in sorted(found, key=lambda path: int(path.name))}


def find_checkpoint(path: str | Path, which: str = "best") -> Path:
    """Returns the folder of one checkpoint of a run.

    Args:
        path: a run folder, its `checkpoints` folder, or one checkpoint.
        which: `"best"` (the default; the latest where nothing was ranked), `"last"`, or a step.

    Returns:
        The folder `.../checkpoints/<step>`.

    Raises:
        ValueError: nothing is there, or not that step.
    """
    path = absolute_path(path, "path")
    if (path / "loop").is_dir():
        return path
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    steps = {step: child for step, child in find_steps(folder).items() if (child / "loop").is_dir()}
    if not steps:
        raise ValueError(
            f"`path` (={str(path)!r}) holds no checkpoint; it must be a run folder, its "
            "`checkpoints` folder, or one checkpoint in it."
        )
    which = str(which)
    if which.isdigit() and int(which) in steps:
        return steps[int(which)]
    if which not in ("best", "last"):
        raise unknown("checkpoint", which, ["best", "last", *map(str, sorted(steps))])
    if which == "best":
        best = _best(steps)
        if best is not None:
            return steps[best]
    return steps[max(steps)]


def _best(steps: Mapping[int, Path]) -> int | None:
    """Returns the best step by the metric that the newest ranked one was ranked by."""
    rankings = {}
    for step, folder in sorted(steps.items(), reverse=True):
        try:
            ranking = read_loop(folder)["ranking"]
        except UNREADABLE:
            continue  # a damaged one is never the best
        if ranking["value"] is not None:
            rankings[step] = ranking
    if not rankings:
        return None
    newest = next(iter(rankings.values()))
    by = newest["monitor"], newest["mode"]
    values = {s: r["value"] for s, r in rankings.items() if (r["monitor"], r["mode"]) == by}
    best = kept_steps([*values], values, keep_latest=0, keep_best=1, mode=newest["mode"])
    return next(iter(best), None)


def load_checkpoint(path: str | Path, model: nnx.Module, *, which: str = "best") -> dict[str, Any]:
    """Puts the parameters and statistics of a checkpoint into a freshly built model.

    Args:
        path: a run folder (`logs/<name>/version_<n>`) or one checkpoint in it
            (`.../checkpoints/<step>`).
        model: a model of the same architecture; changed in place.
        which: of a run folder, `"best"` (the default; the latest where nothing was ranked),
            `"last"`, or a step.

    Returns:
        What was saved beside the weights: `global_step`, `epoch`, `metrics`, `class_names`, ...

    Raises:
        ValueError: there is no checkpoint, it is damaged, or it is of another architecture; the
            message lists what differs (path, saved, now).

    Example:
        >>> import tempfile
        >>> from flax import nnx
        >>> from nnx_alexnet.checkpoints import load_checkpoint
        >>> from nnx_alexnet.leaves import named_leaves, on_host
        >>> from nnx_alexnet.saving import Checkpoints
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
    folder = find_checkpoint(path, which)
    leaves = named_leaves(model)
    here = {name: describe_leaf(leaf) for name, leaf in leaves.items()}
    try:
        manifest = read_manifest(folder)
        there = {
            name.removeprefix("model/"): f"{about['dtype']}{about['shape']}"
            for name, about in manifest["arrays"].items()
            if name.startswith("model/")
        }
    except UNREADABLE as error:
        raise ValueError(f"The checkpoint {folder} is damaged: {first_line(error)}.") from error
    if lines := differences(there, here):
        raise ValueError(
            f"`model` is not of the architecture saved in {folder}. Build it with the arguments "
            "that it was trained with. What differs:\n  " + "\n  ".join(lines)
        )
    try:
        saved = read_checkpoint(folder, items=("model",))
    except UNREADABLE as error:
        raise ValueError(f"The checkpoint {folder} is damaged: {first_line(error)}.") from error
    arrays = saved.item("model")
    restored = {name: on_device(arrays[name], leaf) for name, leaf in leaves.items()}
    state = nnx.state(model)
    structure = jax.tree.structure(state)
    nnx.update(model, jax.tree.unflatten(structure, restored.values()))
    return saved.loop


def first_line(error: BaseException) -> str:
    """Returns the beginning of what an error says: those of TensorStore are pages long."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
