"""The checkpoints of a run: which one is chosen, and how it is loaded or verified."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import nnx

from nnx_alexnet.checkpoints.integrity import DamagedError, UnreadableError, VanishedError
from nnx_alexnet.checkpoints.items import (
    find_steps,
    is_checkpoint,
    read_checkpoint,
    read_loop,
    read_promised,
)
from nnx_alexnet.checkpoints.same_run import differences
from nnx_alexnet.devices import describe_leaf, model_state, named_leaves, on_device
from nnx_alexnet.support import (
    absolute_path,
    best_first,
    logger,
    parse_number,
    shown,
    unknown,
)

_FREE = ("auto", "best", "last")  # which leave the step open
_TRIES = 20  # a run that goes on deletes old checkpoints while they are read


class Choice(NamedTuple):
    """A checkpoint of a run, and why it was chosen.

    Attributes:
        path: its folder, `.../checkpoints/<step>`.
        step: the optimizer steps done.
        reason: such as "step 12, the best by val/loss (0.31)".
    """

    path: Path
    step: int
    reason: str


def choose_checkpoint(
    path: str | Path, which: str | int = "auto", *, besides: Collection[Path] = ()
) -> Choice:
    """Chooses one checkpoint of a run.

    Args:
        path: a run folder, its `checkpoints` folder, or one checkpoint, which is then taken.
        which: `"auto"` (the default): the best if a metric ranked the run's checkpoints, else
            the latest; `"best"`; `"last"`: the latest; or a step.
        besides: checkpoints that are not taken, because they are damaged.

    Returns:
        The choice. Damaged checkpoints are reported, and none of them is the best or the latest.

    Raises:
        ValueError: nothing is there, or not that step, or no metric ranked them.
        OSError: a checkpoint could not be read, though nothing shows that it is damaged.
    """
    given, which = absolute_path(path, "path"), str(which)
    if is_checkpoint(given):
        step = read_loop(given)["global_step"]
        if which not in (*_FREE, str(step)):
            raise ValueError(
                f"`which` (={which!r}) does not match the checkpoint {given}, which is of step "
                f"{step}. Leave `which` out, or pass the run folder as `path`."
            )
        return Choice(given, step, f"step {step}, the given checkpoint")
    folder = _folder_of(given)
    if which not in _FREE:
        steps = find_steps(folder)
        if parse_number(which) not in steps:
            raise unknown("which", which, [*_FREE, *map(str, steps)])
        return Choice(steps[int(which)], int(which), f"step {int(which)}, as asked for")
    rankings = _read_rankings(folder, besides, is_one_enough=which == "last")
    if not rankings:
        raise ValueError(
            f"`path` (={str(path)!r}) holds no checkpoint that is whole; it must be a run folder, "
            "its `checkpoints` folder, or one checkpoint in it."
        )
    step, why = _choose(rankings, which)
    return Choice(folder / str(step), step, f"step {step}, {why}")


def _folder_of(run: Path) -> Path:
    return run / "checkpoints" if (run / "checkpoints").is_dir() else run


def _read_rankings(
    folder: Path, besides: Collection[Path], *, is_one_enough: bool
) -> dict[int, dict[str, Any]]:
    """Returns how each checkpoint that is whole was ranked, the newest first."""
    rankings: dict[int, dict[str, Any]] = {}
    for tries_left in reversed(range(_TRIES)):
        try:
            for step, each in sorted(find_steps(folder).items(), reverse=True):
                if each not in besides and not (is_one_enough and rankings):
                    try:
                        rankings[step] = read_loop(each)["ranking"]
                    except DamagedError as error:
                        logger.warning("%s It is not used.", error)
        except VanishedError:  # the run goes on: look again which there are
            if not tries_left:
                raise
            rankings = {}
        else:
            break
    return rankings


def _choose(rankings: Mapping[int, Mapping[str, Any]], which: str) -> tuple[int, str]:
    """Returns a step and why; the newest checkpoint tells by which metric they are ranked."""
    newest = next(iter(rankings.values()))
    monitor, mode = newest["monitor"], newest["mode"]
    latest = max(rankings)
    if which == "last":
        return latest, "the latest"
    if monitor is None:
        if which == "best":
            raise ValueError(
                "`which` (='best') needs checkpoints that are ranked by a metric, and this run "
                f'ranked none. "last" and the steps {", ".join(map(str, sorted(rankings)))} work. '
                "To get a best one, train with a `monitor` of ModelCheckpoint."
            )
        return latest, "the latest; no metric ranked this run's checkpoints"
    values = {
        step: ranking["value"]
        for step, ranking in rankings.items()
        if ranking["monitor"] == monitor and ranking["value"] is not None
    }
    for step in best_first(values, mode=mode):
        return step, f"the best by {monitor} ({values[step]:.4g})"
    if which == "best":
        raise ValueError(
            f"`which` (='best') needs a checkpoint with a finite {monitor}, and there is none. "
            f'"last" and the steps {", ".join(map(str, sorted(rankings)))} work.'
        )
    return latest, f"the latest; none has a finite {monitor}"


def find_checkpoint(path: str | Path, which: str | int = "auto") -> Path:
    """Returns the folder of one checkpoint of a run; see `choose_checkpoint`."""
    return choose_checkpoint(path, which).path


def load_checkpoint(
    path: str | Path, model: nnx.Module, *, which: str | int = "auto"
) -> dict[str, Any]:
    """Puts the parameters and statistics of a checkpoint into a freshly built model.

    Which step it was, and why, is logged.

    Args:
        path: a run folder (`logs/<name>/version_<n>`) or one checkpoint in it
            (`.../checkpoints/<step>`).
        model: a model of the same architecture; changed in place.
        which: of a run folder, `"auto"` (the default: the best if a metric ranked the run's
            checkpoints, else the latest), `"best"`, `"last"`, or a step. A damaged checkpoint is
            reported, and never the best or the latest.

    Returns:
        What was saved besides the weights: `global_step`, `epoch`, `metrics`, `class_names`, ...

    Raises:
        ValueError: there is no such checkpoint, it is damaged, or it is of another architecture;
            the message lists what differs (path, saved, now).
        TypeError: `model` is no module.
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
    besides: set[Path] = set()
    for tries_left in reversed(range(_TRIES)):
        choice = choose_checkpoint(path, which, besides=besides)
        is_free = str(which) in _FREE and choice.path != absolute_path(path, "path")
        try:
            loop = load_chosen(choice, model)
        except DamagedError as error:
            if not is_free:
                raise
            logger.warning("%s It is not used.", error)
            besides.add(choice.path)
        except VanishedError:  # the run goes on: look again which there are
            if not (is_free and tries_left):
                raise
        else:
            break
    return loop


