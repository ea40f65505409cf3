"""Checks arguments, so that each rule has one wording: argument, value, rule, what would work."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any


def check_integer(
    argument: str,
    value: object,
    *,
    minimum: int = 1,
    maximum: int | None = None,
    also: tuple[str | bool | None, ...] = (),
    reason: str = "",
) -> None:
    """Raises a `ValueError` unless a value is an integer within bounds.

    NumPy integers and bools are refused; `as_python` converts the former.

    Args:
        argument: the argument's name, as the caller wrote it.
        value: the value that was passed.
        minimum: the smallest integer that works (default 1).
        maximum: the largest integer that works (default None: there is no limit).
        also: other values that work, such as None or "auto" (default none).
        reason: why, as the end of the sentence (default none).

    Example:
        >>> from nnx_alexnet.support.argument_checks import check_integer
        >>> check_integer("max_epochs", None, also=(None,))
        >>> check_integer("steps_per_execution", 0, also=("auto",))
        Traceback (most recent call last):
        ValueError: `steps_per_execution` (=0) must be a positive integer or 'auto'.
        >>> check_integer("num_workers", -1, minimum=0)
        Traceback (most recent call last):
        ValueError: `num_workers` (=-1) must be an integer of at least 0.
    """
    if any(type(value) is type(each) and value == each for each in also):
        return
    if type(value) is int and minimum <= value and (maximum is None or value <= maximum):
        return
    if maximum is not None:
        rule = f"an integer from {minimum} to {maximum}"
    else:
        rule = "a positive integer" if minimum == 1 else f"an integer of at least {minimum}"
    rule = " or ".join([rule, *map(repr, also)])
    ending = f": {reason}." if reason else "."
    raise ValueError(f"`{argument}` (={value!r}) must be {rule}{ending}")


def check_number(argument: str, value: Any, interval: str, *, reason: str = "") -> None:
    """Raises a `ValueError` unless a value is a finite number in an interval.

    Args:
        argument: the argument's name, as the caller wrote it.
        value: the value that was passed.
        interval: such as `"[0, 1)"`, with 0 and without 1, or `"(0, inf)"`.
        reason: what is common, or another remark, as the end of the sentence (default none).

    Example:
        >>> from nnx_alexnet.support.argument_checks import check_number
        >>> check_number("momentum", 0.9, "[0, 1)")
        >>> check_number("momentum", 1.0, "[0, 1)")
        Traceback (most recent call last):
        ValueError: `momentum` (=1.0) must be a number in [0, 1).
        >>> check_number("learning_rate", "high", "(0, inf)")
        Traceback (most recent call last):
        ValueError: `learning_rate` (='high') must be a number greater than 0.
    """
    number = math.nan
    if not isinstance(value, str | bytes | bool) and getattr(value, "shape", ()) == ():
        with suppress(TypeError, ValueError, OverflowError):
            number = float(value)
    low, high = map(float, interval[1:-1].split(","))
    is_above = number > low or (interval[0] == "[" and number == low)
    is_below = number < high or (interval[-1] == "]" and number == high)
    if is_above and is_below:  # False for NaN
        return
    rule = f"in {interval}"
    if high == math.inf:
        rule = f"{'of at least' if interval[0] == '[' else 'greater than'} {low:g}"
    ending = f"; {reason}." if reason else "."
    raise ValueError(f"`{argument}` (={value!r}) must be a number {rule}{ending}")


def check_bools(**arguments: object) -> None:
    """Raises a `TypeError` unless each value is True or False.

    Otherwise a text such as "false" would have the effect of True.

    Args:
        **arguments: the values that were passed, by the arguments' names.

    Example:
        >>> from nnx_alexnet.support.argument_checks import check_bools
        >>> check_bools(shuffle=True, restore_best="yes")
        Traceback (most recent call last):
        TypeError: `restore_best` (='yes') must be True or False.
    """
    import numpy as np  # here, because the help of the command does not need it

    for name, value in arguments.items():
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"`{name}` (={value!r}) must be True or False.")


def as_python(value: Any) -> Any:
    """Returns a number or bool of NumPy as one of Python, and any other value unchanged.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.support.argument_checks import as_python
        >>> as_python(np.int64(3)), as_python(np.float32(0.5)), as_python(None)
        (3, 0.5, None)
    """
    import numpy as np  # here, because the help of the command does not need it

    return value.item() if isinstance(value, np.number | np.bool_) else value


RESERVED_NAMES = ("step", "epoch")  # the keys of each record that are not metrics


def check_metric_name(name: object) -> None:
    """Checks the name of a metric that a callback publishes.

    Raises:
        TypeError: the name is not a str.
        ValueError: the name is empty, has characters that cannot be printed, or is reserved.

    Example:
        >>> from nnx_alexnet.support.argument_checks import check_metric_name
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
        name: the name of the metric, for the error.
        value: a number, or an array without axes.

    Raises:
        TypeError: the value is neither.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.support.argument_checks import as_number
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
        f"The metric {name!r} has {what} as its value; it must be a real number. Log the entries "
        "of an array under separate names, or their mean."
    )
