"""Clocks that a benchmark's callbacks read: between two steps, and between the ends of epochs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any


class Stopwatch:
    """Microseconds per step between two steps.

    Args:
        first: the clock starts when this step has finished.
        last: and stops when this one has.
    """

    def __init__(self, first: int, last: int) -> None:
        self.num = last - first
        self.marks = dict.fromkeys((first, last), math.nan)

    def finished(self, step: int, wait: Callable[[], Any]) -> None:
        """Notes the time if it is one of the two; `wait()` waits for the step's results."""
        if step in self.marks:
            wait()
            self.marks[step] = time.perf_counter()

    def microseconds(self) -> float:
        start, end = self.marks.values()
        return (end - start) / self.num * 1e6


class Epochs:
    """The seconds from the end of each epoch to that of the next, so without the first one."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    def ended(self) -> None:
        """Notes the time; all results of the epoch must have been computed."""
        self._ends.append(time.perf_counter())

    def median(self) -> float:
        """Returns the median over all epochs but the first."""
        pairs = zip(self._ends, self._ends[1:], strict=False)
        return statistics.median(end - start for start, end in pairs)
