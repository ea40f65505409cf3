"""One thread that writes in the background, and rests as long as it worked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

T = TypeVar("T")


class BackgroundWriter(Generic[T]):
    """Writes values in one thread, one after the other.

    A value can be held until the thread has rested as long as its last write took, so that
    writing takes half of the time at most, however often there is something to write. Only one
    value is held, and a later one may replace it.

    All methods are for one thread, other than that which writes.

    Args:
        write: called with each value, in the thread.
        name: of the thread.

    Attributes:
        held: the value that is held, None if there is none.

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

    def __init__(self, write: Callable[[T], None], *, name: str) -> None:
        self._write = write
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._pending: list[Future[None]] = []
        self.held: T | None = None
        self._guard = threading.Lock()  # of `held`
        self._hurry = threading.Event()  # set while somebody waits, when the thread must not rest
        self._rests_until = 0.0  # by time.monotonic

    @property
    def has_rested(self) -> bool:
        """Whether nothing is written or held, and the last write is as long ago as it took."""
        is_busy = any(not each.done() for each in self._pending)
        return not is_busy and time.monotonic() >= self._rests_until

    @property
    def is_pending(self) -> bool:
        """Whether there is a write of which nobody has seen the end."""
        return bool(self._pending)

    def prepare(self, action: Callable[[], object]) -> None:
        """Runs something in the thread before it writes; what it raises is lost."""
        self._thread.submit(action)

    def start(self, value: T) -> None:
        """Writes a value as soon as what was given before is written."""
        self._pending.append(self._thread.submit(self._write_timed, value))

    def replace_held(self, value: T, *, replaces: Callable[[T], bool]) -> bool:
        """Holds a value instead of the one that is held until now.

        Args:
            value: the value.
            replaces: whether the one that is held need not be written any more.

        Returns:
            Whether that was done; not if none is held, or if it must be written.
        """
        with self._guard:
            if self.held is None or not replaces(self.held):
                return False
            self.held = value
            return True

    def hold(self, value: T) -> None:
        """Writes a value when the thread has rested; none must be held."""
        assert self.held is None
        self.held = value
        self._pending.append(self._thread.submit(self._write_held))

    def check(self) -> None:
        """Raises what a write raised, once it is done; does not wait."""
        while self._pending and self._pending[0].done():
            self._pending.pop(0).result()

    def wait(self) -> None:
        """Waits for all writes, and raises what one of them raised; the others go on."""
        self._hurry.set()
        try:
            while self._pending:
                wait([self._pending[0]])  # Ctrl-C may end this
                self._pending.pop(0).result()
        finally:
            self._hurry.clear()

    def close(self) -> list[Exception]:
        """Waits for all writes and ends the thread; returns what they raised."""
        failures = []
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
        assert value is not None
        self._write_timed(value)

    def _write_timed(self, value: T) -> None:
        began = time.monotonic()
        try:
            self._write(value)
        finally:
            now = time.monotonic()
            self._rests_until = now + (now - began)
