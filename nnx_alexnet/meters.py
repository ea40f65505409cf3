"""Metrics of a train epoch on the host: of the whole epoch, and images a second."""

from __future__ import annotations

import time
from typing import Any

import jax


def computed(metrics: Any) -> dict[str, float]:
    """Returns the values of a `clu.metrics.Collection`, fetched from the device.

    Example:
        >>> from clu.metrics import Average, Collection
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.meters import computed
        >>> losses = Collection.create(loss=Average.from_output("loss"))
        >>> computed(losses.single_from_model_output(loss=jnp.array([1.0, 2.0])))
        {'loss': 1.5}
    """
    return {name: float(value) for name, value in jax.device_get(metrics).compute().items()}


class EpochMeter:
    """What is measured over one epoch of training, and between its log points.

    The clock starts when the first step of the epoch has finished, so neither compilation nor
    the validation before it counts.

    Args:
        total: the metrics of the epoch so far, on the host: the empty ones, or those that a
            checkpoint holds.

    Attributes:
        num_examples: the examples dispatched so far; whoever dispatches counts them.
        total: the metrics of all windows that were added.

    Example:
        >>> from nnx_alexnet.meters import EpochMeter
        >>> from nnx_alexnet.task import LossMetrics
        >>> meter = EpochMeter(LossMetrics.empty())
        >>> meter.finished(64)
        >>> meter.window_rate() is None  # one step alone has no duration
        True
    """

    def __init__(self, total: Any) -> None:
        self.num_examples = 0
        self.total = total
        self._first: tuple[float, int] | None = None
        self._mark: tuple[float, int] | None = None
        self._last: tuple[float, int] | None = None

    def finished(self, num_examples: int) -> None:
        """Notes that the step that brought the examples to `num_examples` has finished."""
        self._last = (time.perf_counter(), num_examples)
        if self._first is None:
            self._first = self._mark = self._last

    def add(self, window: Any) -> None:
        """Adds the metrics of a window, on the host, to those of the epoch."""
        self.total = self.total.merge(window)

    def values(self) -> dict[str, float]:
        """Returns the metrics over all that was added."""
        return computed(self.total)

    def window_rate(self) -> float | None:
        """Returns the examples a second since the last call, None where nothing passed."""
        rate = _rate(self._mark, self._last)
        self._mark = self._last
        return rate

    def epoch_rate(self) -> float | None:
        """Returns the examples a second since the epoch's first step."""
        return _rate(self._first, self._last)


def _rate(start: tuple[float, int] | None, end: tuple[float, int] | None) -> float | None:
    if start is None or end is None or end[1] == start[1]:
        return None
    return (end[1] - start[1]) / (end[0] - start[0])
