"""`Timer`: ends training after a duration."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from nnx_alexnet.callbacks.base import BETWEEN_DISPATCHES, Callback
from nnx_alexnet.devices import is_main

if TYPE_CHECKING:
    from nnx_alexnet.data import Batch
    from nnx_alexnet.trainer import Trainer


class Timer(Callback):
    """Stops training once it has taken a given time.

    The time is checked after each dispatch, and includes validations and saves. The epoch then ends
    as after any other stop: with a validation and a checkpoint. The elapsed time is part of a
    checkpoint, so a resumed run continues to count. The time between a stop and the resume does not
    count. A run that the timer has stopped continues if it is resumed with a longer time. With
    several processes, the clock of the first one counts, and all stop at the same step.

    Args:
        max_time: seconds, a `datetime.timedelta`, text such as "01:30:00" (hours, minutes and
            seconds, or "1:12:00:00" with days first), or the arguments of `timedelta` as a dict:
            `{"hours": 1, "minutes": 30}`.

    Raises:
        ValueError: if `max_time` is none of these, or not greater than 0.

    Example:
        >>> from nnx_alexnet.callbacks import Timer
        >>> Timer("01:30:00").seconds
        5400.0
    """

    priority = 50  # after the callbacks that publish metrics

    def __init__(self, max_time: float | str | timedelta | Mapping[str, float]):
        self.max_time = max_time
        self.seconds = as_seconds(max_time)
        self._before = 0.0  # of earlier starts of the run
        self._since: float | None = None
        self._has_stopped = False  # this run, now or before a resume

    @property
    def batch_period(self) -> int | None:
        """After every dispatch, because the limit depends on the clock."""
        return BETWEEN_DISPATCHES

    @property
    def elapsed(self) -> float:
        """The seconds that the newest fit has trained so far, including its earlier starts."""
        return self._before + (0.0 if self._since is None else time.monotonic() - self._since)

    def state_dict(self) -> dict[str, Any]:
        """Returns the elapsed time, and whether it has stopped the run."""
        return {"elapsed": self.elapsed, "has_stopped": self._has_stopped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the elapsed time, and whether it has stopped the run."""
        self._before, self._has_stopped = state["elapsed"], state["has_stopped"]

    def on_fit_start(self, trainer: Trainer) -> None:
        """Forgets an earlier fit."""
        self._before, self._since, self._has_stopped = 0.0, None, False

    def on_train_start(self, trainer: Trainer) -> None:
        """Starts the clock; lets a run continue that had less time before."""
        if self._has_stopped and self._before < self.seconds:  # the same in all processes
            self._has_stopped = False
            trainer.stop(None)
        self._since = time.monotonic()
        self._check(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Stops the run if its time is over."""
        self._check(trainer)

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        """Stops the run if its time is over, before the next epoch begins."""
        self._check(trainer)

    def on_train_end(self, trainer: Trainer) -> None:
        """Stops the clock."""
        self._before, self._since = self.elapsed, None

    def _check(self, trainer: Trainer) -> None:
        # The clocks of processes differ.
        if is_main() and trainer.stop_reason is None and self.elapsed >= self.seconds:
            self._has_stopped = True
            trainer.stop(f"`max_time` (={self.max_time!r}) has elapsed")


def as_seconds(max_time: float | str | timedelta | Mapping[str, float]) -> float:
    """Returns a duration of any form that `Timer` accepts in seconds.

    Raises:
        ValueError: it has another form, or is not greater than 0.

    Example:
        >>> from nnx_alexnet.callbacks.timer import as_seconds
        >>> as_seconds("1:00:00:00"), as_seconds({"minutes": 2}), as_seconds(30)
        (86400.0, 120.0, 30.0)
    """
    seconds = math.nan
    if isinstance(max_time, str):
        found = re.fullmatch(r"(?:(\d+):)?(\d+):([0-5]?\d):([0-5]?\d)", max_time)
        if found is not None:
            days, hours, minutes, rest = (int(part or 0) for part in found.groups())
            seconds = ((24.0 * days + hours) * 60 + minutes) * 60 + rest
    elif isinstance(max_time, Mapping):
        try:
            seconds = timedelta(**max_time).total_seconds()
        except TypeError:
            raise ValueError(
                f"`max_time` (={max_time!r}) must have numbers by their units: days, hours, "
                'minutes, seconds, such as {"hours": 1, "minutes": 30}.'
            ) from None
    elif isinstance(max_time, timedelta):
        seconds = max_time.total_seconds()
    elif isinstance(max_time, int | float) and not isinstance(max_time, bool):
        seconds = float(max_time)
    if not 0 < seconds < math.inf:
        raise ValueError(
            f"`max_time` (={max_time!r}) must be a duration greater than 0: seconds, a timedelta, "
            'text such as "01:30:00", or a dict such as {"hours": 1, "minutes": 30}.'
        )
    return seconds
