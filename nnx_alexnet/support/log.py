"""The logger of the package, which prints its messages unless logging is configured.

They go to standard error. In a notebook, messages below the level of a warning go to standard
output, because notebooks show standard error in red.
"""

from __future__ import annotations

import copy
import logging
import os
import sys
from typing import Any

from nnx_alexnet.support.notebook import is_notebook
from nnx_alexnet.support.number_formats import printable
from nnx_alexnet.support.standard_streams import write_message

logger = logging.getLogger("nnx_alexnet")


class MessageFormatter(logging.Formatter):
    r"""Formats a message so that its arguments cannot break its line or control a terminal.

    Arguments are names of files, classes and callbacks, in which newlines are escaped. If the
    message is a single argument, the caller wrote all of it, and its lines are kept.

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
    """Shows an argument of a message on one line."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return printable(self._value)

    def __repr__(self) -> str:
        return printable(repr(self._value))


class StandardErrorHandler(logging.StreamHandler[Any]):
    """Writes each message to the current standard error; never raises.

    In a notebook, messages below the level of a warning go to standard output.

    Example:
        >>> import contextlib, logging, sys
        >>> from nnx_alexnet.support.log import StandardErrorHandler
        >>> record = logging.LogRecord("x", logging.INFO, "", 0, "step %d", (7,), None)
        >>> with contextlib.redirect_stderr(sys.stdout):
        ...     StandardErrorHandler().emit(record)
        step 7
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)  # `StreamHandler` would keep the current stream
        self.setFormatter(MessageFormatter("%(message)s"))

    @property
    def stream(self) -> Any:
        """The current standard error, as in `logging.lastResort`."""
        return sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the message of a record."""
        try:
            text = self.format(record)
        except Exception:
            self.handleError(record)  # a bug: the arguments do not fit the message
        else:
            is_output = record.levelno < logging.WARNING and is_notebook()
            write_message(text, sys.stdout if is_output else sys.stderr)

    def flush(self) -> None:
        """Does nothing, since each message is flushed."""


def is_configured(root: logging.Logger) -> bool:
    """Returns whether the program has configured logging.

    A call of `logging.basicConfig()` without arguments does not count: absl makes it as soon as it
    has a message, which happens when Orbax or Grain is imported. If it counted, it would hide the
    log lines of a run.

    Args:
        root: the root logger.

    Example:
        >>> import logging
        >>> from nnx_alexnet.support.log import is_configured
        >>> root = logging.RootLogger(logging.WARNING)
        >>> is_configured(root)
        False
        >>> root.addHandler(logging.StreamHandler())
        >>> is_configured(root)
        True
    """
    are_basic = all(
        type(handler) is logging.StreamHandler
        and getattr(handler.formatter, "_fmt", None) == logging.BASIC_FORMAT
        for handler in root.handlers
    )
    return bool(root.handlers) and not (are_basic and root.level == logging.WARNING)


if not logger.handlers and not is_configured(logging.getLogger()):
    logger.addHandler(StandardErrorHandler())
    logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
