"""`SplitRows`: the outputs of all examples of an evaluation, for the metrics that need them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nnx_alexnet.task import SplitMetric


class SplitRows:
    """Collects rows on the host, and computes the metrics of the whole split.

    Args:
        metrics: by name.
        whole: returns an array of a batch that this process can read; all processes call it
            together.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.task import SplitMetric
        >>> from nnx_alexnet.training.split_rows import SplitRows
        >>> rows = SplitRows({"median": SplitMetric(np.median, ("loss",))}, np.asarray)
        >>> rows.add({"loss": np.array([1.0, 9.0, np.nan])}, np.array([True, True, False]))
        >>> rows.values()
        {'median': 5.0}
    """

    def __init__(self, metrics: Mapping[str, SplitMetric], whole: Callable[[Any], Any]) -> None:
        self._metrics = metrics
        self._whole = whole
        names = (name for each in metrics.values() for name in (*each.outputs, each.weight))
        self._names = {*names} - {None}
        self._rows: dict[str | None, list[np.ndarray[Any, Any]]] = {}

    def add(self, outputs: Mapping[str, Any], counts: np.ndarray[Any, Any]) -> None:
        """Adds a batch; waits for it.

        Args:
            outputs: of the task.
            counts: bool[B], False for padding.
        """
        for name in outputs:  # in the same order in all processes
            if name in self._names:
                rows = np.asarray(self._whole(outputs[name]))[counts]
                self._rows.setdefault(name, []).append(rows)

    def values(self) -> dict[str, float]:
        """Returns the metrics by name."""
        arrays = {name: np.concatenate(rows) for name, rows in self._rows.items()}
        found = {}
        for name, metric in self._metrics.items():
            needed = [arrays[each] for each in metric.outputs]
            weight = [arrays[metric.weight]] if metric.weight in arrays else []
            found[name] = float(metric.compute(*needed, *weight))
        return found
