"""Ctrl-C that lets a run finish its step: the first one asks, the second one raises."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from nnx_alexnet.log import logger


@contextmanager
def graceful_interrupt(on_interrupt: Callable[[], None]) -> Iterator[None]:
    """Calls `on_interrupt` at the first Ctrl-C inside the block, instead of raising.

    The second Ctrl-C raises `KeyboardInterrupt`, wherever the program is. Outside the main
    thread, where Python takes no signals, nothing changes.

    Args:
        on_interrupt: called from the signal handler, so it should only set a flag.

    Example:
        >>> import signal
        >>> from nnx_alexnet.signals import graceful_interrupt
        >>> seen = []
        >>> with graceful_interrupt(lambda: seen.append("asked to stop")):
        ...     signal.raise_signal(signal.SIGINT)
        >>> seen
        ['asked to stop']
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        on_interrupt()
        logger.info("Stopping after this step; press Ctrl-C again to stop at once.")

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
