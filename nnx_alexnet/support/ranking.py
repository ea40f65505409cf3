"""Which values of a metric are better; a value that is not finite is never the best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from nnx_alexnet.support.error_messages import unknown

Mode = Literal["min", "max"]


def check_mode(mode: str) -> None:
    """Raises `ValueError` unless `mode` is `"min"` or `"max"`.

    Example:
        >>> from nnx_alexnet.support.ranking import check_mode
        >>> check_mode("smallest")
        Traceback (most recent call last):
        ValueError: `mode` (='smallest') is unknown. Known: 'max', 'min'.
    """
    if mode not in ("min", "max"):
        raise unknown("mode", mode, ("min", "max"))


def is_better(value: float, best: float | None, *, mode: Mode, min_delta: float = 0.0) -> bool:
    """Returns whether a value improves on the best one so far.

    Args:
        value: the new value; one that is not finite never improves.
        best: the best value so far, None if there is none.
        mode: `"min"` if smaller is better, `"max"` if larger is.
        min_delta: the value must be better by more than this; 0 or more.

    Example:
        >>> from nnx_alexnet.support.ranking import is_better
        >>> is_better(0.92, 0.9, mode="max"), is_better(0.92, 0.9, mode="max", min_delta=0.05)
        (True, False)
    """
    if not math.isfinite(value):
        return False
    if best is None:
        return True
    return value < best - min_delta if mode == "min" else value > best + min_delta


def best_first(values: Mapping[int, float], *, mode: Mode) -> list[int]:
    """Returns the steps of the finite values, best value first; of equal values, the earlier step.

    Args:
        values: the value of the metric at each step.
        mode: `"min"` if smaller is better, `"max"` if larger is.

    Example:
        >>> from nnx_alexnet.support.ranking import best_first
        >>> best_first({10: 0.7, 20: 0.9, 30: float("nan"), 40: 0.9}, mode="max")
        [20, 40, 10]
    """
    steps = sorted(step for step, value in values.items() if math.isfinite(value))
    return sorted(steps, key=lambda step: -values[step] if mode == "max" else values[step])
