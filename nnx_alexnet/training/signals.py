"""Lets Ctrl-C and SIGTERM end a run after its step; a second signal ends it at once."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from nnx_alexnet.support import logger

_POLL_SECONDS = 0.05  # between checks for a second signal, until the first one is handled


class Received:
    """The signal that asked a block to stop; 0 for none.

    If another process received it, set it here, and the block ends as if the signal were its own.
    """

    signal: int = 0


@contextmanager
def graceful_stop(
    on_stop: Callable[[int], None], received: Received | None = None
) -> Iterator[Received]:
    """Calls `on_stop` at the first Ctrl-C or SIGTERM inside the block, which then continues.

    After that, both signals have their previous effect again: a second Ctrl-C raises
    `KeyboardInterrupt`, and a second SIGTERM kills the process. This also holds if the second one
    arrives before Python can handle the first, for instance while a program is compiled: a signal
    that ends the process outside the block then ends it at once, with status 128 plus its number.

    Signals that the program ignores, and a SIGTERM that it handles itself, are left alone. Outside
    the main thread, where Python handles no signals, all of them are.

    Args:
        on_stop: called with the signal from its handler, so it should only set a flag.
        received: records the signal (default: a new object).

    Yields:
        The record.

    Raises:
        SystemExit: at the end of a block in which a SIGTERM arrived, with status 143, because its
            sender wants the process to end. After Ctrl-C the program continues.

    Example:
        >>> import signal
        >>> from nnx_alexnet.training.signals import graceful_stop
        >>> seen = []
        >>> with graceful_stop(seen.append):
        ...     signal.raise_signal(signal.SIGINT)
        >>> seen
        [2]
    """
    received = Received() if received is None else received
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before: dict[signal.Signals, Any] = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if _is_free(number, handler := signal.getsignal(number))
    }
    arrivals = _Arrivals(before)

    def handle(number: int, _frame: FrameType | None) -> None:
        received.signal = number
        num_arrived = arrivals.close()
        give_back()
        on_stop(number)
        if num_arrived > 1:  # Python calls its handler once for all that arrived meanwhile
            signal.raise_signal(number)
            return
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        logger.info("Stopping after this step; another %s stops at once.", name)

    def give_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def in_child() -> None:
        """Lets a forked data worker end on SIGTERM, and leaves Ctrl-C to the parent."""
        arrivals.forget()
        give_back()
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    global _in_child  # noqa: PLW0603  # signals belong to the process
    outer, _in_child = _in_child, in_child  # a hook of a run may start another run
    for number in before:
        signal.signal(number, handle)
    try:
        yield received
    finally:
        arrivals.close()
        give_back()
        _in_child = outer
    if received.signal == signal.SIGTERM:
        raise SystemExit(128 + received.signal)


class _Arrivals:
    """Counts the signals that arrive before Python calls their handler.

    Python runs handlers in the main thread between two instructions, so none runs while that
    thread is inside a library such as XLA's compiler. The interpreter writes the number of each
    signal to a file descriptor as it arrives.

    Args:
        before: the signals to count, each with its previous handler.
    """

    def __init__(self, before: Mapping[signal.Signals, Any]) -> None:
        self._numbers = frozenset(before)
        self._deadly = {number for number, handler in before.items() if handler == signal.SIG_DFL}
        self._is_open = False
        others = signal.set_wakeup_fd(-1)
        if others != -1:  # an event loop uses the file descriptor
            signal.set_wakeup_fd(others)
            return
        if not hasattr(socket, "MSG_DONTWAIT"):  # on Windows
            return
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._is_open = True
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def close(self) -> int:
        """Stops counting; the first call returns how many signals have arrived."""
        if not self._is_open:
            return 0
        signal.set_wakeup_fd(-1)
        arrived = self._arrived(socket.MSG_DONTWAIT)
        self._is_open = False  # not earlier: the thread then closes the reader
        self._writer.close()  # this wakes the thread
        return len(arrived)

    def forget(self) -> None:
        """Leaves the file descriptor to the parent process, in a forked child."""
        if self._is_open:
            self._is_open = False
            signal.set_wakeup_fd(-1)
            self._reader.close()
            self._writer.close()

    def _arrived(self, flags: int = 0) -> list[int]:
        """Returns the signals that arrived; without flags, waits for the first or for `close`."""
        try:
            return [
                n for n in self._reader.recv(4096, socket.MSG_PEEK | flags) if n in self._numbers
            ]
        except BlockingIOError:
            return []

    def _watch(self) -> None:
        """Ends the process at the second signal if the main thread cannot."""
        with self._reader:
            while self._is_open:
                arrived = self._arrived()
                if len(arrived) > 1 and self._is_open and arrived[-1] in self._deadly:
                    os._exit(128 + arrived[-1])
                time.sleep(_POLL_SECONDS)


_in_child: Callable[[], None] | None = None  # what a forked child runs first, inside a block


def _after_fork() -> None:
    if _in_child is not None:
        _in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _is_free(number: signal.Signals, handler: Any) -> bool:
    """Returns whether nobody handles this signal; the handler None was not set from Python."""
    if number == signal.SIGINT:
        return handler not in (signal.SIG_IGN, None)
    return bool(handler == signal.SIG_DFL)
