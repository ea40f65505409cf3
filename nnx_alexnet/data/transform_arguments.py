"""Checks and converts the arguments of an `ImageTransform`."""

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from nnx_alexnet.data.examples import RESERVED


def per_channel(name: str, value: Any) -> tuple[float, ...]:
    """Returns a number, or one per channel, as a tuple.

    Raises:
        TypeError: the value has another form, or is not finite.
    """
    try:
        is_text = isinstance(value, str | bytes)
        values = np.asarray("" if is_text else value, np.float64)
        is_usable = values.ndim <= 1 and values.size > 0 and bool(np.isfinite(values).all())
    except (TypeError, ValueError):
        is_usable = False
    if not is_usable:
        raise TypeError(
            f"`{name}` (={value!r}) must be a finite number, or a tuple of one per channel, such "
            "as (0.485, 0.456, 0.406)."
        )
    return tuple(values.reshape(-1).tolist())


def number(name: str, value: Any) -> float:
    """Returns a number as a float.

    Raises:
        TypeError: it is no number.
    """
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` (={value!r}) must be a number.") from None


def whole_number(name: str, value: Any) -> int:
    """Returns a whole number as an int.

    Raises:
        TypeError: it is no whole number.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"`{name}` (={value!r}) must be a whole number, the side of a square in pixels."
        ) from None


def fill_value(name: str, value: Any) -> float:
    """Returns a finite number; a whole one as an int.

    Raises:
        TypeError: it is no number.
        ValueError: it is not finite.
    """
    found = number(name, value)
    if not math.isfinite(found):
        raise ValueError(f"`{name}` (={value!r}) must be finite.")
    return int(found) if found.is_integer() else found


def key_names(name: str, value: Any) -> tuple[str, ...]:
    """Returns names of keys of a batch as a tuple.

    Raises:
        TypeError: they are not a tuple of strings.
        ValueError: one of them is the image itself, or a reserved key.
    """
    is_text = isinstance(value, str | bytes)
    names = tuple(value) if isinstance(value, Iterable) and not is_text else None
    if names is None or not all(isinstance(each, str) for each in names):
        raise TypeError(f"`{name}` (={value!r}) must be a tuple of keys, such as ('label',).")
    for each in names:
        if each == "image" or each in RESERVED:
            why = "is the image itself" if each == "image" else "is added to each batch"
            raise ValueError(
                f"`{name}` (={value!r}) must name keys of your own, but {each!r} {why}."
            )
    return names
