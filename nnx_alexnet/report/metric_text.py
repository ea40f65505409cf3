"""Formats the values of metrics for a report, with the digits that matter."""

from __future__ import annotations

import math

from nnx_alexnet.support import format_bytes, format_duration

_SHARES = ("accuracy", "precision", "recall", "f1", "calibration error", "confidence")
_AREAS = ("auc", "auroc", "average precision")
_PER_CLASS = ("precision", "recall", "f1")
_SHARES_OF_TIME = ("mfu", "data_wait", "share")


def metric_text(name: str, value: float) -> str:
    """Returns the value of a metric with its unit.

    Shares are in percent; the unit of others follows from the end of the name.

    Example:
        >>> from nnx_alexnet.report.metric_text import metric_text
        >>> metric_text("val/accuracy", 0.98611), metric_text("val/loss", 0.0512345)
        ('98.61%', '0.05123')
        >>> metric_text("perf/images_per_second", 1234.56), metric_text("perf/step_seconds", 0.2757)
        ('1,235', '276 ms')
    """
    if not math.isfinite(value):
        return "-"
    last = _last(name)
    if any(word in last for word in _AREAS):
        return f"{value:.4f}"
    if is_share(name) and 0 <= value <= 1:
        return f"{value:.2%}"
    return _with_unit(last, value)


def _with_unit(last: str, value: float) -> str:
    if last.endswith("bytes") and value >= 0:
        return format_bytes(int(value))
    if last.endswith("seconds") and value >= 60:
        return format_duration(value)
    if last.endswith("seconds"):
        return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"
    if "loss" in last and 1e-4 <= abs(value) < 1000:
        return f"{value:#.4g}"
    return number(value)


def is_share(name: str) -> bool:
    """Returns whether a metric is a share from 0 to 1, such as an accuracy.

    Example:
        >>> from nnx_alexnet.report.metric_text import is_share
        >>> is_share("val/accuracy"), is_share("val/loss"), is_share("val/f1/cat")
        (True, False, True)
    """
    last = _last(name)
    return any(word in last for word in _SHARES) or last.endswith(_SHARES_OF_TIME)


def has_unit(name: str) -> bool:
    """Returns whether a metric is a duration or a size, which `metric_text` shows with a unit.

    Example:
        >>> from nnx_alexnet.report.metric_text import has_unit
        >>> has_unit("perf/step_seconds"), has_unit("perf/images_per_second")
        (True, False)
    """
    return _last(name).endswith(("seconds", "bytes"))


def _last(name: str) -> str:
    """Returns the part of a name that tells what is measured; the name of a class may follow it."""
    parts = name.lower().split("/")
    if parts[-1] != "loss":
        parts = [part for part in parts if part in _PER_CLASS][:1] or parts
    return parts[-1].removesuffix("_step")


def number(value: float) -> str:
    """Returns a number with four significant digits.

    Example:
        >>> from nnx_alexnet.report.metric_text import number
        >>> [number(value) for value in (0.0, 3.0, 0.5679, 12345.6, 1.5e-7, 2e12)]
        ['0', '3', '0.5679', '12,346', '1.5e-07', '2e+12']
    """
    if not math.isfinite(value):
        return "-"
    if 1000 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def percent(value: float) -> str:
    """Returns a share in percent with one decimal; a dash if it is not defined.

    Example:
        >>> from nnx_alexnet.report.metric_text import percent
        >>> percent(0.98611), percent(float("nan"))
        ('98.6%', '-')
    """
    return f"{value:.1%}" if math.isfinite(value) else "-"
