"""`BatchGroups`: groups the batches of an epoch by dispatch.

A dispatch ends where the host has something to do: at a log point, at a step that a callback needs
to see, at the end of the run. All batches of a group have the same size. Each size is compiled
separately, so that no step contains padding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import jax

from nnx_alexnet.callbacks import CallbackList
from nnx_alexnet.data import Batch, Loader
from nnx_alexnet.support import logger
from nnx_alexnet.training.flops import TRAINING_FACTOR
from nnx_alexnet.training.settings import Settings
from nnx_alexnet.training.steps_per_dispatch import Pushback, choose_steps, next_multiple
from nnx_alexnet.training.tracing import EvaluationTrace

_MANY_SIZES = 8  # of batches; more are probably not intended


class BatchGroups:
    """Reads the train batches in groups.

    Args:
        loader: the train split.
        settings: limit the length of a group.
        callbacks: also limit it, by the batch hooks that are due.
        trace: contains the cost of a step, and whether a dispatch may have several steps.
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
        # By the number of rows and the lengths of the sequences of the batches in a group.
        self._max_steps: dict[tuple[int, tuple[int, ...]], int] = {}
        self._are_sizes_reported = False
        self._batches: Pushback[Batch] = Pushback(())
        self._position = 0  # of the next batch, in the epoch

    def begin_training(self, *, sends_indices: bool) -> None:
        """Limits the groups; called after the callbacks' `setup`, before the first epoch.

        All groups are padded to the length of the longest one. If a callback later needs to see
        the first step of an epoch, only that group becomes shorter.

        Args:
            sends_indices: whether the data are on the device, so that only indices are sent.
        """
        self._sends_indices = sends_indices
        ends = (self.loader.num_batches, self._callbacks.next_train_batch(0))
        periods = [end + 1 for end in ends if end is not None]
        if self._settings.validate_every_n_steps is not None:
            periods.append(self._settings.validate_every_n_steps)
        self._longest = min([self._settings.log_every_n_steps, *periods])

    def begin_epoch(self, batches: Iterator[Batch], *, start: int) -> None:
        """Reads from now on from `batches`, which begin at step `start` of the epoch."""
        self._batches = Pushback(batches)
        self._position = start

    def end_epoch(self) -> None:
        """Releases the batches of the epoch, which ends their iterator and its workers."""
        self._batches = Pushback(())

    def next_group(self, global_step: int, on_wait: Callable[[float], None]) -> list[Batch]:
        """Reads the batches of the next dispatch.

        Args:
            global_step: optimizer steps so far.
            on_wait: called for each batch with the seconds spent waiting for it.

        Returns:
            Batches of the same shapes; an empty list at the end of the epoch.
        """
        group: list[Batch] = []
        size: tuple[int, tuple[int, ...]] | None = None
        length = 0
        while not group or len(group) < length:
            began = time.perf_counter()
            batch = next(self._batches, None)
            if batch is None:
                break
            on_wait(time.perf_counter() - began)
            num_rows = self.loader.count(self._position + len(group), batch)
            own = num_rows, self.loader.lengths(batch)
            if not group:
                size, length = own, self._steps_ahead(global_step, self.max_steps(*own))
            if own != size:
                self._batches.push([batch])
                break
            group.append(batch)
        self._position += len(group)
        return group

    def give_back(self, group: list[Batch]) -> None:
        """Takes back batches that were not trained on, to return them next, in their order."""
        self._batches.push(group)
        self._position -= len(group)

    def is_at_end(self, step_in_epoch: int) -> bool:
        """Returns whether no batch of a stopped epoch is left."""
        num = self.loader.num_batches
        if self.loader.indexable:
            return step_in_epoch == num
        # The length of an iterable may be wrong. Without a length, reading on could block forever.
        return num is not None and step_in_epoch >= num and next(self._batches, None) is None

    def lengths(self, batch: Batch) -> tuple[int, ...]:
        """Returns the lengths to which the sequences of a batch are padded."""
        return self.loader.lengths(batch)

    def count(self, step_in_epoch: int, batch: Batch) -> int:
        """Returns the number of examples of a batch in all processes together."""
        return self.loader.count(step_in_epoch, batch)

    def max_steps(self, num_rows: int, lengths: tuple[int, ...] = ()) -> int:
        """Returns the maximum number of steps in a dispatch of batches of this size.

        Args:
            num_rows: the number of examples in each batch.
            lengths: to which their sequences are padded.
        """
        size = num_rows, lengths
        if size not in self._max_steps:
            # Arrays and map-style datasets have one smaller batch per epoch, the last one.
            is_last = self.loader.indexable and num_rows != self.loader.batch_size
            self._max_steps[size] = 1 if is_last else self._choose_steps(num_rows)
            if len(self._max_steps) == _MANY_SIZES + 1:
                logger.warning(
                    "`%s` has returned batches of %d sizes so far (%s, ...), each of which is "
                    "compiled separately. Training is faster if all batches but the last have the "
                    "same number of rows and the same lengths.",
                    self.loader.argument, len(self._max_steps), self._sizes_text(),
                )  # fmt: skip
        return self._max_steps[size]

    def _choose_steps(self, size: int) -> int:
        if not self._trace.can_loop_on_device:
            return 1
        sent = 0
        if not self._sends_indices:
            for leaf in jax.tree.leaves(self.loader.element_spec()):
                sent += size * math.prod(leaf.shape) * leaf.dtype.itemsize
        flops = TRAINING_FACTOR * size * sum(self._trace.forward_flops.values())
        flops /= self._num_devices
        most = choose_steps(self._settings.steps_per_execution, batch_bytes=sent, step_flops=flops)
        return min(most, self._longest)

    def _steps_ahead(self, step: int, most: int) -> int:
        """Returns the number of steps, at most `most`, until something is due on the host."""
        settings = self._settings
        periods = (settings.log_every_n_steps, settings.validate_every_n_steps)
        ends = [step + most, *(next_multiple(step, each) for each in periods if each is not None)]
        limits = (settings.max_steps, self._callbacks.next_train_batch(step))
        return min([*ends, *(end for end in limits if end is not None)]) - step

    def report_sizes(self) -> None:
        """Logs how many sizes the batches have, after the first complete pass over the split.

        Arrays and map-style datasets without `pad_to` have at most a smaller last batch.
        """
        may_vary = not self.loader.indexable or self.loader.has_several_lengths
        if may_vary and not self._are_sizes_reported and len(self._max_steps) > 1:
            self._are_sizes_reported = True
            logger.info(
                "The batches of `%s` have %d sizes (%s); the train step was compiled for each.",
                self.loader.argument, len(self._max_steps), self._sizes_text(),
            )  # fmt: skip

    def _sizes_text(self) -> str:
        sizes = [(rows, *lengths) for rows, lengths in self._max_steps]
        return ", ".join("x".join(map(str, size)) for size in sizes[:_MANY_SIZES])
