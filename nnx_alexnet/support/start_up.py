"""Measures where the time between the start of a process and its first train step goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from nnx_alexnet.support.log import logger

_MAX_PARTS = 3  # so that a line has at most 80 columns


class StartTimes:
    """The parts of the time until the first step, in their order.

    Nothing is measured before `begin`, which the command calls.

    Example:
        >>> from nnx_alexnet.support.start_up import StartTimes
        >>> times = StartTimes()
        >>> times.end("data")  # not begun
        >>> times.begin(1.5)
        >>> times.end("data")
        >>> times.end("model")
        >>> list(times.parts), times.parts["imports"]
        (['imports', 'data', 'model'], 1.5)
    """

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._last = 0.0

    def begin(self, age: float | None = None) -> None:
        """Begins to measure.

        Args:
            age: how long ago the process started, in seconds (default: as Linux reports it; 0 on
                other systems).
        """
        self.parts = {"imports": _process_age() if age is None else age}
        self._last = time.perf_counter()

    def end(self, part: str) -> None:
        """Ends a part, which began where the previous one ended."""
        if self.parts:
            now = time.perf_counter()
            self.parts[part] = self.parts.get(part, 0.0) + now - self._last
            self._last = now

    def report(self) -> None:
        """Logs the longest parts on one line, the first time after `begin`."""
        if self.parts:
            total = sum(self.parts.values())
            least = sorted(self.parts.values(), reverse=True)[:_MAX_PARTS][-1]
            parts = [
                f"{name} {seconds:.1f}" for name, seconds in self.parts.items() if seconds >= least
            ]
            logger.info("start   %.1f s to step 1, mostly %s", total, ", ".join(parts))
            self.parts = {}


start_times = StartTimes()


def _process_age() -> float:
    """Returns how long ago this process started, in seconds."""
    try:
        # Field 22 of proc(5); the second one, the name in parentheses, may contain spaces.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (AttributeError, IndexError, OSError, ValueError):
        return 0.0
