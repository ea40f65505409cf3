"""Writes to standard streams that may be missing, closed, broken, or of a narrow encoding.

In a service, under `pythonw` and with `2>&-`, `sys.stderr` is None; a log collector that ended
leaves a broken pipe. None of these may end a run, so the functions that write messages never raise.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import shutil
import sys
from io import TextIOWrapper
from typing import Any

_ESCAPES = "nnx_alexnet.escapes"  # the name under which `escape_unencodable` registers its handler


def open_standard_descriptors() -> None:
    """Opens the null device on each closed descriptor of 0, 1 and 2.

    Otherwise the next file to be opened would get that number, and C++ libraries that write to
    standard error would write into a checkpoint.

    Example:
        >>> import os
        >>> from nnx_alexnet.support.standard_streams import open_standard_descriptors
        >>> open_standard_descriptors()
        >>> all(os.fstat(number) for number in range(3))
        True
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):  # there is no null device
                opened = os.open(os.devnull, os.O_RDWR)
                if opened != descriptor:
                    os.dup2(opened, descriptor)
                    os.close(opened)
                os.set_inheritable(descriptor, True)


def is_terminal(stream: Any) -> bool:
    """Returns whether a stream is a terminal; False for None and for a closed stream.

    Example:
        >>> from nnx_alexnet.support.standard_streams import is_terminal
        >>> is_terminal(None)
        False
    """
    try:
        return bool(stream.isatty())
    except Exception:  # a stream of the user's own may lack the method
        return False


def output_columns() -> int | None:
    """Returns how many columns a line of standard output may have.

    Returns:
        The width of the terminal, or `COLUMNS` if it is set; None for a file or a pipe.

    Example:
        >>> import os
        >>> from nnx_alexnet.support.standard_streams import output_columns
        >>> os.environ["COLUMNS"] = "100"
        >>> output_columns()
        100
        >>> del os.environ["COLUMNS"]
    """
    has_width = is_terminal(sys.stdout) or "COLUMNS" in os.environ
    return shutil.get_terminal_size().columns if has_width else None


def write_message(text: str, stream: Any = None) -> None:
    """Writes a line to a stream, if there is one; never raises.

    Args:
        text: the line.
        stream: the stream (default: the current standard error).

    Example:
        >>> import contextlib, sys
        >>> from nnx_alexnet.support.standard_streams import write_message
        >>> with contextlib.redirect_stderr(sys.stdout):
        ...     write_message("a line")
        a line
    """
    stream = sys.stderr if stream is None else stream
    if stream is None:  # `print` would use standard output
        return
    with contextlib.suppress(Exception):
        try:
            stream.write(f"{text}\n")
        except UnicodeEncodeError:
            stream.write(f"{text.encode('ascii', 'backslashreplace').decode()}\n")
        stream.flush()


def print_result(text: str) -> None:
    """Prints a line to standard output, if there is one.

    Raises:
        BrokenPipeError: the reader has closed the pipe.
        OSError: the line cannot be written, for instance because the disk is full.

    Example:
        >>> from nnx_alexnet.support.standard_streams import print_result
        >>> print_result("a line")
        a line
    """
    stream = sys.stdout
    if stream is None or getattr(stream, "closed", False):
        return
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(
            error.errno, f"Standard output cannot be written: {error.strerror}."
        ) from error


def escape_unencodable(stream: Any) -> None:
    r"""Makes a stream escape the characters that its encoding lacks.

    Bytes of a file name that are not text, which Python represents as lone surrogates, are written
    unchanged.

    Example:
        >>> import io
        >>> from nnx_alexnet.support.standard_streams import escape_unencodable
        >>> stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        >>> escape_unencodable(stream)
        >>> stream.write("caf\u00e9 \udcff")
        6
        >>> stream.flush()
        >>> stream.buffer.getvalue()
        b'caf\\xe9 \xff'
    """
    if isinstance(stream, TextIOWrapper) and not stream.closed:
        stream.reconfigure(errors=unencodable_handler())


def unencodable_handler() -> str:
    """Returns the `errors` argument of `open` that has the effect of `escape_unencodable`."""
    codecs.register_error(_ESCAPES, _escaped)
    return _ESCAPES


def _escaped(error: UnicodeError) -> tuple[bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    parts = [
        bytes([ord(each) - 0xDC00])
        if "\udc80" <= each <= "\udcff"
        else each.encode("ascii", "backslashreplace")
        for each in characters
    ]
    return b"".join(parts), error.end


def settle_streams() -> None:
    """Flushes the standard streams, and discards what cannot be written.

    Otherwise Python would report at exit that they could not be flushed, and change the exit code
    to 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # None, closed, or broken
            with contextlib.suppress(Exception):
                descriptor = stream.fileno()
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, descriptor)
                os.close(null)
