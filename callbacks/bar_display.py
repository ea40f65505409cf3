"""Draws a progress bar on the last line of a terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

from nnx_alexnet.support import is_terminal, logger


class BarDisplay:
    """A bar of tqdm that is redrawn on one line, below the log.

    tqdm measures the time and formats the text; this class draws it. Without a terminal, nothing is
    drawn and `is_open` stays False.

    Example:
        >>> from nnx_alexnet.callbacks.bar_display import BarDisplay
        >>> display = BarDisplay()
        >>> display.is_open
        False
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._cleanup = contextlib.ExitStack()

    @property
    def is_open(self) -> bool:
        """Whether there is a bar."""
        return self._bar is not None

    @property
    def columns(self) -> int:
        """The number of columns that a line may have now."""
        return _terminal_columns()

    def open(self, step: int, total: int | None, bar_format: Callable[[int], str]) -> None:
        """Shows the bar, if there is a terminal.

        Args:
            step: the step at which it starts.
            total: the step at which it will be full, None if that is not known.
            bar_format: returns tqdm's `bar_format` for a number of columns.
        """
        if not _is_terminal():
            return
        for log in (logger, logging.getLogger()):
            self._cleanup.callback(_set_handlers, log, log.handlers)
            log.handlers = [_above_bar(each) for each in log.handlers]
        from tqdm.std import tqdm

        bar = type("_Bar", (tqdm,), {"status_printer": staticmethod(_TerminalLine)})
        self._bar = self._cleanup.enter_context(
            bar(
                total=total,
                initial=step,
                bar_format=bar_format(self.columns),
                ncols=self.columns,
                leave=False,
                mininterval=0,
                miniters=1,
                file=sys.stderr,
            )
        )
        self._bar._time = time.monotonic  # the system time, which tqdm uses, may be set back
        self.restart_clock()

    def restart_clock(self) -> None:
        """Excludes the time until now, such as that of compilation, from the remaining time."""
        if self._bar is not None:
            self._bar.start_t = self._bar.last_print_t = time.monotonic()

    def draw(self, step: int, total: int | None, bar_format: Callable[[int], str]) -> None:
        """Draws the bar again, if there is one; the arguments are those of `open`."""
        if self._bar is None:
            return
        self._bar.total = total
        self._bar.ncols = self.columns
        self._bar.bar_format = bar_format(self.columns)
        if not self._bar.update(step - self._bar.n):
            self._bar.refresh()  # the same step, but other metrics

    def close(self) -> None:
        """Removes the bar, and restores the log."""
        self._bar = None
        with contextlib.suppress(Exception):  # tqdm writes to a terminal that may be gone
            self._cleanup.close()


def _set_handlers(log: logging.Logger, handlers: list[logging.Handler]) -> None:
    log.handlers = handlers


def _above_bar(handler: logging.Handler) -> logging.Handler:
    """Returns a handler that prints above the bar, in place of one that prints to the terminal."""
    streams = sys.stdout, sys.stderr
    if isinstance(handler, logging.StreamHandler) and any(handler.stream is s for s in streams):
        return _AboveBar(handler)
    return handler


class _AboveBar(logging.Handler):
    """Prints the records of a handler above the bar instead of into it."""

    def __init__(self, replaced: logging.StreamHandler[Any]):
        super().__init__(replaced.level)
        self.setFormatter(replaced.formatter)
        self.filters = [*replaced.filters]
        self._stream = replaced.stream

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm.std import tqdm

        with contextlib.suppress(Exception):  # the terminal is gone
            tqdm.write(self.format(record), file=self._stream)


class _TerminalLine:
    """Draws a text on the last line of a terminal, over the one before.

    The cursor stays at the beginning of the line. A terminal that gets narrower breaks the line in
    two and leaves the cursor there, so the next text clears both parts; and text that the terminal
    itself shows, such as `^C`, does not make the line too long.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def __call__(self, text: str) -> None:
        with contextlib.suppress(Exception):  # the terminal is gone, or was closed
            self._stream.write(f"\r{text[: _terminal_columns()]}\x1b[J\r")
            self._stream.flush()


def _is_terminal() -> bool:
    return is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"


def _terminal_columns() -> int:
    """Returns the length of a line: one column is left free, because some terminals wrap there."""
    try:
        # The size of the terminal that shows the bar; standard output may be redirected.
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (AttributeError, OSError, ValueError):
        columns = shutil.get_terminal_size().columns
    return max(1, columns - 1)
