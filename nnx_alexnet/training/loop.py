"""The steps of an epoch: as many in one dispatch as are left until the host has something to do.

All batches of a dispatch have one size, and each size is a program of its own, so that no step
sees rows of padding.
"""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any, NamedTuple

import jax
import numpy as np

from nnx_alexnet.data import Batch, Loader, augmentation_key
from nnx_alexnet.devices import check_alike, non_finite_step, one_at_a_time, placed
from nnx_alexnet.support import logger
from nnx_alexnet.task import Outputs
from nnx_alexnet.training.epoch_metrics import EpochMeter, computed
from nnx_alexnet.training.evaluator import MAX_IN_FLIGHT
from nnx_alexnet.training.flops import TRAINING_FACTOR, flops_utilization
from nnx_alexnet.training.resuming import Resumable
from nnx_alexnet.training.steps_per_dispatch import (
    Pushback,
    StepsPerExecution,
    choose_steps,
    is_ready,
    next_multiple,
    stacked,
)

_MANY_SIZES = 8  # of batches: more than this many programs are hardly meant


class _Dispatched(NamedTuple):
    """Train steps under way: the last one's number, and at a log point the metrics to read."""

    step: int
    batches: list[Batch]
    info: Outputs  # each value a scalar, or an array with one for each step
    window: Any
    num_examples: int


