"""How values are shown to people."""

from __future__ import annotations


def format_count(number: int, noun: str) -> str:
    """Returns a number with what is counted.

    Example:
        >>> from nnx_alexnet.formats import format_count
        >>> format_count(1, "epoch"), format_count(2000, "step")
        ('1 epoch', '2,000 steps')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_duration(seconds: float | None) -> str:
    """Returns a duration in its two largest units.

    Example:
        >>> from nnx_alexnet.formats import format_duration
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
    """Returns a metric in about four digits.

    Example:
        >>> from nnx_alexnet.formats import format_value
        >>> [format_value(value) for value in (0.97222, 0.0, 0.00012, 51111.5)]
        ['0.9722', '0.0000', '0.00012', '51,112']
    """
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.3g}"
    return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.3g}"
