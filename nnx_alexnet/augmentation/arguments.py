"""Checks and converts the arguments of augmentations."""

from __future__ import annotations

import math
from typing import Any


def finite(name: str, value: Any) -> float:
    """Returns a finite number as a float.

    Raises:
        TypeError: the value is not a number.
        ValueError: the value is not finite.

    Example:
        >>> from nnx_alexnet.augmentation.arguments import finite
        >>> finite("alpha", 1)
        1.0
    """
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` (={value!r}) must be a number.") from None
    if not math.isfinite(number):
        raise ValueError(f"`{name}` (={value!r}) must be finite.")
    return number


def in_range(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """Returns a number from `low` to `high` as a float.

    Raises:
        TypeError: the value is not a number.
        ValueError: the value is outside the range.
    """
    number = finite(name, value)
    if not low <= number <= high:
        rule = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
        raise ValueError(f"`{name}` (={value!r}) must be {rule}.")
    return number


def positive(name: str, value: Any) -> float:
    """Returns a positive number as a float.

    Raises:
        TypeError: the value is not a number.
        ValueError: the value is not greater than 0.
    """
    number = finite(name, value)
    if number <= 0:
        raise ValueError(f"`{name}` (={value!r}) must be greater than 0.")
    return number


def interval(name: str, value: Any, *, largest: float = math.inf) -> tuple[float, float]:
    """Returns two positive numbers in ascending order as a tuple.

    Args:
        name: the name of the argument.
        value: the two numbers.
        largest: the largest number that works (default: there is no limit).

    Raises:
        TypeError: the value is not a pair of numbers.
        ValueError: the numbers are not positive, not in ascending order, or too large.

    Example:
        >>> from nnx_alexnet.augmentation.arguments import interval
        >>> interval("scale", [0.1, 1])
        (0.1, 1.0)
    """
    if isinstance(value, str | bytes) or not hasattr(value, "__len__") or len(value) != 2:
        raise TypeError(f"`{name}` (={value!r}) must be two numbers, such as (0.08, 1.0).")
    low, high = (finite(name, each) for each in value)
    if not 0 < low <= high <= largest:
        rule = "" if largest == math.inf else f" and at most {largest:g}"
        raise ValueError(f"`{name}` (={value!r}) must be positive, in ascending order{rule}.")
    return low, high
