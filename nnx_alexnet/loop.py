"""The steps of an epoch: as many in one dispatch as are left until the host has something to do."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from nnx_alexnet.data import Batch, Loader
from nnx_alexnet.data.transform import augmentation_key
from nnx_alexnet.dispatch import StepsPerExecution, choose_steps, is_ready, next_multiple, stacked
from nnx_alexnet.evaluator import MAX_IN_FLIGHT
from nnx_alexnet.finite import non_finite_step
from nnx_alexnet.leaves import placed
from nnx_alexnet.meters import EpochMeter, computed
from nnx_alexnet.performance import TRAINING_FACTOR, flops_utilization
from nnx_alexnet.processes import check_alike, one_at_a_time
from nnx_alexnet.resuming import Resumable
from nnx_alexnet.task import Outputs


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
        self.max_steps = max_steps
        self.log_every_n_steps = log_every_n_steps
        self.steps_per_execution = steps_per_execution

    def _reset(self) -> None:
        super()._reset()
        self.interrupted = self._is_cut_short = False
        self._meter = EpochMeter(None)  # each epoch has its own
        self._in_flight: deque[_Dispatched] = deque()
        self._train_data: dict[str, jax.Array] = {}  # the train split, if it is on the device
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
        """Puts the train split on the device, if it stays there, and sizes the dispatches."""
        self._train_data = self.data.on_device(self.placement.replicated) or {}
        check_alike({"keep_on_device": bool(self._train_data)})  # their memory may differ
        if self._train_data and (arrays := loader.arrays()) is not None:
            self._check_labels(arrays["label"], loader.argument)
        self._most_steps = self._choose_steps(loader)

    def _let_data_go(self) -> None:
        self._train_data = {}
        self._in_flight.clear()

    def _train_batches(self, loader: Loader) -> bool:
        """Trains on the batches that are left of the epoch; returns whether it is whole."""
        key = self._augmentation_key()
        batches = loader.batches(
            epoch=self.epoch,
            seed=self.seed,
            start=self.step_in_epoch,
            reads=not self._train_data,
            part=self.placement.rows(loader.batch_size),
        )
        while not self._is_stopping:
            group = self._next_group(batches)
            if not group:
                return True
            self._save_if_requested()
            if self._is_stopping:  # since the batches or the save were waited for
                return False
            num_taken = self._train_group(loader, group, key)
            batches = itertools.chain(group[num_taken:], batches)
        return False

    def _augmentation_key(self) -> jax.Array:
        key = augmentation_key(seed=self.seed, epoch=self.epoch)
        return placed(key, self.placement.replicated)

    def _next_group(self, batches: Iterator[Batch]) -> list[Batch]:
        """Reads the batches of the next dispatch, and counts the time in which it is waited for."""
        group: list[Batch] = []
        for _ in range(self._steps_ahead()):
            began = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            group.append(batch)
            if not self._in_flight or is_ready(self._in_flight[-1].info["loss"]):
                self._meter.waited += time.perf_counter() - began
        return group

    def _choose_steps(self, loader: Loader) -> int:
        if not self._steps.loops:
            return 1
        sent = 0
        if not self._train_data:
            for shape, dtype in loader.element_spec().values():
                sent += loader.batch_size * math.prod(shape) * np.dtype(dtype).itemsize
        flops = TRAINING_FACTOR * loader.batch_size * sum(self._steps.forward_flops.values())
        flops /= self.placement.num_devices
        # No dispatch will be longer than the shortest of these, and each is sent as long as the
        # longest may be.
        ends = (loader.num_batches, self._callbacks.next_train_batch(0))
        return min(
            choose_steps(self.steps_per_execution, batch_bytes=sent, step_flops=flops),
            self.log_every_n_steps,
            *(end + 1 for end in ends if end is not None),
        )

    def _steps_ahead(self) -> int:
        """Returns how many steps the next dispatch takes: until anything is due on the host."""
        step = self.global_step
        ends = [step + self._most_steps, next_multiple(step, self.log_every_n_steps)]
        ends += [
            end
            for end in (self.max_steps, self._callbacks.next_train_batch(step))
            if end is not None
        ]
        return min(ends) - step

    def _train_group(self, loader: Loader, group: list[Batch], key: jax.Array) -> int:
        """Dispatches a step for each batch; returns how many it took of them."""
        step, index = self.global_step, self.step_in_epoch
        if self._callbacks.is_due("on_train_batch_start", step + 1):
            first = loader.complete(group[0])
            self._callbacks.train_batch("on_train_batch_start", step + 1, self, first, index)
            if self._callbacks.is_due_by_step("on_train_batch_start", step + 1):
                self._agree()
            if self._is_stopping or self._checkpoint_requested:  # after this very step
                group = group[:1]
        for batch in group:
            if "label" in batch:
                self._check_labels(batch["label"][batch["mask"]], loader.argument)
        if self.checkpoints is not None:
            self.checkpoints.check()
        if self._steps.traces["train"]:
            self._meter.started(step)
        infos, last = one_at_a_time(self._dispatch(loader, group, key))
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
        at_most = MAX_IN_FLIGHT if self._most_steps == 1 else 1
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

    def _dispatch(
        self, loader: Loader, group: list[Batch], key: jax.Array
    ) -> tuple[Outputs, Outputs]:
        """Sends the batches and the step; returns the `info` of all steps, and of the last."""
        state, window, data = self._arrays(), self._window, self._train_data
        size = loader.batch_size
        with jax.profiler.StepTraceAnnotation("train", step_num=self.global_step + len(group)):
            if not self._steps.loops:
                batch = self.placement.send(group[0], size)
                self._state, self._window, last = self._steps.train(state, window, data, batch, key)
                return last, last
            together = stacked(group, self._most_steps)
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
