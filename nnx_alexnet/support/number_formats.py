"""Formats values for users."""

from __future__ import annotations

import unicodedata

# Joiners, which Persian and Hindi words and many emoji need; they do not affect other text.
_JOINERS = "\u200c\u200d"
# Control characters, invisible characters and those that change the direction of text, halves of
# surrogate pairs, and separators of lines and paragraphs.
_ESCAPED_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: object, *, keep: str = "") -> str:
    r"""Returns text on one line, with characters escaped that would control a terminal.

    Names of files, classes and runs may hold any character: a newline would begin another line, an
    escape sequence would clear the screen, a bidirectional control would show a different name.

    Args:
        text: a string, or an object whose `str` is shown.
        keep: characters that are not escaped (default none); `"\n"` keeps lines.

    Example:
        >>> from nnx_alexnet.support.number_formats import printable
        >>> print(printable("Übung 1.png"), printable("a\nb\x1b[2J"), printable("\u202egnp.exe"))
        Übung 1.png a\nb\x1b[2J \u202egnp.exe
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        each.encode("unicode_escape").decode()
        if unicodedata.category(each) in _ESCAPED_CATEGORIES and each not in keep + _JOINERS
        else each
        for each in text
    )


def format_count(number: int, noun: str) -> str:
    """Returns a number with a noun in the singular or plural.

    Example:
        >>> from nnx_alexnet.support.number_formats import format_count
        >>> format_count(1, "epoch"), format_count(2000, "step")
        ('1 epoch', '2,000 steps')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_bytes(num_bytes: int) -> str:
    """Returns a size in decimal units.

    Example:
        >>> from nnx_alexnet.support.number_formats import format_bytes
        >>> [format_bytes(number) for number in (999, 196_608, 251_904_000_000)]
        ['999 bytes', '196.6 KB', '251.9 GB']
    """
    for unit, scale in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes} bytes"


def format_duration(seconds: float | None) -> str:
    """Returns a duration in its two largest units.

    Example:
        >>> from nnx_alexnet.support.number_formats import format_duration
        >>> [format_duration(seconds) for seconds in (None, 45.2, 754, 4021, 180000)]
        ['-', '45s', '12m34s', '1h07m', '2d02h']
    """
    if seconds is None:
        return "-"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}h"
    if hours:
        return f"{hours}h{minute:02}m"
    return f"{minutes}m{second:02}s" if minutes else f"{second}s"


def format_value(value: float) -> str:
    """Returns the value of a metric with about four digits.

    Example:
        >>> from nnx_alexnet.support.number_formats import format_value
        >>> [format_value(value) for value in (0.97222, 0.0, 0.00012, 51111.5)]
        ['0.9722', '0.0000', '0.00012', '51,112']
    """
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.3g}"
    return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.3g}"
