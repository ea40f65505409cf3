"""The one logger of the package; it prints to standard error unless the program configured it."""

from __future__ import annotations

import copy
import logging
import os
import sys
from typing import Any

from nnx_alexnet.support.number_formats import printable
from nnx_alexnet.support.standard_streams import write_message

logger = logging.getLogger("nnx_alexnet")


class MessageFormatter(logging.Formatter):
    r"""Formats a message so that names in it cannot break its line or control a terminal.

    Names of files, classes and callbacks are arguments of a message: newlines in them are escaped.
    Where the message is one argument alone, the caller wrote all of it, and its lines are kept.

    Example:
        >>> import logging
        >>> from nnx_alexnet.support.log import MessageFormatter
        >>> record = logging.LogRecord("x", logging.INFO, "", 0, "saved %s", ("a\nb\x1b[2J",), None)
        >>> print(MessageFormatter("%(message)s").format(record))
        saved a\nb\x1b[2J
    """

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record."""
        if isinstance(record.args, tuple) and record.msg != "%s":
            record = copy.copy(record)
            record.args = tuple(
                _Shown(each) if isinstance(each, str | os.PathLike | BaseException) else each
                for each in record.args or ()
            )
        return printable(super().format(record), keep="\n")


class _Shown:
    """An argument of a message as text on one line."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return printable(self._value)

    def __repr__(self) -> str:
        return printable(repr(self._value))


class StandardErrorHandler(logging.StreamHandler[Any]):
    """Writes each message to what is standard error at that moment; it never raises.

    Example:
        >>> import contextlib, logging, sys
        >>> from nnx_alexnet.support.log import StandardErrorHandler
        >>> record = logging.LogRecord("x", logging.INFO, "", 0, "step %d", (7,), None)
        >>> with contextlib.redirect_stderr(sys.stdout):
        ...     StandardErrorHandler().emit(record)
        step 7
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)  # that of `StreamHandler` would keep the present stream
        self.setFormatter(MessageFormatter("%(message)s"))

    @property
    def stream(self) -> Any:
        """Standard error at this moment, as of `logging.lastResort`."""
        return sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the message of a record."""
        try:
            text = self.format(record)
        except Exception:
            self.handleError(record)  # the arguments do not fit the message, which is a bug
        else:
            write_message(text)

    def flush(self) -> None:
        """Does nothing: each message has been flushed."""


if not logger.handlers and not logging.getLogger().handlers:
    logger.addHandler(StandardErrorHandler())
    logger.setLevel(logging.INFO)
    logger.propagate = False
