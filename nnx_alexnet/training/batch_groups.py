"""`BatchGroups`: the batches of an epoch, as many together as one dispatch takes.

A dispatch ends where the host has something to do: at a log point, at a step that a callback wants
to see, at the end of the run. All batches of a group have one size, and each size is a program of
its own, so that no step sees rows of padding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import numpy as np

from nnx_alexnet.callbacks import CallbackList
from nnx_alexnet.data import Batch, Loader
from nnx_alexnet.support import logger
from nnx_alexnet.training.flops import TRAINING_FACTOR
from nnx_alexnet.training.settings import Settings
from nnx_alexnet.training.steps_per_dispatch import Pushback, choose_steps, next_multiple
from nnx_alexnet.training.tracing import EvaluationTrace

_MANY_SIZES = 8  # of batches: more programs than this are hardly intended


class BatchGroups:
    """Reads the train batches in groups.

    Args:
        loader: the train split.
        settings: limit the length of a group.
        callbacks: limit it too, by the batch hooks that are due.
        trace: tells what a step costs, and whether groups are possible at all.
        num_devices: how many devices share a step.

    Attributes:
        loader: the train split.
    """

    def __init__(
        self,
        loader: Loader,
        settings: Settings,
        callbacks: CallbackList,
        trace: EvaluationTrace,
        *,
        num_devices: int = 1,
    ) -> None:
        self.loader = loader
        self._settings = settings
        self._callbacks = callbacks
        self._trace = trace
        self._num_devices = num_devices
        self._sends_indices = False
        self._longest = settings.log_every_n_steps  # of all groups, in steps
        self._max_steps: dict[int, int] = {}  # of a group, by the size of its batches
        self._are_sizes_reported = False
        self._batches: Pushback[Batch] = Pushback(())
        self._position = 0  # of the next batch, in the epoch

    def begin_training(self, *, sends_indices: bool) -> None:
        """Limits the groups, once the callbacks are set up and before the first epoch begins.

        Each group is sent as long as the longest may be. A callback that later wants to see the
        first step of an epoch shortens only that group.

        Args:
            sends_indices: whether the data are on the device, so that only indices are sent.
        """
        self._sends_indices = sends_indices
        ends = (self.loader.num_batches, self._callbacks.next_train_batch(0))
        periods = [end + 1 for end in ends if end is not None]
        self._longest = min([self._settings.log_every_n_steps, *periods])

    def begin_epoch(self, batches: Iterator[Batch], *, start: int) -> None:
        """Reads from these batches, the first of which is that of step `start` of the epoch."""
        self._batches = Pushback(batches)
        self._position = start

    def end_epoch(self) -> None:
        """Lets the batches of the epoch go, so that their iterator ends, with its workers."""
        self._batches = Pushback(())

    def next_group(self, global_step: int, on_wait: Callable[[float], None]) -> list[Batch]:
        """Reads the batches of the next dispatch.

        Args:
            global_step: optimizer steps so far.
            on_wait: called with the seconds that each batch was waited for.

        Returns:
            Batches of one size; none at the end of the epoch.
        """
        group: list[Batch] = []
        size = length = 0
        while not group or len(group) < length:
            began = time.perf_counter()
            batch = next(self._batches, None)
            if batch is None:
                break
            on_wait(time.perf_counter() - began)
            num_rows = self.loader.count(self._position + len(group), batch)
            if not group:
                size, length = num_rows, self._steps_ahead(global_step, self.max_steps(num_rows))
            if num_rows != size:
                self._batches.push([batch])
                break
            group.append(batch)
        self._position += len(group)
        return group

    def give_back(self, group: list[Batch]) -> None:
        """Takes back batches that were not trained on; they come next, in their order."""
        self._batches.push(group)
        self._position -= len(group)

    def is_at_end(self, step_in_epoch: int) -> bool:
        """Returns whether an epoch that was stopped has no batch left."""
        num = self.loader.num_batches
        if self.loader.indexable:
            return step_in_epoch == num
        # The length of an iterable may be wrong, and if it is unknown, a batch may never come.
        return num is not None and step_in_epoch >= num and next(self._batches, None) is None

    def count(self, step_in_epoch: int, batch: Batch) -> int:
        """Returns the examples of a batch, of all processes together."""
        return self.loader.count(step_in_epoch, batch)

    def max_steps(self, size: int) -> int:
        """Returns the most steps in a dispatch of batches of this size."""
        if size not in self._max_steps:
            # Arrays and map-style datasets have one smaller batch per epoch, the last one.
            is_last = self.loader.indexable and size != self.loader.batch_size
            self._max_steps[size] = 1 if is_last else self._choose_steps(size)
            if len(self._max_steps) == _MANY_SIZES + 1:
                logger.warning(
                    "`%s` has given batches of %d sizes so far (%s, ...), each of which is "
                    "compiled separately. Training is faster if all batches but the last have the "
                    "same size.",
                    self.loader.argument, len(self._max_steps), self._sizes_text(),
                )  # fmt: skip
        return self._max_steps[size]

    def _choose_steps(self, size: int) -> int:
        if not self._trace.can_loop_on_device:
            return 1
        sent = 0
        if not self._sends_indices:
            for shape, dtype in self.loader.element_spec().values():
                sent += size * math.prod(shape) * np.dtype(dtype).itemsize
        flops = TRAINING_FACTOR * size * sum(self._trace.forward_flops.values())
        flops /= self._num_devices
        most = choose_steps(self._settings.steps_per_execution, batch_bytes=sent, step_flops=flops)
        return min(most, self._longest)

    def _steps_ahead(self, step: int, most: int) -> int:
        """Returns how many steps the next dispatch has: until anything is due on the host."""
        ends = [step + most, next_multiple(step, self._settings.log_every_n_steps)]
        limits = (self._settings.max_steps, self._callbacks.next_train_batch(step))
        return min([*ends, *(end for end in limits if end is not None)]) - step

    def report_sizes(self) -> None:
        """Logs, after the first whole pass over an iterable, how many sizes its batches have."""
        if not (self.loader.indexable or self._are_sizes_reported or len(self._max_steps) == 1):
            self._are_sizes_reported = True
            logger.info(
                "The batches of `%s` have %d sizes (%s); the train step was compiled for each.",
                self.loader.argument, len(self._max_steps), self._sizes_text(),
            )  # fmt: skip

    def _sizes_text(self) -> str:
        return ", ".join(map(str, [*self._max_steps][:_MANY_SIZES]))
