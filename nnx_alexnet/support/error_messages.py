"""Error texts shared by every module: what was got, the rule, and what would work."""

import difflib
import errno
from collections.abc import Iterable
from typing import Any

import numpy as np

# Of the whole machine or its network, and not of one file.
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
        known: the names that would work.

    Returns:
        The error, to be raised by the caller. It names the nearest known name, if one is near.

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


def check_positive(**arguments: object) -> None:
    """Raises a `ValueError` for an argument that is neither a positive integer nor None.

    Example:
        >>> from nnx_alexnet.support.error_messages import check_positive
        >>> check_positive(max_epochs=3, max_steps=None)
        >>> check_positive(max_epochs=0)
        Traceback (most recent call last):
        ValueError: `max_epochs` (=0) must be a positive integer.
    """
    for argument, value in arguments.items():
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"`{argument}` (={value!r}) must be a positive integer.")


def shown(value: object) -> str:
    """Returns a value as an error shows it: its `repr`, or its type where that is long.

    Example:
        >>> from nnx_alexnet.support.error_messages import shown
        >>> shown(0.1), shown([0] * 100)
        ('0.1', 'an object of type list')
    """
    text = repr(value)
    is_short = len(text) <= 80 and "\n" not in text
    return text if is_short else f"an object of type {type(value).__name__}"


def first_line(error: BaseException) -> str:
    r"""Returns the beginning of an error's text: those of TensorStore are pages long.

    Example:
        >>> from nnx_alexnet.support.error_messages import first_line
        >>> first_line(ValueError("too long\nand so on")), first_line(KeyError())
        ('too long', 'KeyError')
    """
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def as_python(value: Any) -> Any:
    """Returns a NumPy integer as an `int`, and anything else as it is.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.support.error_messages import as_python
        >>> as_python(np.int64(3)), as_python(None)
        (3, None)
    """
    return int(value) if isinstance(value, np.integer) else value


RESERVED_NAMES = ("step", "epoch")  # keys of each record, besides its metrics


def check_metric_name(name: object) -> None:
    """Raises unless `name` can be the name of a metric that a callback publishes.

    Raises:
        TypeError: it is not text.
        ValueError: it is empty, has characters that cannot be printed, or is a key of each record.

    Example:
        >>> from nnx_alexnet.support.error_messages import check_metric_name
        >>> check_metric_name("my/score")
        >>> check_metric_name("step")
        Traceback (most recent call last):
        ValueError: A metric cannot have the name 'step': `step` and `epoch` are part of ...
    """
    if not isinstance(name, str):
        raise TypeError(f"A metric cannot have the name {name!r}; a name must be a str.")
    if name in RESERVED_NAMES:
        raise ValueError(
            f"A metric cannot have the name {name!r}: `step` and `epoch` are part of every record "
            "already. Use another name, such as 'my/step'."
        )
    if not name.strip() or not name.isprintable():
        raise ValueError(
            f"A metric cannot have the name {name!r}; a name must consist of printable characters."
        )


def as_number(name: str, value: Any) -> float:
    """Returns the value of a metric as a float.

    Args:
        name: of the metric, for the error.
        value: a number, or an array of no axes.

    Raises:
        TypeError: it is neither.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.support.error_messages import as_number
        >>> as_number("my/score", np.float32(0.5))
        0.5
    """
    shape = getattr(value, "shape", ())
    if shape == () and not isinstance(value, str | bytes):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    what = f"an array of shape {tuple(shape)}" if shape else repr(value)
    raise TypeError(
        f"The metric {name!r} has {what} as its value; it must be a real number. Log each entry of "
        "an array under a name of its own, or its mean."
    )


def is_of_machine(error: BaseException) -> bool:
    """Returns whether an error is the machine's, so that it tells nothing about the file read.

    Example:
        >>> from nnx_alexnet.support.error_messages import is_of_machine
        >>> is_of_machine(OSError(24, "Too many open files")), is_of_machine(ValueError("damaged"))
        (True, False)
    """
    if isinstance(error, OSError):
        return error.errno in _MACHINE
    return isinstance(error, MemoryError)
