"""Which values JSON gives back as they were."""

from __future__ import annotations

from typing import Any

_DEEPEST = 50  # nested values; JSON in Python ends at some hundreds


def check_plain(value: Any, where: str) -> None:
    """Raises a `TypeError` for a value that JSON would change, or cannot hold.

    None, bool, int, float (also NaN and infinity), str, list, and dict with keys that are str
    are what it gives back. A tuple becomes a list, a key that is an integer becomes a string, and
    a NumPy scalar or an enumeration loses its type.

    Args:
        value: what is to be saved.
        where: how the message names it; the path inside `value` is added.

    Example:
        >>> from nnx_alexnet.support.plain_json import check_plain
        >>> check_plain({"losses": [0.5, float("nan")]}, "`state`")
        >>> check_plain({"counts": {7: 2}}, "`state`")
        Traceback (most recent call last):
        TypeError: `state`['counts'] has the key 7 (int): JSON keeps only keys that are strings, ...
    """
    _check(value, where, 0)


def _check(value: Any, where: str, depth: int) -> None:
    kind = type(value)
    if depth > _DEEPEST:
        raise TypeError(f"{where[:80]}... is nested too deeply, or holds itself.")
    if kind is list:
        for number, item in enumerate(value):
            _check(item, f"{where}[{number}]", depth + 1)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(
                    f"{where} has the key {key!r} ({type(key).__name__}): JSON keeps only keys "
                    f"that are strings, so a resumed run would not find it. Use {str(key)!r}."
                )
            _check(item, f"{where}[{key!r}]", depth + 1)
    elif kind is int:
        if value.bit_length() > 10_000:  # Python refuses to write 4,300 digits
            raise TypeError(f"{where} is an integer of {value.bit_length():,} bits, too many.")
    elif value is not None and kind not in (bool, float, str):
        raise TypeError(
            f"{where} is {value!r:.100} ({kind.__module__}.{kind.__qualname__}), which JSON would "
            f"change or cannot hold.{_advice(value)} It holds None, bool, int, float, str, list, "
            "and dict with keys that are strings."
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
