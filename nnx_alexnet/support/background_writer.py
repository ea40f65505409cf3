"""Writes in a background thread, which rests after each write."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

T = TypeVar("T")


class BackgroundWriter(Generic[T]):
    """Writes values in one thread, one after another.

    A value can be held until the thread has rested, so that writing takes a small share of the
    time. Only one value is held, and a later one may replace it.

    Only one thread, not the writing thread, may call the methods.

    Args:
        write: the function that the thread calls with each value.
        name: the name of the thread.
        share: the share of the time that writing takes at most if values are held (default 0.05):
            the thread rests 19 times as long as its last write took.

    Attributes:
        held: the value that is held, or None.

    Example:
        >>> from nnx_alexnet.support.background_writer import BackgroundWriter
        >>> written = []
        >>> writer = BackgroundWriter(written.append, name="writer")
        >>> writer.start("a")
        >>> writer.close()
        []
        >>> written
        ['a']
    """

    def __init__(self, write: Callable[[T], None], *, name: str, share: float = 0.05) -> None:
        self._write = write
        self._rest = (1 - share) / share  # relative to the write before it
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._pending: list[Future[None]] = []
        self.held: T | None = None
        self._guard = threading.Lock()  # for `held`
        self._taken = threading.Event()  # set when the thread begins to write a held value
        self._hurry = threading.Event()  # set while a caller waits: the thread must not rest
        self._is_closing = False
        self._rests_until = 0.0  # on the clock of time.monotonic

    @property
    def has_rested(self) -> bool:
        """Whether no value is pending and the rest after the last write is over."""
        is_busy = any(not each.done() for each in self._pending)
        return not is_busy and time.monotonic() >= self._rests_until

    @property
    def is_pending(self) -> bool:
        """Whether there is a write whose result has not been checked."""
        return bool(self._pending)

    def prepare(self, action: Callable[[], object]) -> None:
        """Runs a function in the thread before the next write; its errors are ignored."""
        self._thread.submit(action)

    def start(self, value: T) -> None:
        """Writes a value after all earlier values."""
        self._pending.append(self._thread.submit(self._write_timed, value))

    def replace_held(self, value: T, *, replaces: Callable[[T], bool]) -> bool:
        """Replaces the held value.

        Args:
            value: the new value.
            replaces: returns whether the held value need not be written any more.

        Returns:
            Whether the value was replaced. It is not if there is none or it must be written.
        """
        with self._guard:
            if self.held is None or not replaces(self.held):
                return False
            self.held = value
            return True

    def hold(self, value: T) -> None:
        """Writes a value when the thread has rested; no other value may be held."""
        assert self.held is None
        self.held = value
        self._taken.clear()
        self._pending.append(self._thread.submit(self._write_held))

    def release(self) -> None:
        """Begins to write the held value without a rest; waits only for writes that are running."""
        self._hurry.set()
        try:
            self._taken.wait()
        finally:
            self._hurry.clear()

    def check(self) -> None:
        """Raises the errors of finished writes, without waiting."""
        while self._pending and self._pending[0].done():
            self._pending.pop(0).result()

    def wait(self) -> None:
        """Waits for all writes, and raises the error of the first that failed; others continue."""
        self._hurry.set()
        try:
            while self._pending:
                wait([self._pending[0]])  # Ctrl-C may interrupt this
                self._pending.pop(0).result()
        finally:
            # If Ctrl-C interrupts `close`, the program must not end only after the rest.
            if not self._is_closing:
                self._hurry.clear()

    def close(self) -> list[Exception]:
        """Waits for all writes, ends the thread and returns the errors of the writes."""
        failures = []
        self._is_closing = True
        while self._pending:
            try:
                self.wait()
            except Exception as error:
                failures.append(error)
        self._thread.shutdown()
        return failures

    def _write_held(self) -> None:
        self._hurry.wait(max(0.0, self._rests_until - time.monotonic()))
        with self._guard:
            value, self.held = self.held, None
        self._taken.set()
        assert value is not None
        self._write_timed(value)

    def _write_timed(self, value: T) -> None:
        began = time.monotonic()
        try:
            self._write(value)
        finally:
            now = time.monotonic()
            self._rests_until = now + self._rest * (now - began)
