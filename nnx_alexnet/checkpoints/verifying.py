"""Compares the checkpoints of a run with their digests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnx_alexnet.checkpoints.choosing import MAX_ATTEMPTS, checkpoints_folder
from nnx_alexnet.checkpoints.integrity import DamagedError, UnreadableError, VanishedError
from nnx_alexnet.checkpoints.items import find_steps, is_checkpoint, read_checkpoint
from nnx_alexnet.support import absolute_path


def verify_checkpoints(path: str | Path) -> Iterator[dict[str, Any]]:
    """Reads every checkpoint of a run, and compares it with its digests.

    Args:
        path: a run folder, its `checkpoints` folder, or one checkpoint.

    Yields:
        `checkpoint` (its path), and either `step` and `digest` (of the training state), or
        `damage` (a description), or `error` (why it could not be read, though nothing shows that
        it is damaged). Checkpoints that are deleted meanwhile are omitted.

    Raises:
        ValueError: there is no checkpoint.
    """
    given = absolute_path(path, "run")
    if is_checkpoint(given):
        yield _verify(given)
        return
    folder = checkpoints_folder(given)
    num_verified = 0
    for _ in range(MAX_ATTEMPTS):
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
