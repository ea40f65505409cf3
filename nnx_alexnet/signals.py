"""Ctrl-C and SIGTERM that let a run finish its step: the first one asks, the second one ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from nnx_alexnet.log import logger


class Received:
    """The signal that a block was asked to stop by; 0 for none.

    Whoever learns that another process got one sets it, and the block ends as if it were its own.
    """

    signal: int = 0


@contextmanager
def graceful_stop(on_stop: Callable[[int], None]) -> Iterator[Received]:
    """Calls `on_stop` at the first Ctrl-C or SIGTERM inside the block, and lets it go on.

    Both signals then have the effect again that they had outside the block: a second Ctrl-C
    raises `KeyboardInterrupt`, a second SIGTERM kills. Signals that the program ignores, and a
    SIGTERM that it handles itself, are left alone; so are all of them outside the main thread,
    where Python takes none.

    Args:
        on_stop: called with the signal from its handler, so it should only set a flag.

    Yields:
        What was received.

    Raises:
        SystemExit: at the end of a block that a SIGTERM came into, with status 143: whoever sent
            it wants the process gone. After Ctrl-C the program goes on.

    Example:
        >>> import signal
        >>> from nnx_alexnet.signals import graceful_stop
        >>> seen = []
        >>> with graceful_stop(seen.append):
        ...     signal.raise_signal(signal.SIGINT)
        >>> seen
        [2]
    """
    received = Received()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before: dict[signal.Signals, Any] = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if _is_free(number, handler := signal.getsignal(number))
    }

    def handle(number: int, _frame: FrameType | None) -> None:
        received.signal = number
        give_back()
        on_stop(number)
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        logger.info("Stopping after this step; another %s stops at once.", name)

    def give_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, handle)
    try:
        yield received
    finally:
        give_back()
    if received.signal == signal.SIGTERM:
        raise SystemExit(128 + received.signal)


def _is_free(number: signal.Signals, handler: Any) -> bool:
    """Whether nobody else wants this signal; None is a handler that was not set from Python."""
    if number == signal.SIGINT:
        return handler not in (signal.SIG_IGN, None)
    return bool(handler == signal.SIG_DFL)
