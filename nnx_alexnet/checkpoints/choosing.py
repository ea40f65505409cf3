"""Chooses a checkpoint of a run: the best, the latest, or that of a step."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from nnx_alexnet.checkpoints.integrity import DamagedError, VanishedError
from nnx_alexnet.checkpoints.items import find_steps, is_checkpoint, read_loop
from nnx_alexnet.checkpoints.retention import Ranking
from nnx_alexnet.support import absolute_path, best_first, logger, parse_number, unknown

# Values of `which` that leave the step open.
OPEN_CHOICES = ("auto", "best", "last")
# A run that continues deletes old checkpoints while they are read.
MAX_ATTEMPTS = 20
_RULE = (
    "It must be the folder of a run, such as logs/alexnet/version_0, its `checkpoints` folder, or "
    "one checkpoint in it."
)


class Choice(NamedTuple):
    """A checkpoint of a run, and why it was chosen.

    Attributes:
        path: its folder, `.../checkpoints/<step>`.
        step: number of optimizer steps done.
        reason: such as "step 12, the best by val/loss (0.31)".
    """

    path: Path
    step: int
    reason: str


def choose_checkpoint(
    path: str | Path,
    which: str | int = "auto",
    *,
    excluded: Collection[Path] = (),
    argument: str = "path",
) -> Choice:
    """Chooses one checkpoint of a run.

    Args:
        path: a run folder, its `checkpoints` folder, or one checkpoint, which is then chosen.
        which: `"auto"` (the default): the best if a metric ranked the run's checkpoints, else
            the latest; `"best"`; `"last"`: the latest; or a step.
        excluded: checkpoints that are not chosen, because they are damaged.
        argument: the name of `path` in error messages.

    Returns:
        The choice. Damaged checkpoints are reported and never count as the best or the latest.

    Raises:
        ValueError: there is no checkpoint, or none of that step, or no metric ranked them.
        OSError: a checkpoint could not be read, though nothing shows that it is damaged.
    """
    given, which = absolute_path(path, argument), str(which)
    if not os.path.exists(given):  # noqa: PTH110  # never raises
        raise ValueError(f"`{argument}` (={str(path)!r}) does not exist. {_RULE}")
    if is_checkpoint(given):
        step = read_loop(given)["global_step"]
        if which not in (*OPEN_CHOICES, str(step)):
            raise ValueError(
                f"`which` (={which!r}) does not match the checkpoint {given}, which is of step "
                f"{step}. Leave `which` out, or pass the run folder as `{argument}`."
            )
        return Choice(given, step, f"step {step}, the given checkpoint")
    folder = checkpoints_folder(given)
    if which not in OPEN_CHOICES:
        steps = find_steps(folder)
        if parse_number(which) not in steps:
            raise unknown("which", which, [*OPEN_CHOICES, *map(str, steps)])
        return Choice(steps[int(which)], int(which), f"step {int(which)}, as requested")
    rankings = _read_rankings(folder, excluded, only_newest=which == "last")
    if not rankings:
        raise ValueError(f"`{argument}` (={str(path)!r}) holds no intact checkpoint. {_RULE}")
    step, why = _choose(rankings, which)
    return Choice(folder / str(step), step, f"step {step}, {why}")


def checkpoints_folder(run: Path) -> Path:
    """Returns the folder of checkpoints in a run folder; other folders as they are."""
    return run / "checkpoints" if (run / "checkpoints").is_dir() else run


def _read_rankings(
    folder: Path, excluded: Collection[Path], *, only_newest: bool
) -> dict[int, Ranking]:
    """Returns the rankings of the intact checkpoints by step, the newest first."""
    for attempts_left in reversed(range(MAX_ATTEMPTS)):
        rankings: dict[int, Ranking] = {}
        try:
            for step, each in sorted(find_steps(folder).items(), reverse=True):
                if each not in excluded and not (only_newest and rankings):
                    try:
                        rankings[step] = Ranking.of(read_loop(each))
                    except DamagedError as error:
                        logger.warning("%s It is not used.", error)
        except VanishedError:  # the run continues: list its checkpoints again
            if not attempts_left:
                raise
        else:
            break
    return rankings


def _choose(rankings: Mapping[int, Ranking], which: str) -> tuple[int, str]:
    """Returns a step and the reason; the newest checkpoint determines the metric."""
    monitor, mode, _ = next(iter(rankings.values()))
    latest, steps = max(rankings), ", ".join(map(str, sorted(rankings)))
    if which == "last":
        return latest, "the latest"
    if monitor is None:
        if which == "best":
            raise ValueError(
                "`which` (='best') needs checkpoints that are ranked by a metric, but this run "
                f'ranked none. "last" and the steps {steps} work. To get a best one, train with a '
                "`monitor` of ModelCheckpoint."
            )
        return latest, "the latest; no metric ranked this run's checkpoints"
    values = {
        step: ranking.value
        for step, ranking in rankings.items()
        if ranking.monitor == monitor and ranking.value is not None
    }
    for step in best_first(values, mode=mode):
        return step, f"the best by {monitor} ({values[step]:.4g})"
    if which == "best":
        raise ValueError(
            f"`which` (='best') needs a checkpoint with a finite {monitor}, but there is none. "
            f'"last" and the steps {steps} work.'
        )
    return latest, f"the latest; none has a finite {monitor}"
