"""`ThroughputMonitor`: what a run has got done, and how much of its time was training."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nnx_alexnet.callbacks.base import Callback, Stage

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer


class ThroughputMonitor(Callback):
    """Publishes the totals of a run at each epoch's end, those of before a resume among them.

    `perf/total_images`: the train examples taken so far. `perf/total_seconds`: by the clock on
    the wall, while a process worked on the run. `perf/training_share`: the share of these seconds
    that lies within training epochs, and not in validation, in saves at epochs' ends, or in
    starting; compilation and saves within an epoch count as training. What a killed process did
    after its last save is in none of them.

    Example:
        >>> ThroughputMonitor().metric_names
        ('perf/total_images', 'perf/total_seconds', 'perf/training_share')
    """

    metric_names = ("perf/total_images", "perf/total_seconds", "perf/training_share")

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._reset()

    def _reset(self) -> None:
        self._images = 0  # of the epochs before
        self._epoch_of: Trainer | None = None  # whose examples are to be added, within an epoch
        self._seconds_before = self._training_seconds = 0.0
        self._resumed: float | None = None  # when the training that goes on now began

    def state_dict(self) -> dict[str, Any]:
        """Returns the totals of the run."""
        return {
            "images": self._total_images(),
            "seconds": self._seconds(),
            "training_seconds": self._training(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the totals of the processes before."""
        self._images = state["images"]
        self._seconds_before = state["seconds"]
        self._training_seconds = state["training_seconds"]

    def setup(self, trainer: Trainer, stage: Stage) -> None:
        """Starts the clock: reading a checkpoint is part of the run's time."""
        if stage == "fit":
            self._began = time.perf_counter()

    def on_fit_start(self, trainer: Trainer) -> None:
        """Forgets an earlier fit."""
        self._reset()

    def on_train_epoch_start(self, trainer: Trainer) -> None:
        """Starts the clock of training."""
        self._resumed = time.perf_counter()
        self._epoch_of = trainer

    def on_validation_start(self, trainer: Trainer) -> None:
        """Stops the clock of training."""
        self._pause()

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        """Stops the clock of training, and publishes."""
        self._pause()
        self._images, self._epoch_of = self._total_images(), None
        seconds = self._seconds()
        share = self._training() / seconds
        totals = (float(self._images), seconds, share)
        trainer.log(dict(zip(self.metric_names, totals, strict=True)))

    def on_train_end(self, trainer: Trainer) -> None:
        """Stops the clock of training, which runs still if the epoch was cut short."""
        self._pause()

    def _total_images(self) -> int:
        return self._images + (0 if self._epoch_of is None else self._epoch_of.num_examples)

    def _pause(self) -> None:
        self._training_seconds = self._training()
        self._resumed = None

    def _training(self) -> float:
        if self._resumed is None:
            return self._training_seconds
        return self._training_seconds + time.perf_counter() - self._resumed

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._began
