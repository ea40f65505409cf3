"""`ThroughputMonitor`: publishes the examples and the time of the whole run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nnx_alexnet.callbacks.base import Callback, Stage

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer


class ThroughputMonitor(Callback):
    """Publishes the totals of a run at the end of every epoch, including those before a resume.

    - `perf/total_images`: the number of training examples so far.
    - `perf/total_seconds`: the wall-clock time during which a process worked on the run.
    - `perf/training_share`: the fraction of that time spent in training epochs, as opposed to
      starting, validation and saves at the ends of epochs. Compilation and saves within an epoch
      count as training.

    The work of a killed process after its last save counts in none of them.

    Example:
        >>> ThroughputMonitor().metric_names
        ('perf/total_images', 'perf/total_seconds', 'perf/training_share')
    """

    metric_names = ("perf/total_images", "perf/total_seconds", "perf/training_share")

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._reset()

    def _reset(self) -> None:
        self._images = 0  # of finished epochs
        self._epoch_of: Trainer | None = None  # counts the examples of the running epoch
        self._seconds_before = self._training_seconds = 0.0
        self._training_since: float | None = None  # None while training is paused

    def state_dict(self) -> dict[str, Any]:
        """Returns the totals of the run."""
        return {
            "images": self._total_images(),
            "seconds": self._seconds(),
            "training_seconds": self._training(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the totals of earlier processes."""
        self._images = state["images"]
        self._seconds_before = state["seconds"]
        self._training_seconds = state["training_seconds"]

    def setup(self, trainer: Trainer, stage: Stage) -> None:
        """Starts the clock: reading a checkpoint is part of the time of the run."""
        if stage == "fit":
            self._began = time.perf_counter()

    def on_fit_start(self, trainer: Trainer) -> None:
        """Forgets an earlier fit."""
        self._reset()

    def on_train_epoch_start(self, trainer: Trainer) -> None:
        """Starts the clock of training."""
        self._training_since = time.perf_counter()
        self._epoch_of = trainer

    def on_validation_start(self, trainer: Trainer) -> None:
        """Stops the clock of training."""
        self._pause()

    def on_validation_end(self, trainer: Trainer) -> None:
        """Starts the clock of training again after a validation within an epoch."""
        if trainer.is_validating_within_epoch:
            self._training_since = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        """Stops the clock of training, and publishes the totals."""
        self._pause()
        self._images, self._epoch_of = self._total_images(), None
        seconds = self._seconds()
        share = self._training() / seconds
        totals = (float(self._images), seconds, share)
        trainer.log(dict(zip(self.metric_names, totals, strict=True)))

    def on_train_end(self, trainer: Trainer) -> None:
        """Stops the clock of training, which still runs if the epoch was interrupted."""
        self._pause()

    def _total_images(self) -> int:
        return self._images + (0 if self._epoch_of is None else self._epoch_of.num_examples)

    def _pause(self) -> None:
        self._training_seconds = self._training()
        self._training_since = None

    def _training(self) -> float:
        if self._training_since is None:
            return self._training_seconds
        return self._training_seconds + time.perf_counter() - self._training_since

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._began
