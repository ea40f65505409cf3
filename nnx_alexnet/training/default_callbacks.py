"""The default callbacks, which a trainer adds to those of the user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nnx_alexnet.callbacks import (
    Callback,
    EarlyStopping,
    JSONLogger,
    ModelCheckpoint,
    Profiler,
    ProgressBar,
    RunSummary,
    TensorBoard,
    WeightAveraging,
)
from nnx_alexnet.support import check_bools


def with_defaults(
    given: Sequence[Callback] | Callback | None,
    *,
    progress_bar: bool,
    writes: bool,
) -> list[Callback]:
    """Returns the given callbacks, and each default callback unless one of its type is given.

    Among callbacks of equal priority, the given ones come first.

    Args:
        given: one callback, several, or None.
        progress_bar: whether to add a progress bar and a summary of the run.
        writes: whether the run has a folder; if so, callbacks for TensorBoard, a metrics file and
            checkpoints are added.

    Raises:
        TypeError: `given` is something else, or `progress_bar` is not a bool.
        ValueError: there are two callbacks that write checkpoints.
    """
    callbacks = _as_list(given)
    check_bools(progress_bar=progress_bar)
    defaults: list[Callback] = [RunSummary(), ProgressBar()] if progress_bar else []
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


def without_outputs(given: Sequence[Callback] | Callback | None) -> list[Callback]:
    """Returns the callbacks without those that need a run folder or end a run early.

    Args:
        given: as for `with_defaults`.
    """
    left_out = (ModelCheckpoint, TensorBoard, JSONLogger, Profiler, EarlyStopping)
    return [each for each in _as_list(given) if not isinstance(each, left_out)]


def find_averaging(callbacks: Sequence[Callback]) -> WeightAveraging | None:
    """Returns the callback that declares an average of the weights; None if there is none.

    Raises:
        ValueError: there are several.

    Example:
        >>> from nnx_alexnet.callbacks import EMA, EarlyStopping
        >>> from nnx_alexnet.training.default_callbacks import find_averaging
        >>> find_averaging([EarlyStopping(), EMA(0.99)])
        EMA(decay=0.99)
    """
    found = [each for each in callbacks if isinstance(each, WeightAveraging)]
    if len(found) > 1:
        raise ValueError(
            f"`callbacks` holds {' and '.join(map(repr, found))}, but a run is evaluated with one "
            "average of the weights. Leave one of them out."
        )
    return found[0] if found else None


def _as_list(callbacks: Sequence[Callback] | Callback | None) -> list[Callback]:
    """Returns the callbacks as a list, from any form that the argument accepts."""
    if callbacks is None:
        return []
    if isinstance(callbacks, Callback):
        return [callbacks]
    if not isinstance(callbacks, Iterable) or isinstance(callbacks, str | bytes | Mapping):
        raise TypeError(
            f"`callbacks` (={callbacks!r}) must be a `Callback`, a list of them, or None."
        )
    return [*callbacks]
