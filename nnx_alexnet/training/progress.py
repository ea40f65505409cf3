"""`Progress`: the counters of a run, and every metric that it has published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nnx_alexnet.training.history import History

OnLog = Callable[[Mapping[str, float], int], None]


class Progress:
    """The counters and records of a run, which are part of a checkpoint.

    Args:
        on_log: called with the metrics and their step whenever metrics are published.

    Attributes:
        epoch: the current epoch, from 0.
        step_in_epoch: optimizer steps of this epoch.
        global_step: optimizer steps of the run.
        is_epoch_open: whether the epoch has had a step, but its metrics are not published yet.
        is_validation_asked: whether a callback requested a validation before the next step.
        is_validating_within_epoch: whether a validation is running between two steps.
        num_examples: examples of this epoch since this start of the run, in all processes; the
            only counter that is not saved.
        stop_reason: why a callback stopped the run, or None.
        metrics: the newest value of each metric.
        metric_steps: the step at which each of those was measured.
        history: one row per validation, or per epoch if there is no validation split. The row
            at the end of an epoch also has its training metrics.

    Example:
        >>> from nnx_alexnet.training.progress import Progress
        >>> progress = Progress()
        >>> progress.advance(num_steps=4, num_examples=256)
        >>> progress.begin_row()
        >>> progress.publish({"val/loss": 0.5}, progress.global_step)
        >>> progress.end_row(keeps=True)
        >>> progress.end_epoch(is_whole=True)
        >>> progress.epoch, progress.global_step, progress.history[0]
        (1, 4, {'epoch': 0, 'step': 4, 'val/loss': 0.5})
    """

    def __init__(self, on_log: OnLog = lambda _metrics, _step: None) -> None:
        self.epoch = 0
        self.step_in_epoch = 0
        self.global_step = 0
        self.is_epoch_open = False
        self.is_validation_asked = False
        self.is_validating_within_epoch = False
        self.evaluated_split: str | None = None
        self.num_examples = 0
        self.stop_reason: str | None = None
        self.metrics: dict[str, float] = {}
        self.metric_steps: dict[str, int] = {}
        self.history = History()
        self._on_log = on_log
        self._row: dict[str, Any] | None = None  # of the history, while an epoch ends
        self._logged: dict[str, float] = {}  # by callbacks, in this epoch

    def begin_epoch(self) -> None:
        """Resets the number of examples of the epoch."""
        self.num_examples = 0

    def advance(self, *, num_steps: int, num_examples: int) -> None:
        """Counts train steps that were dispatched together."""
        self.global_step += num_steps
        self.step_in_epoch += num_steps
        self.num_examples += num_examples
        self.is_epoch_open = True

    def end_epoch(self, *, is_whole: bool) -> None:
        """Closes the epoch; the next one begins only if no batch of this one is left."""
        self.is_epoch_open, self._logged = False, {}
        if is_whole:
            self.epoch, self.step_in_epoch = self.epoch + 1, 0

    def stop(self, reason: str | None) -> None:
        """Records why the run stops; None if only another process has the reason."""
        if reason is not None:
            self.stop_reason = reason
        elif self.stop_reason is None:
            self.stop_reason = "another process requested it"

    def publish(self, metrics: Mapping[str, float], step: int) -> None:
        """Stores metrics, adds them to the open row of the history, and calls `on_log`.

        Args:
            metrics: name to value.
            step: the optimizer step at which they were measured, which may be an earlier one.
        """
        if self._row is not None:
            self._row.update(metrics)
        self.metrics.update(metrics)
        self.metric_steps.update(dict.fromkeys(metrics, step))
        self._on_log(metrics, step)

    def log(self, metrics: Mapping[str, float]) -> None:
        """Publishes metrics of a callback, whose newest values become part of the epoch's row."""
        self._logged.update(metrics)
        self.publish(metrics, self.global_step)

    def current_value(self, name: str | None) -> float | None:
        """Returns a metric if it was measured at the current step, else None."""
        if name is None or self.metric_steps.get(name) != self.global_step:
            return None
        return self.metrics[name]

    def begin_row(self) -> None:
        """Starts a row of the history, which collects the metrics published until `end_row`."""
        self._row = {"epoch": self.epoch, "step": self.global_step}

    def end_row(self, *, keeps: bool) -> None:
        """Ends the row, and appends it to the history if `keeps` is True.

        It is merged with an earlier row of the same step: that of a validation within the epoch.
        """
        if keeps and self._row is not None:
            place = [(row["epoch"], row["step"]) for row in (*self.history[-1:], self._row)]
            if place[0] == place[-1] and self.history:
                self._row = self.history.pop() | self._row
            earlier = {n: value for n, value in self._logged.items() if n not in self._row}
            self.history.append(self._row | earlier)
        self._row = None

    def to_json(self) -> dict[str, Any]:
        """Returns the entries for a checkpoint; add each new one to `restore` too."""
        return {
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "global_step": self.global_step,
            "is_epoch_open": self.is_epoch_open,
            "stop_reason": self.stop_reason,
            "metrics": self.metrics,
            "metric_steps": self.metric_steps,
            "history": self.history,
            "logged": self._logged,
        }

    def restore(self, saved: Mapping[str, Any], *, repeats_epoch: bool = False) -> None:
        """Continues from the values that `to_json` returned.

        Args:
            saved: the JSON of a checkpoint; other entries are ignored.
            repeats_epoch: whether an interrupted epoch starts again from its first batch.
        """
        self.epoch = saved["epoch"]
        self.step_in_epoch = saved["step_in_epoch"]
        self.global_step = saved["global_step"]
        self.is_epoch_open = saved["is_epoch_open"]
        self.stop_reason = saved["stop_reason"]
        self.metrics = saved["metrics"]
        self.metric_steps = saved["metric_steps"]
        self.history = History(saved["history"])
        self._logged = saved["logged"]
        if repeats_epoch and self.step_in_epoch:
            self.step_in_epoch, self.is_epoch_open, self._logged = 0, False, {}
