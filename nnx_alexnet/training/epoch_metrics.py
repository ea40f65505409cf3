"""The metrics of a train epoch on the host: its sums, and how fast it ran."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from clu.metrics import Collection

from nnx_alexnet.devices import usual_promotion
from nnx_alexnet.task import metric_name


def computed(metrics: Any) -> dict[str, float]:
    """Returns the values of a `clu.metrics.Collection`, fetched from the device.

    Example:
        >>> from clu.metrics import Average, Collection
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.training.epoch_metrics import computed
        >>> losses = Collection.create(loss=Average.from_output("loss"))
        >>> computed(losses.single_from_model_output(loss=jnp.array([1.0, 2.0])))
        {'loss': 1.5}
    """
    with usual_promotion():
        found = jax.device_get(metrics).compute()
    return {
        metric_name(name, key): float(each)
        for name, value in found.items()
        for key, each in (value.items() if isinstance(value, Mapping) else [("", value)])
    }


def has_values(metrics: Any, empty: Any) -> bool:
    """Returns whether a step has contributed to metrics.

    Args:
        metrics: a `clu.metrics.Collection` on the host.
        empty: the same collection before the first step, on the host.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.task.base import LossMetrics
        >>> from nnx_alexnet.training.epoch_metrics import has_values
        >>> empty = LossMetrics.empty()
        >>> has_values(empty.merge(empty), empty)
        False
        >>> has_values(LossMetrics.single_from_model_output(loss=jnp.zeros(2)), empty)
        True
    """
    # The counter of clu grows with each merge.
    metrics = metrics.replace(_reduction_counter=empty._reduction_counter)
    same = jax.tree.map(np.array_equal, metrics, empty)
    return not all(jax.tree.leaves(same))


class _Mark(NamedTuple):
    """The work done by the time at which a dispatch was found to have finished."""

    time: float
    num_examples: int
    num_steps: int
    waited: float


class EpochMeter:
    """Measures one epoch of training, and the time between its log points.

    The clock starts with the first dispatch of the epoch, or at the end of that dispatch if it had
    to be compiled. It therefore includes neither compilation nor the preceding validation.

    Args:
        total: the metrics of the epoch so far, on the host: the empty ones, or those of a
            checkpoint.

    Attributes:
        total: the metrics of all windows that were added.

    Example:
        >>> from nnx_alexnet.training.epoch_metrics import EpochMeter
        >>> from nnx_alexnet.task.base import LossMetrics
        >>> meter = EpochMeter(LossMetrics.empty())
        >>> meter.finished(64, 1)
        >>> meter.window_rates()  # one step alone has no duration
        {}
        >>> meter.finished(128, 2)
        >>> sorted(meter.window_rates())
        ['perf/data_wait', 'perf/images_per_second', 'perf/step_seconds']
    """

    names = ("perf/images_per_second", "perf/step_seconds", "perf/data_wait")

    def __init__(self, total: Collection) -> None:
        self.total = total
        self._waited = self._paused = 0.0
        self._first: _Mark | None = None
        self._last_window: _Mark | None = None
        self._last: _Mark | None = None

    def pause(self, seconds: float) -> None:
        """Excludes the time in which a step was compiled."""
        self._paused += seconds

    def wait(self, seconds: float) -> None:
        """Counts time in which the device was idle because no batch was ready."""
        self._waited += seconds

    def started(self, num_examples: int, step: int, *, at: float | None = None) -> None:
        """Records that a compiled step is dispatched next.

        Args:
            num_examples: the number of examples of the epoch so far.
            step: the number of the previous step.
            at: when it was dispatched, on the clock of `time.perf_counter` (default: now).
        """
        if self._first is None:
            self._first = self._mark(num_examples, step)
            if at is not None:
                self._first = self._first._replace(time=at)
            self._last_window = self._last = self._first

    def finished(self, num_examples: int, step: int) -> None:
        """Records that a step has finished, and with it all examples up to that step."""
        self._last = self._mark(num_examples, step)
        if self._first is None:
            self._first = self._last_window = self._last

    def _mark(self, num_examples: int, step: int) -> _Mark:
        return _Mark(time.perf_counter() - self._paused, num_examples, step, self._waited)

    def add(self, window: Any) -> None:
        """Adds the metrics of a window, on the host, to those of the epoch."""
        self.total = self.total.merge(window)

    def values(self) -> dict[str, float]:
        """Returns the metrics of everything that was added."""
        return computed(self.total)

    def window_rates(self) -> dict[str, float]:
        """Returns the `perf/` metrics since the last call; none if no step has finished since."""
        rates = _rates(self._last_window, self._last)
        self._last_window = self._last
        return rates

    def epoch_rates(self) -> dict[str, float]:
        """Returns the `perf/` metrics since the epoch's first dispatch."""
        return _rates(self._first, self._last)


def _rates(start: _Mark | None, end: _Mark | None) -> dict[str, float]:
    if start is None or end is None or end.num_steps == start.num_steps:
        return {}
    seconds = end.time - start.time
    return {
        "perf/images_per_second": (end.num_examples - start.num_examples) / seconds,
        "perf/step_seconds": seconds / (end.num_steps - start.num_steps),
        "perf/data_wait": min(1.0, (end.waited - start.waited) / seconds),
    }