class TrainLoop(Resumable):
    """Trains on the batches of an epoch; the part of `Trainer` between two of its epochs' ends.

    Args:
        max_steps: see `Trainer`; likewise the others.
    """

    def __init__(
        self,
        *arguments: Any,
        max_steps: int | None,
        log_every_n_steps: int,
        steps_per_execution: StepsPerExecution,
        **others: Any,
    ) -> None:
        super().__init__(*arguments, **others)
        self._sizes_compiled: set[int] = set()  # of batches
        self.max_steps = max_steps
        self.log_every_n_steps = log_every_n_steps
        self.steps_per_execution = steps_per_execution

    def _reset(self) -> None:
        super()._reset()
        self.interrupted = self._is_cut_short = False
        self._meter = EpochMeter(None)  # each epoch has its own
        self._in_flight: deque[_Dispatched] = deque()
        self._train_data: dict[str, jax.Array] = {}  # the train split, if it is on the device
        self._most_steps: dict[int, int] = {}  # of a dispatch, by the size of its batches
        self._periods: list[int] = []  # in steps: no dispatch is longer than one of them
        self._are_sizes_reported = False
        self._num_rows = 0  # of the newest batch, of all processes together
        self._newest_rates: dict[str, jax.Array] = {}  # of the newest step dispatched
        self._learning_rates: dict[str, float] = {}  # of the newest one read

    @property
    def data_is_on_device(self) -> bool:
        """Whether the train split stays on the device, so that only indices are sent."""
        return bool(self._train_data)

    @property
    def num_examples(self) -> int:
        """Examples trained on in the present epoch since this start of the run."""
        return self._meter.num_examples

    def learning_rates(self) -> dict[str, float]:
        """Returns the rates of the newest step, by the names of their metrics.

        optax keeps a rate in the state for `optax.inject_hyperparams(optax.adam)(rate)`: it is
        `lr`. Where an optimizer has several parts that do so, each is `lr/<part>`. The step is
        waited for.
        """
        rates = self._newest_rates
        if not rates and self._optimizer is not None:  # before the first step
            rates = self._steps.learning_rates(self._arrays())
        return {name: float(rate) for name, rate in rates.items()}

    def learning_rate(self) -> float | None:
        """Returns the rate of the newest step, None where the optimizer tells none, or several."""
        return self.learning_rates().get("lr")

    @property
    def _is_stopping(self) -> bool:
        is_enough = self.max_steps is not None and self.global_step >= self.max_steps
        return self.interrupted or self.stop_reason is not None or is_enough

    def _take_data(self, loader: Loader) -> None:
        """Puts the train split on the device, if it stays there, and limits the dispatches."""
        self._train_data = self.data.on_device(self.placement.replicated) or {}
        check_alike({"keep_on_device": bool(self._train_data)})  # their memory may differ
        # No dispatch will be longer than the shortest of these, and each is sent as long as the
        # longest may be. What a callback wants of the first step alone shortens only that one.
        ends = (loader.num_batches, self._callbacks.next_train_batch(0))
        self._periods = [self.log_every_n_steps, *(end + 1 for end in ends if end is not None)]

    def _let_data_go(self) -> None:
        self._train_data = {}
        self._in_flight.clear()

    def _train_batches(self, loader: Loader) -> bool:
        """Trains on the batches that are left of the epoch; returns whether it is whole."""
        key = self._augmentation_key()
        batches = Pushback(
            loader.batches(
                epoch=self.epoch,
                seed=self.seed,
                start=self.step_in_epoch,
                reads=not self._train_data,
                part=self.placement.rows,
            )
        )
        while not self._is_stopping:
            group = self._next_group(loader, batches)
            if not group:
                self._report_sizes(loader)
                return True
            self._save_if_requested()
            if self._is_stopping:  # since the batches or the save were waited for
                batches.push(group)
                break
            batches.push(group[self._train_group(loader, group, key) :])
        return self._is_at_end(loader, batches)

    def _is_at_end(self, loader: Loader, batches: Pushback[Batch]) -> bool:
        """Returns whether an epoch that was stopped has no batch left."""
        num = loader.num_batches
        if loader.indexable:
            return self.step_in_epoch == num
        # The length of an iterable may be wrong. Where it says nothing, a batch may never come.
        return num is not None and self.step_in_epoch >= num and next(batches, None) is None

    def _augmentation_key(self) -> jax.Array:
        key = augmentation_key(seed=self.seed, epoch=self.epoch)
        return placed(key, self.placement.replicated)

    def _next_group(self, loader: Loader, batches: Pushback[Batch]) -> list[Batch]:
        """Reads the batches of the next dispatch, and counts the time in which it is waited for.

        Returns:
            Batches of one size; none at the end of the epoch.
        """
        group: list[Batch] = []
        size = length = 0
        while not group or len(group) < length:
            began = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            if not self._in_flight or is_ready(self._in_flight[-1].info["loss"]):
                self._meter.waited += time.perf_counter() - began
            num_rows = loader.count(self.step_in_epoch + len(group), batch)
            if not group:
                size, length = num_rows, self._steps_ahead(self._steps_of(loader, num_rows))
            if num_rows != size:
                batches.push([batch])
                break
            group.append(batch)
        return group

    def _steps_of(self, loader: Loader, size: int) -> int:
        """Returns the most steps that a dispatch of batches of a size takes."""
        if size not in self._most_steps:
            # Arrays and map-style datasets have one smaller batch per epoch, the last one.
            is_last = loader.indexable and size != loader.batch_size
            self._most_steps[size] = 1 if is_last else self._choose_steps(loader, size)
            if len(self._most_steps) == _MANY_SIZES + 1:
                logger.warning(
                    "`%s` has given batches of %d sizes so far (%s, ...), each of which is "
                    "compiled separately. Training is faster if all batches but the last have the "
                    "same size.",
                    loader.argument, len(self._most_steps), self._sizes_text(),
                )  # fmt: skip
        return self._most_steps[size]

    def _report_sizes(self, loader: Loader) -> None:
        """Logs, after the first whole pass over an iterable, how many sizes its batches have."""
        if not (loader.indexable or self._are_sizes_reported or len(self._most_steps) == 1):
            self._are_sizes_reported = True
            logger.info(
                "The batches of `%s` have %d sizes (%s); the train step was compiled for each.",
                loader.argument, len(self._most_steps), self._sizes_text(),
            )  # fmt: skip

    def _sizes_text(self) -> str:
        return ", ".join(map(str, [*self._most_steps][:_MANY_SIZES]))

    def _choose_steps(self, loader: Loader, size: int) -> int:
        if not self._steps.loops:
            return 1
        sent = 0
        if not self._train_data:
            for shape, dtype in loader.element_spec().values():
                sent += size * math.prod(shape) * np.dtype(dtype).itemsize
        flops = TRAINING_FACTOR * size * sum(self._steps.forward_flops.values())
        flops /= self.placement.num_devices
        most = choose_steps(self.steps_per_execution, batch_bytes=sent, step_flops=flops)
        return min(most, *self._periods)

    def _steps_ahead(self, most: int) -> int:
        """Returns how many steps the next dispatch takes: until anything is due on the host."""
        step = self.global_step
        ends = [step + most, next_multiple(step, self.log_every_n_steps)]
        ends += [
            end
            for end in (self.max_steps, self._callbacks.next_train_batch(step))
            if end is not None
        ]
        return min(ends) - step

    def _train_group(self, loader: Loader, group: list[Batch], key: jax.Array) -> int:
        """Dispatches a step for each batch; returns how many it took of them."""
        step, index = self.global_step, self.step_in_epoch
        self._num_rows = loader.count(index, group[0])
        if self._callbacks.is_due("on_train_batch_start", step + 1):
            first = loader.complete(group[0])
            self._callbacks.train_batch("on_train_batch_start", step + 1, self, first, index)
            if self._callbacks.is_due_by_step("on_train_batch_start", step + 1):
                self._agree()
            if self._is_stopping or self._checkpoint_requested:  # after this very step
                group = group[:1]
        for batch in group:
            self._check_batch(loader, batch)
        if self.checkpoints is not None:
            self.checkpoints.check()
        infos, last = self._dispatch_timed(group, key)
        self.global_step, self.step_in_epoch = step + len(group), index + len(group)
        self.is_epoch_open = True
        self._newest_rates = {name: last[name] for name in self._steps.rate_names}
        self._meter.num_examples += sum(loader.count(index + n, b) for n, b in enumerate(group))
        window = None
        if self.global_step % self.log_every_n_steps == 0:
            window, self._window = self._window, self._steps.empty
        self._in_flight.append(
            _Dispatched(self.global_step, group, infos, window, self._meter.num_examples)
        )
        at_most = MAX_IN_FLIGHT if self._most_steps[self._num_rows] == 1 else 1
        if len(self._in_flight) > at_most:
            self._read(self._in_flight.popleft())
        if self._callbacks.is_due("on_train_batch_end", self.global_step):
            batch = loader.complete(group[-1])
            self._callbacks.train_batch(
                "on_train_batch_end", self.global_step, self, last, batch, self.step_in_epoch - 1
            )
            if self._callbacks.is_due_by_step("on_train_batch_end", self.global_step):
                at_most = 0  # what is asked for at this step is done at this step
        self._agree(at_most=at_most)
        return len(group)

    def _dispatch_timed(self, group: list[Batch], key: jax.Array) -> tuple[Outputs, Outputs]:
        """Dispatches the steps; of the speed of the epoch, a compilation is no part."""
        if not self._steps.traces["train"]:
            self._sizes_compiled.clear()  # of another model
        if self._num_rows in self._sizes_compiled:
            self._meter.started(self.global_step)
            return one_at_a_time(self._dispatch(group, key))
        self._sizes_compiled.add(self._num_rows)
        if self._in_flight:
            jax.block_until_ready(self._in_flight[-1].info)
        began = time.perf_counter()
        results = self._dispatch(group, key)
        self._meter.paused += time.perf_counter() - began
        return one_at_a_time(results)

    def _dispatch(self, group: list[Batch], key: jax.Array) -> tuple[Outputs, Outputs]:
        """Sends the batches and the step; returns the `info` of all steps, and of the last."""
        state, window, data = self._arrays(), self._window, self._train_data
        size = self._num_rows
        with jax.profiler.StepTraceAnnotation("train", step_num=self.global_step + len(group)):
            if not self._steps.loops:
                batch = self.placement.send(group[0], size)
                self._state, self._window, last = self._steps.train(state, window, data, batch, key)
                return last, last
            together = stacked(group, self._most_steps[size])
            sent: Any = self.placement.send(together, size, stacked=True), np.int32(len(group))
            self._state, self._window, infos, last = self._steps.train_many(
                state, window, data, sent, key
            )
            return infos, last

    def _read(self, done: _Dispatched, *, publishes: bool = True) -> None:
        """Waits for dispatched steps; at a log point reads and publishes their metrics."""
        info = {k: np.atleast_1d(v) for k, v in jax.device_get(done.info).items()}
        num = len(done.batches)
        if self.check_finite and not info["is_finite"][:num].all():
            first = int(np.argmin(info["is_finite"][:num]))
            batch = self._split("train").complete(done.batches[first])
            leaves = self._steps.named(self._arrays())
            number = done.step - num + first + 1
            raise non_finite_step(float(info["loss"][first]), number, batch, leaves)
        self._meter.finished(done.num_examples, done.step)
        self._learning_rates = {name: float(info[name][num - 1]) for name in self._steps.rate_names}
        if done.window is not None:
            window = jax.device_get(done.window)
            self._meter.add(window)
            metrics = {f"train/{name}_step": value for name, value in computed(window).items()}
            metrics |= self._rates(self._meter.window_rates())
            if publishes:
                self._publish(metrics, done.step)

    def _read_all(self, *, publishes: bool = True) -> None:
        while self._in_flight:
            self._read(self._in_flight.popleft(), publishes=publishes)

    def _rates(self, rates: dict[str, float]) -> dict[str, float]:
        speed = rates.get("perf/images_per_second")
        if speed is not None:
            used = flops_utilization(speed / self.placement.num_devices, self._steps.forward_flops)
            rates |= {} if used is None else {"perf/mfu": used}
        # Before the first step since a resume none was read.
        return (self._learning_rates or self.learning_rates()) | rates
