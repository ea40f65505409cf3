"""Decides which checkpoints of a run are kept: the latest, and the best by a metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nnx_alexnet.support import Mode, best_first


class Ranking(NamedTuple):
    """The rank of a checkpoint, which is a part of its JSON.

    Attributes:
        monitor: name of the metric by which the run ranks its checkpoints; None for no ranking.
        mode: whether smaller (`"min"`) or larger (`"max"`) values are better.
        value: the metric at this step; None if it was not measured.
    """

    monitor: str | None
    mode: Mode
    value: float | None

    @classmethod
    def of(cls, loop: Mapping[str, Any]) -> Ranking:
        """Returns the ranking that the JSON of a checkpoint contains."""
        return cls(**{name: loop["ranking"][name] for name in cls._fields})


def kept_steps(
    steps: Sequence[int],
    values: Mapping[int, float],
    *,
    keep_latest: int,
    keep_best: int,
    mode: Mode,
) -> set[int]:
    """Returns the steps to keep: the latest ones, and the best ones by metric.

    Args:
        steps: every step on disk.
        values: the monitored value of each step at which it was measured. A value that is not
            finite is never among the best.
        keep_latest: how many of the largest steps to keep.
        keep_best: how many of the best to keep in addition; the earlier of two steps with the
            same value is better.
        mode: whether smaller (`"min"`) or larger (`"max"`) values are better.

    Returns:
        A subset of `steps`.

    Example:
        >>> from nnx_alexnet.checkpoints.retention import kept_steps
        >>> values = {10: 0.7, 20: 0.9, 30: float("nan")}
        >>> sorted(kept_steps([10, 20, 30], values, keep_latest=1, keep_best=1, mode="max"))
        [20, 30]
    """
    ordered = sorted(steps)
    latest = ordered[len(ordered) - keep_latest :] if keep_latest < len(ordered) else ordered
    ranked = best_first({step: values[step] for step in steps if step in values}, mode=mode)
    return {*latest, *ranked[:keep_best]}


class Retention:
    """The steps that have a checkpoint, and which of them are kept.

    Only one thread at a time may change it; others may read it meanwhile.

    Args:
        monitor: the metric that ranks, or None for no ranking.
        mode: whether smaller (`"min"`) or larger (`"max"`) values are better.
        keep_latest: how many of the newest to keep.
        keep_best: how many of the best to keep in addition.

    Attributes:
        loops: the JSON of each checkpoint, by its step.
        values: the value of the metric, by step.

    Example:
        >>> from nnx_alexnet.checkpoints.retention import Retention
        >>> kept = Retention("val/loss", "min", keep_latest=1, keep_best=1)
        >>> for step, value in [(1, 0.5), (2, 0.3), (3, 0.4), (4, None)]:
        ...     kept.add(step, {"ranking": kept.ranking(value)._asdict()})
        >>> kept.best(), kept.superfluous()
        ((2, 0.3), [1, 3])
    """

    def __init__(
        self, monitor: str | None, mode: Mode, *, keep_latest: int, keep_best: int
    ) -> None:
        self.monitor = monitor
        self.mode: Mode = mode
        self.loops: dict[int, Mapping[str, Any]] = {}
        self.values: dict[int, float] = {}
        self._keep_latest = keep_latest
        self._keep_best = keep_best

    @property
    def steps(self) -> list[int]:
        """The steps in ascending order."""
        return sorted([*self.loops])

    def ranking(self, value: float | None) -> Ranking:
        """Returns the ranking of a checkpoint with a value of the metric."""
        return Ranking(self.monitor, self.mode, value)

    def add(self, step: int, loop: Mapping[str, Any]) -> None:
        """Adds a checkpoint; it replaces an earlier one of the same step."""
        self.remove(step)
        self.loops[step] = loop
        ranking = Ranking.of(loop)
        if ranking.monitor == self.monitor and ranking.value is not None:
            self.values[step] = ranking.value

    def remove(self, step: int) -> None:
        """Removes the checkpoint of a step, if there is one."""
        self.loops.pop(step, None)
        self.values.pop(step, None)

    def best(self) -> tuple[int, float] | tuple[None, None]:
        """Returns the step with the best value, and the value; None if no step has one."""
        values = dict(self.values)
        ranked = best_first(values, mode=self.mode)
        return (ranked[0], values[ranked[0]]) if ranked else (None, None)

    def is_best(self, step: int, others: Mapping[int, float]) -> bool:
        """Returns whether a step would be kept as one of the best.

        Args:
            step: one of `others`, or one that was added.
            others: values of steps that were not added.
        """
        values = {**dict(self.values), **others}
        return step in self._kept([*values], values, keep_latest=0)

    def superfluous(self) -> list[int]:
        """Returns the steps that are not to be kept."""
        steps = self.steps
        kept = self._kept(steps, dict(self.values), keep_latest=self._keep_latest)
        return [step for step in steps if step not in kept]

    def _kept(
        self, steps: Sequence[int], values: Mapping[int, float], *, keep_latest: int
    ) -> set[int]:
        return kept_steps(
            steps, values, keep_latest=keep_latest, keep_best=self._keep_best, mode=self.mode
        )
