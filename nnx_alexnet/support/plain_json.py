"""Checks that JSON can store a value without changing it."""

from __future__ import annotations

from typing import Any

_MAX_DEPTH = 50  # Python's JSON fails at some hundreds of nested values


def check_plain(value: Any, where: str) -> None:
    """Raises a `TypeError` for a value that JSON would change or cannot store.

    JSON preserves None, bool, int, float (also NaN and infinity), str, list, and dict with str
    keys. A tuple would become a list, an integer key a string, and a NumPy scalar or an
    enumeration would lose its type.

    Args:
        value: the value to save.
        where: its name in the error; the path inside `value` is added.

    Example:
        >>> from nnx_alexnet.support.plain_json import check_plain
        >>> check_plain({"losses": [0.5, float("nan")]}, "`state`")
        >>> check_plain({"counts": {7: 2}}, "`state`")
        Traceback (most recent call last):
        TypeError: `state`['counts'] has the key 7 (int): JSON keeps only string keys, so a ...
    """
    _check(value, where, 0)


def _check(value: Any, where: str, depth: int) -> None:
    kind = type(value)
    if depth > _MAX_DEPTH:
        raise TypeError(f"{where[:80]}... is nested too deeply, or contains itself.")
    if kind is list:
        for number, item in enumerate(value):
            _check(item, f"{where}[{number}]", depth + 1)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(
                    f"{where} has the key {key!r} ({type(key).__name__}): JSON keeps only string "
                    f"keys, so a resumed run would not find it. Use {str(key)!r}."
                )
            _check(item, f"{where}[{key!r}]", depth + 1)
    elif kind is int:
        if value.bit_length() > 10_000:  # Python refuses to write 4,300 digits
            raise TypeError(f"{where} is an integer of {value.bit_length():,} bits, too many.")
    elif value is not None and kind not in (bool, float, str):
        raise TypeError(
            f"{where} is {value!r:.100} ({kind.__module__}.{kind.__qualname__}), which JSON would "
            f"change or cannot store.{_advice(value)} JSON preserves None, bool, int, float, str, "
            "list, and dict with string keys."
        )


def _advice(value: Any) -> str:
    if hasattr(value, "tolist"):  # arrays and scalars of NumPy and JAX
        return " Use `.tolist()`."
    if isinstance(value, tuple):
        return " Use a list."
    if isinstance(value, set | frozenset):
        return " Use a sorted list."
    for kind in (bool, int, float, str, dict, list):
        if isinstance(value, kind):  # a subclass, an enumeration for instance
            return f" Use `{kind.__name__}(...)`."
    return ""
