"""Builds and shortens the texts of errors."""

import difflib
import errno
from collections.abc import Iterable

# The errors of the machine or its network, rather than of one file.
_MACHINE = frozenset(
    getattr(errno, name)
    for name in (
        "EAGAIN", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "EIO", "EMFILE", "ENETDOWN",
        "ENETUNREACH", "ENFILE", "ENOBUFS", "ENOMEM", "ENOTCONN", "ESTALE", "ETIMEDOUT",
    )
    if hasattr(errno, name)
)  # fmt: skip


def unknown(argument: str, got: object, known: Iterable[str]) -> ValueError:
    """Returns a `ValueError` for a name that is not one of the known ones.

    Args:
        argument: the argument's name, as the caller wrote it.
        got: the value that was passed.
        known: the names that work.

    Returns:
        The error, which the caller raises. It suggests the nearest known name, if one is similar.

    Example:
        >>> from nnx_alexnet.support.error_messages import unknown
        >>> print(unknown("mode", "maxx", ["min", "max"]))
        `mode` (='maxx') is unknown; did you mean 'max'? Known: 'max', 'min'.
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(got), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return ValueError(
        f"`{argument}` (={got!r}) is unknown{hint} Known: {', '.join(map(repr, names))}."
    )


def shown(value: object) -> str:
    """Returns the `repr` of a value for an error, or its type if the `repr` is long.

    Example:
        >>> from nnx_alexnet.support.error_messages import shown
        >>> shown(0.1), shown([0] * 100)
        ('0.1', 'an object of type list')
    """
    text = repr(value)
    is_short = len(text) <= 80 and "\n" not in text
    return text if is_short else f"an object of type {type(value).__name__}"


def first_line(error: BaseException) -> str:
    r"""Returns the first line of an error's message; those of TensorStore are pages long.

    Example:
        >>> from nnx_alexnet.support.error_messages import first_line
        >>> first_line(ValueError("too long\nand so on")), first_line(KeyError())
        ('too long', 'KeyError')
    """
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def is_of_machine(error: BaseException) -> bool:
    """Returns whether an error is the machine's, so that the file itself may be intact.

    Example:
        >>> from nnx_alexnet.support.error_messages import is_of_machine
        >>> is_of_machine(OSError(24, "Too many open files")), is_of_machine(ValueError("damaged"))
        (True, False)
    """
    if isinstance(error, OSError):
        return error.errno in _MACHINE
    return isinstance(error, MemoryError)
