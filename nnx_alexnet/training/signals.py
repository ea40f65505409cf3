"""Ends a run after the current step at Ctrl-C or SIGTERM, and at once at a second signal."""

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

_POLL_SECONDS = 0.05  # between checks for a second signal, while the first one is unhandled


class Received:
    """The signal that asked a block to stop; 0 for none.

    If another process received the signal, set it here: the block then ends as if this process had
    received it.
    """

    signal: int = 0


@contextmanager
def graceful_stop(
    on_stop: Callable[[int], None], received: Received | None = None
) -> Iterator[Received]:
    """Calls `on_stop` at the first Ctrl-C or SIGTERM in the block, which then continues.

    After that, both signals have their previous effect again: a second Ctrl-C raises
    `KeyboardInterrupt`, and a second SIGTERM kills the process. The second signal may also arrive
    before Python can handle the first, for instance while a program is compiled. If such a signal
    would end the process outside the block, it ends the process at once, with status 128 plus its
    number.

    Signals that the program ignores, and a SIGTERM that it handles itself, are not changed. Outside
    the main thread, where Python handles no signals, none is changed.

    Args:
        on_stop: called with the number of the signal, from its handler: it should only set a flag.
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
    before = _free_handlers()
    arrivals = _Arrivals(before)

    def handle(number: int, _frame: FrameType | None) -> None:
        received.signal = number
        num_arrived = arrivals.close()
        give_back()
        on_stop(number)
        if num_arrived > 1:  # Python calls this handler once for all signals that have arrived
            signal.raise_signal(number)
            return
        logger.info("Stopping after this step; another %s stops at once.", _name(number))

    def give_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def in_child() -> None:
        """Lets a forked data worker end at SIGTERM; the parent handles Ctrl-C."""
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


def _free_handlers() -> dict[signal.Signals, Any]:
    """Returns the present handlers of the signals that a run may handle."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    return {number: each for number, each in handlers.items() if _is_free(number, each)}


def _name(number: int) -> str:
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class _Arrivals:
    """Counts the signals that arrive before Python calls their handler.

    Python runs handlers in the main thread between two instructions, so no handler runs while that
    thread is in a library such as XLA's compiler. The interpreter writes the number of each signal
    to a file descriptor when it arrives.

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
        """Releases the file descriptor in a forked child; the parent process keeps it."""
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
        """Ends the process at the second signal if the main thread is busy."""
        with self._reader:
            while self._is_open:
                arrived = self._arrived()
                if len(arrived) > 1 and self._is_open and arrived[-1] in self._deadly:
                    os._exit(128 + arrived[-1])
                time.sleep(_POLL_SECONDS)


_in_child: Callable[[], None] | None = None  # run first in a process forked inside a block


def _after_fork() -> None:
    if _in_child is not None:
        _in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _is_free(number: signal.Signals, handler: Any) -> bool:
    """Returns whether no other code handles a signal; a handler of None was set outside Python."""
    if number == signal.SIGINT:
        return handler not in (signal.SIG_IGN, None)
    return bool(handler == signal.SIG_DFL)
