"""Checkpoints on disk: everything that touches Orbax.

A checkpoint is a folder `checkpoints/<step>/` of three items: `model` (parameters, BatchNorm
statistics, dropout keys), `optimizer` and `loop` (JSON: the position of the run, its metrics, the
state of its callbacks, and what is needed to use the model without its data). Saves are
asynchronous: the state is copied to the host before `save` returns, so the buffers may be donated
to the next step at once, and `close` must be called on every way out.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
from flax import nnx

from nnx_alexnet.errors import unknown

Tree = Mapping[str, Any]
Mode = Literal["min", "max"]


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


class Checkpoints:
    """The checkpoints of one run: saved in the background, the latest and the best kept.

    Args:
        directory: the folder of the checkpoints, created if missing.
        keep_latest: how many of the newest to keep (default 1).
        monitor: the metric that ranks, or None (the default) for no ranking.
        mode: whether smaller (`"min"`, the default) or larger (`"max"`) is better.
        keep_best: how many of the best to keep besides the newest (default 0).

    Attributes:
        values: the monitored value of each step on disk that has one.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> from nnx_alexnet.checkpoints import Checkpoints
        >>> checkpoints = Checkpoints(tempfile.mkdtemp())
        >>> checkpoints.save(7, {"w": jnp.ones(3)}, {"count": jnp.zeros(())}, {"epoch": 1})
        >>> checkpoints.close()
        >>> checkpoints.latest_step
        7
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep_latest: int = 1,
        monitor: str | None = None,
        mode: Mode = "min",
        keep_best: int = 0,
    ) -> None:
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import PreservationPolicy

        # Orbax reports each save and restore at a level that would drown the run's own lines.
        logging.getLogger("absl").setLevel(logging.ERROR)
        self.directory = Path(directory).expanduser().resolve()
        self.monitor = monitor
        self.mode: Mode = mode
        self.values: dict[int, float] = {}

        class LatestAndBest(PreservationPolicy):  # type: ignore[misc]  # orbax ships no types
            """Keeps what `kept_steps` says; Orbax asks after each save."""

            def should_preserve(policy, checkpoints: Any, *, context: Any) -> Sequence[bool]:  # noqa: N805
                steps = [checkpoint.step for checkpoint in checkpoints]
                kept = kept_steps(
                    steps, self.values, keep_latest=keep_latest, keep_best=keep_best, mode=mode
                )
                return [step in kept for step in steps]

        # Random weights hardly compress: zstd saved 8% of AlexNet's 259 MB for 2 s of processor.
        handler = partial(ocp.PyTreeCheckpointHandler, use_compression=False)
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_names=("model", "optimizer", "loop"),
            item_handlers={"model": handler(), "optimizer": handler()},
            options=ocp.CheckpointManagerOptions(
                preservation_policy=LatestAndBest(), create=True, cleanup_tmp_directories=True
            ),
        )
        for step in self.steps:
            self._remember(step, read_loop(self.path(step)))

    @property
    def steps(self) -> list[int]:
        """The steps on disk or being saved, in ascending order."""
        return sorted(self._manager.all_steps())

    @property
    def latest_step(self) -> int | None:
        """The newest step, None when nothing was saved."""
        return max(self.steps, default=None)

    @property
    def best_step(self) -> int | None:
        """The step with the best monitored value, None when no step has one."""
        present = set(self.steps)
        best = kept_steps(
            [step for step in self.values if step in present],
            self.values,
            keep_latest=0,
            keep_best=1,
            mode=self.mode,
        )
        return next(iter(best), None)

    @property
    def best_value(self) -> float | None:
        """The monitored value of `best_step`."""
        step = self.best_step
        return None if step is None else self.values[step]

    def path(self, step: int) -> Path:
        """Returns the folder of the checkpoint of that step."""
        return self.directory / str(step)

    def save(
        self, step: int, model: Tree, optimizer: Tree, loop: Tree, *, value: float | None = None
    ) -> None:
        """Saves one checkpoint in the background; a step that is there already stays.

        Args:
            step: the number of optimizer steps done.
            model: a nested dict of arrays.
            optimizer: a nested dict of arrays.
            loop: what JSON can hold.
            value: the monitored metric, if it was produced at this very step.

        Raises:
            ValueError: an earlier save failed, or this one did; the message says why.
        """
        import orbax.checkpoint as ocp

        if step in self.steps:
            return
        ranking = {"monitor": self.monitor, "mode": self.mode, "value": value}
        loop = {**loop, "ranking": ranking}
        self._remember(step, loop)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.PyTreeSave(model),
                optimizer=ocp.args.PyTreeSave(optimizer),
                loop=ocp.args.JsonSave(loop),
            ),
        )

    def close(self) -> None:
        """Waits for the save under way, and closes. Without it the last save is lost."""
        try:
            self._manager.wait_until_finished()
        finally:
            self._manager.close()

    def _remember(self, step: int, loop: Tree) -> None:
        ranking = loop["ranking"]
        if ranking["monitor"] == self.monitor and ranking["value"] is not None:
            self.values[step] = ranking["value"]


