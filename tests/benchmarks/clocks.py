"""Clocks that a benchmark's callbacks read: between two steps, and between the ends of epochs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any


class Stopwatch:
    """Measures microseconds per step between two steps.

    Args:
        first: the step at whose end the clock starts.
        last: the step at whose end it stops.
    """

    def __init__(self, first: int, last: int) -> None:
        self.num = last - first
        self.marks = dict.fromkeys((first, last), math.nan)

    def finished(self, step: int, wait: Callable[[], Any]) -> None:
        """Records the time of one of the two steps, once `wait()` has waited for its results."""
        if step in self.marks:
            wait()
            self.marks[step] = time.perf_counter()

    def microseconds(self) -> float:
        start, end = self.marks.values()
        return (end - start) / self.num * 1e6


class Epochs:
    """Measures the seconds from the end of each epoch to the end of the next; skips the first."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    def ended(self) -> None:
        """Records the time; all results of the epoch must have been computed."""
        self._ends.append(time.perf_counter())

    def median(self) -> float:
        """Returns the median over all epochs but the first."""
        pairs = zip(self._ends, self._ends[1:], strict=False)
        return statistics.median(end - start for start, end in pairs)
