"""The callbacks that a trainer adds to those of the user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nnx_alexnet.callbacks import (
    Callback,
    JSONLogger,
    ModelCheckpoint,
    Profiler,
    ProgressBar,
    RunSummary,
    TensorBoard,
)


def with_defaults(
    given: Sequence[Callback] | Callback | None,
    *,
    progress_bar: bool,
    profile: bool,
    writes: bool,
) -> list[Callback]:
    """Returns the given callbacks, and those default ones of which none was given.

    The given ones are first among callbacks of equal priority.

    Args:
        given: one callback, several, or None.
        progress_bar: whether to add a progress bar and a summary of the run.
        profile: whether to add a profiler.
        writes: whether the run has a folder, in which case TensorBoard, a log and checkpoints are
            added.

    Raises:
        TypeError: `given` is something else.
        ValueError: there are two callbacks that write checkpoints.
    """
    callbacks = _as_list(given)
    defaults: list[Callback] = [RunSummary(), ProgressBar()] if progress_bar else []
    if profile:
        defaults.append(Profiler())
    if writes:
        defaults += [TensorBoard(), JSONLogger(), ModelCheckpoint()]
    callbacks += [
        each for each in defaults if not any(isinstance(c, type(each)) for c in callbacks)
    ]
    if sum(isinstance(callback, ModelCheckpoint) for callback in callbacks) > 1:
        raise ValueError(
            "`callbacks` holds more than one ModelCheckpoint; a run has one folder of "
            "checkpoints. Let one keep the best (`save_top_k`) and the latest (`keep_latest`)."
        )
    return callbacks


def _as_list(callbacks: Sequence[Callback] | Callback | None) -> list[Callback]:
    """Returns the callbacks in a list, from any of the forms that users write."""
    if callbacks is None:
        return []
    if isinstance(callbacks, Callback):
        return [callbacks]
    if not isinstance(callbacks, Iterable) or isinstance(callbacks, str | bytes | Mapping):
        raise TypeError(
            f"`callbacks` (={callbacks!r}) must be a `Callback`, a list of them, or None."
        )
    return [*callbacks]