def read_loop(path: str | Path) -> dict[str, Any]:
    """Returns the JSON item of a checkpoint: position, metrics, ranking, classes.

    Args:
        path: the folder of one checkpoint, `.../checkpoints/<step>`.

    Returns:
        The dict that was saved.
    """
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        return dict(checkpointer.restore(Path(path).expanduser().resolve() / "loop"))


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
    path = Path(path).expanduser().resolve()
    if (path / "loop").is_dir():
        return path
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    found = (child for child in folder.glob("*") if (child / "loop").is_dir())
    steps = {int(child.name): child for child in found if child.name.isdigit()}
    if not steps:
        raise ValueError(
            f"`path` (={str(path)!r}) holds no checkpoint; it must be a run folder, its "
            "`checkpoints` folder, or one checkpoint in it."
        )
    if which.isdigit() and int(which) in steps:
        return steps[int(which)]
    if which not in ("best", "last"):
        raise unknown("checkpoint", which, ["best", "last", *map(str, sorted(steps))])
    if which == "best":
        rankings = {step: read_loop(child)["ranking"] for step, child in steps.items()}
        values = {s: r["value"] for s, r in rankings.items() if r["value"] is not None}
        if values:
            mode = rankings[next(iter(values))]["mode"]
            return steps[kept_steps([*values], values, keep_latest=0, keep_best=1, mode=mode).pop()]
    return steps[max(steps)]


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
        ValueError: there is no checkpoint, or it is of another architecture; the message lists
            what differs (path, saved, in the model).

    Example:
        >>> import tempfile, jax
        >>> from flax import nnx
        >>> from nnx_alexnet.checkpoints import Checkpoints, load_checkpoint
        >>> trained = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        >>> checkpoints = Checkpoints(tempfile.mkdtemp())
        >>> weights, optimizer = nnx.to_pure_dict(nnx.state(trained)), {"count": trained.bias[0]}
        >>> checkpoints.save(5, weights, optimizer, {"epoch": 1})
        >>> checkpoints.close()
        >>> fresh = nnx.Linear(2, 3, rngs=nnx.Rngs(1))
        >>> load_checkpoint(checkpoints.directory, fresh)["epoch"]
        1
        >>> bool((fresh.kernel == trained.kernel).all())
        True
    """
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    folder = find_checkpoint(path, which)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, nnx.to_pure_dict(nnx.state(model)))
    with ocp.StandardCheckpointer() as checkpointer:
        saved = checkpointer.metadata(folder / "model").item_metadata.tree
        _check_same(folder, saved, abstract)
        restored = checkpointer.restore(folder / "model", abstract)
    nnx.update(model, restored)
    return read_loop(folder)


def _describe(tree: Any) -> dict[str, str]:
    """Maps the path of each leaf, slashes between, to its dtype and shape."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        # Orbax turns integer keys (of `nnx.List`) into strings.
        "/".join(str(getattr(key, "key", key)) for key in path): f"{leaf.dtype}{[*leaf.shape]}"
        for path, leaf in leaves
    }


def _check_same(folder: Path, saved: Any, abstract: Any) -> None:
    """Raises a `ValueError` that lists how a checkpoint differs from the model."""
    there, here = _describe(saved), _describe(abstract)
    differing = [path for path in sorted({*there, *here}) if there.get(path) != here.get(path)]
    if not differing:
        return
    rows = [
        f"  {path}: saved {there.get(path, 'nothing')}, in the model {here.get(path, 'nothing')}"
        for path in differing[:10]
    ]
    more = [f"  and {len(differing) - len(rows)} more"] if len(differing) > len(rows) else []
    raise ValueError(
        f"`model` is not of the architecture saved in {folder}. Build it with the arguments that "
        "it was trained with. What differs:\n" + "\n".join([*rows, *more])
    )
