"""`Validation`: the validations of `fit`, at the end of an epoch and within it."""

from __future__ import annotations

import time
from typing import Any

from nnx_alexnet.data import DataModule
from nnx_alexnet.training.best_weights import BestWeights
from nnx_alexnet.training.dispatcher import Dispatcher
from nnx_alexnet.training.evaluation_loop import EvaluationLoop
from nnx_alexnet.training.progress import Progress
from nnx_alexnet.training.requests import Requests
from nnx_alexnet.training.saver import Saver
from nnx_alexnet.training.settings import Settings


class Validation:
    """Validates, and publishes the metrics of validations within an epoch.

    Args:
        data: has the validation split, or several, or none.
        settings: contain `validate_every_n_steps`.
        empty: the metrics before any batch.
        progress: the step and the history.
        requests: a signal ends a validation early.
        evaluation: runs the pass.
        dispatcher: its steps must be finished first.
        saver: saves callbacks as they were before an interrupted validation.
        best: keeps the weights if a validation within an epoch is the best.

    Raises:
        ValueError: `validate_every_n_steps` is set, but there is no validation split.
    """

    def __init__(
        self,
        *,
        data: DataModule,
        settings: Settings,
        empty: Any,
        progress: Progress,
        requests: Requests,
        evaluation: EvaluationLoop,
        dispatcher: Dispatcher,
        saver: Saver,
        best: BestWeights,
    ) -> None:
        period = settings.validate_every_n_steps
        if period is not None and data.val is None:
            raise ValueError(
                f"`validate_every_n_steps` (={period}) needs a validation split, but `data` has "
                "none: pass (train, val)."
            )
        self._data = data
        self._settings = settings
        self._empty = empty
        self._progress = progress
        self._requests = requests
        self._evaluation = evaluation
        self._dispatcher = dispatcher
        self._saver = saver
        self._best = best

    @property
    def is_due_by_step(self) -> bool:
        """Whether `validate_every_n_steps` or a callback asks for it at this step, not yet done."""
        progress, period = self._progress, self._settings.validate_every_n_steps
        if self._data.val is None or self.is_done:
            return False
        is_in_epoch = progress.step_in_epoch > 0
        is_due = period is not None and is_in_epoch and progress.global_step % period == 0
        return is_due or progress.is_validation_asked

    @property
    def is_done(self) -> bool:
        """Whether this step has been validated: the history then ends with its row."""
        history = self._progress.history
        return bool(history) and history[-1]["step"] == self._progress.global_step

    def measure(self) -> dict[str, float]:
        """Returns the metrics of a validation; none if a signal interrupted it."""
        return self._evaluation.evaluate("validation", self._data.val_sets, self._empty)

    def end(self) -> None:
        """Calls the hooks at the end, after the metrics were published."""
        self._evaluation.end("validation")

    def run_within_epoch(self) -> None:
        """Validates between two steps, and adds a row to the history.

        After a signal during the validation nothing is published, and the resumed run repeats it.
        """
        began, progress = time.perf_counter(), self._progress
        self._dispatcher.read_all()
        self._saver.begin_end_of_epoch()
        progress.is_validating_within_epoch, progress.is_validation_asked = True, False
        try:
            measured = self.measure()
            if self._requests.interrupted:
                self.end()  # lets callbacks undo changes that they made for the validation
                return
            progress.begin_row()
            progress.publish(measured, progress.global_step)
            self.end()
            self._requests.settle()
            self._best.keep()
            progress.end_row(keeps=True)
        finally:
            progress.is_validating_within_epoch = False
        self._saver.epoch_ended()
        if progress.step_in_epoch:  # else, the clock of the epoch has not started
            self._dispatcher.pause(time.perf_counter() - began)