def load_chosen(choice: Choice, model: nnx.Module) -> dict[str, Any]:
    """Does what `load_checkpoint` does with a checkpoint that was chosen before."""
    folder = choice.path
    leaves = named_leaves(model)
    here = {name: describe_leaf(leaf) for name, leaf in leaves.items()}
    there = {
        name: f"{about['dtype']}{about['shape']}"
        for name, about in read_promised(folder, "model").items()
    }
    if lines := differences(there, here):
        raise ValueError(
            f"`model` is not of the architecture saved in {folder}. Build it with the arguments "
            "that it was trained with. What differs:\n  " + "\n  ".join(lines)
        )
    saved = read_checkpoint(folder, items=("model",))
    arrays = saved.item("model")
    with jax.transfer_guard("allow"):
        restored = {name: on_device(arrays[name], leaf) for name, leaf in leaves.items()}
    state = model_state(model)
    structure = jax.tree.structure(state)
    nnx.update(model, jax.tree.unflatten(structure, restored.values()))
    logger.info("Loaded %s: %s.", folder, choice.reason)
    return saved.loop


def verify_checkpoints(path: str | Path) -> Iterator[dict[str, Any]]:
    """Reads every checkpoint of a run, and compares it with its digests.

    Args:
        path: a run folder, its `checkpoints` folder, or one checkpoint.

    Yields:
        `checkpoint` (its path), and either `step` and `digest` (of the training state), or
        `damage` (what is wrong with it), or `error` (why it could not be read, though nothing
        shows that it is damaged). What is deleted meanwhile is left out.

    Raises:
        ValueError: there is no checkpoint.
    """
    given = absolute_path(path, "run")
    if is_checkpoint(given):
        yield _verify(given)
        return
    folder = _folder_of(given)
    num_verified = 0
    for _ in range(_TRIES):
        steps = find_steps(folder)
        if not steps:
            raise ValueError(
                f"`run` (={str(path)!r}) holds no checkpoint; it must be a run folder, its "
                "`checkpoints` folder, or one checkpoint in it."
            )
        for each in steps.values():
            try:
                yield _verify(each)
                num_verified += 1
            except VanishedError:
                continue
        if num_verified:
            return


def _verify(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"checkpoint": str(folder)}
    try:
        saved = read_checkpoint(folder)
    except DamagedError as error:
        return row | {"damage": error.what}
    except UnreadableError as error:
        return row | {"error": error.what}
    return row | {"step": saved.step, "digest": saved.digest}
