"""`Dispatcher`: sends train steps to the device, and reads their results later.

Metrics stay on the device. Those of a log point are read after the next dispatch has started, so
the host never waits for the step that it has just dispatched.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from nnx_alexnet.data import Batch, augmentation_key
from nnx_alexnet.devices import Placement, non_finite_step, placed
from nnx_alexnet.support import logger, start_times
from nnx_alexnet.task import Outputs
from nnx_alexnet.training.early_compilation import EarlyCompilation, lower
from nnx_alexnet.training.epoch_metrics import EpochMeter, computed, has_values
from nnx_alexnet.training.flops import flops_utilization
from nnx_alexnet.training.model_arrays import ModelArrays
from nnx_alexnet.training.progress import Progress
from nnx_alexnet.training.settings import Settings
from nnx_alexnet.training.step_functions import State
from nnx_alexnet.training.steps_ahead import Results, StepsAhead
from nnx_alexnet.training.steps_per_dispatch import is_ready, stacked
from nnx_alexnet.training.tracing import EvaluationTrace, TrainingTrace

# The maximum number of steps under way: enough to keep the device busy, few enough to limit the
# batches held in memory.
MAX_IN_FLIGHT = 2


class _Dispatched(NamedTuple):
    """Train steps under way: the number of the last one, and at a log point the metrics."""

    step: int
    batches: list[Batch]
    info: Outputs  # each value a scalar, or an array with one for each step
    window: Any
    num_examples: int


class Dispatcher:
    """Holds the steps under way, and the metrics of the epoch to which they contribute.

    Args:
        arrays: the state that steps donate and return.
        progress: counts the steps, and publishes the metrics of log points.
        settings: the log points, the seed, and whether steps must be finite.
        placement: the devices.
        evaluation: the traced forward pass.
        training: the traced train step.
        complete: fills a batch that has only indices with its examples.

    Attributes:
        data: the train split if it is on the device, else empty.
    """

    def __init__(
        self,
        *,
        arrays: ModelArrays,
        progress: Progress,
        settings: Settings,
        placement: Placement,
        evaluation: EvaluationTrace,
        training: TrainingTrace,
        complete: Callable[[Batch], Batch],
    ) -> None:
        self.data: Mapping[str, jax.Array] = {}
        self._arrays = arrays
        self._progress = progress
        self._settings = settings
        self._placement = placement
        self._evaluation = evaluation
        self._training = training
        self._complete = complete
        self._in_flight: deque[_Dispatched] = deque()
        self._ahead = StepsAhead(arrays)
        self._compilation = EarlyCompilation()
        self._meter = EpochMeter(jax.device_get(evaluation.empty))
        self._window = evaluation.empty  # the metrics since the last log point, on the device
        self._num_rows = 0  # of each batch of the newest group, in all processes
        self._lengths: tuple[int, ...] = ()
        self._newest_rates: Mapping[str, jax.Array] = {}  # of the newest step dispatched
        self._rates_read: Mapping[str, float] = {}  # of the newest step read

    @property
    def is_busy(self) -> bool:
        """Whether results of steps are still awaited."""
        return bool(self._in_flight)

    def use_data(self, data: Mapping[str, jax.Array]) -> None:
        """Sets the train split on the device; unless it is empty, steps only receive indices."""
        self.data = data

    def release(self) -> None:
        """Frees the data on the device, and drops the steps under way; waits for the compiler."""
        self._compilation.wait()
        self.data = {}
        self._in_flight.clear()
        self._ahead.drop()

    # ---- Steps --------------------------------------------------------------------------------

    def augmentation_key(self, *, next_epoch: bool = False) -> jax.Array:
        """Returns the key of the augmentation of this epoch or the next, on the devices."""
        epoch = self._progress.epoch + next_epoch
        key = augmentation_key(seed=self._settings.seed, epoch=epoch)
        return placed(key, self._placement.replicated)

    def lowered(self, data: Mapping[str, Any], batch: Mapping[str, Any], *, max_steps: int) -> Any:
        """Returns the train step as it is lowered before its first batch arrives.

        Args:
            data: the shapes of the data on the device; empty if batches are sent.
            batch: the shapes of a batch with all its rows.
            max_steps: as for `send`.
        """
        steps, size = self._arrays.steps, len(batch["index"])
        program, sent = steps.train, self._placement.sent(batch, size)
        if self._evaluation.can_loop_on_device:
            num_steps = max(2, max_steps)
            program = steps.train_many
            sent = (self._placement.sent(batch, size, num_steps=num_steps), np.int32(0))
        state, key = self._arrays.take(), self.augmentation_key()
        return lower(program, state, self._window, data, sent, key)

    def compile_early(self, lowered: Any) -> None:
        """Starts to compile the train step; the first dispatch waits for it."""
        self._compilation.start(lowered)

    def begin_group(self, num_rows: int, lengths: tuple[int, ...] = ()) -> None:
        """Sets the size of each batch of the next dispatch.

        Args:
            num_rows: the number of examples, in all processes.
            lengths: to which their sequences are padded.
        """
        self._num_rows, self._lengths = num_rows, lengths

    def send(
        self,
        group: list[Batch],
        key: jax.Array,
        *,
        num_examples: int,
        max_steps: int,
    ) -> Outputs:
        """Dispatches a step for each batch, and counts the steps; waits if too many are under way.

        Args:
            group: batches of the size that was passed to `begin_group`.
            key: the epoch's `augmentation_key`.
            num_examples: the number of examples of all these batches.
            max_steps: the length to which the group is padded, so that all groups use one program.

        Returns:
            The scalars of the last step, on the device.
        """
        infos, last = self._dispatch_timed(group, key, max_steps)
        progress = self._progress
        progress.advance(num_steps=len(group), num_examples=num_examples)
        self._newest_rates = {name: last[name] for name in self._training.rate_names}
        window = None
        if progress.global_step % self._settings.log_every_n_steps == 0:
            window, self._window = self._window, self._evaluation.empty
        self._in_flight.append(
            _Dispatched(progress.global_step, group, infos, window, progress.num_examples)
        )
        if len(self._in_flight) > max_in_flight(max_steps):
            self._read(self._in_flight.popleft())
        return last

    def send_ahead(
        self, group: list[Batch], num_rows: int, lengths: tuple[int, ...], *, max_steps: int
    ) -> None:
        """Dispatches the first steps of the next epoch, while the host ends this one.

        Args:
            group: the batches.
            num_rows: as for `begin_group`.
            lengths: as for `begin_group`.
            max_steps: as for `send`, which uses the results if it gets the same batches.
        """
        if self._arrays.steps.has_size(num_rows, lengths):  # it is compiled
            key = self.augmentation_key(next_epoch=True)
            run = partial(self._run, size=num_rows, window=self._evaluation.empty, key=key)
            self._ahead.send(run, self._progress.epoch + 1, group, max_steps)

    def _dispatch_timed(
        self, group: list[Batch], key: jax.Array, max_steps: int
    ) -> tuple[Outputs, Outputs]:
        """Dispatches the steps; does not count their compilation as time of the epoch."""
        is_compiled = not self._arrays.steps.note_size(self._num_rows, self._lengths)
        ahead = self._ahead.take(self._progress.epoch, group, max_steps)
        if is_compiled:
            began = None if ahead is None else ahead.began
            self._meter.started(self._progress.num_examples, self._progress.global_step, at=began)
            if ahead is not None:
                return self._put(*ahead.results)
            return self._dispatch(group, key, max_steps)
        if self._in_flight:
            jax.block_until_ready(self._in_flight[-1].info)
        began = time.perf_counter()
        self._compilation.wait()
        results = self._dispatch(group, key, max_steps)
        self._meter.pause(time.perf_counter() - began)
        start_times.end("compilation")
        start_times.report()
        return results

    def _dispatch(
        self, group: list[Batch], key: jax.Array, max_steps: int
    ) -> tuple[Outputs, Outputs]:
        """Sends the batches, and dispatches the steps.

        Returns:
            The scalars of all steps, and those of the last one.
        """
        state, size = self._arrays.take(), self._num_rows
        return self._put(
            *self._run(state, group, max_steps, size=size, window=self._window, key=key)
        )

    def _put(
        self, state: State, window: Any, infos: Outputs, last: Outputs
    ) -> tuple[Outputs, Outputs]:
        self._arrays.put(state)
        self._window = window
        return infos, last

    def _run(
        self,
        state: State,
        group: list[Batch],
        max_steps: int,
        *,
        size: int,
        window: Any,
        key: jax.Array,
    ) -> Results:
        """Dispatches steps on batches of a size; the steps donate the state."""
        steps = self._arrays.steps
        last_step = self._progress.global_step + len(group)
        with jax.profiler.StepTraceAnnotation("train", step_num=last_step):
            if not self._evaluation.can_loop_on_device:
                batch = self._placement.send(group[0], size)
                state, window, last = steps.train(state, window, self.data, batch, key)
                return state, window, last, last
            together = stacked(group, max_steps)
            sent = (self._placement.send(together, size, stacked=True), np.int32(len(group)))
            results: Results = steps.train_many(state, window, self.data, sent, key)
            return results

    def gradients(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Returns the gradients of a train step on a batch, at the current parameters."""
        sent = self._placement.send(dict(batch), self._num_rows)
        return self._arrays.steps.gradients(self._arrays.take(), sent, self.augmentation_key())

    # ---- Results ------------------------------------------------------------------------------

    def note_wait(self, seconds: float) -> None:
        """Counts the time spent waiting for a batch, if the device was idle."""
        if not self._in_flight or is_ready(self._in_flight[-1].info["loss"]):
            self._meter.wait(seconds)

    def pause(self, seconds: float) -> None:
        """Leaves time that was not spent on training out of the speed of the epoch."""
        self._meter.pause(seconds)

    def read_all(self, *, publishes: bool = True) -> None:
        """Waits for all steps under way, and raises if one was not finite."""
        while self._in_flight:
            self._read(self._in_flight.popleft(), publishes=publishes)

    def _read(self, done: _Dispatched, *, publishes: bool = True) -> None:
        """Waits for dispatched steps; at a log point, reads and publishes their metrics."""
        info = {name: np.atleast_1d(value) for name, value in jax.device_get(done.info).items()}
        num = len(done.batches)
        is_bad = ~info["is_finite"][:num]
        if self._settings.max_skipped:
            is_bad = info["skipped_in_row"][:num] > self._settings.max_skipped
        if self._settings.check_finite and is_bad.any():
            first = int(np.argmax(is_bad))
            batch = self._complete(done.batches[first])
            number = done.step - num + first + 1
            loss = float(info["loss"][first])
            raise non_finite_step(loss, number, batch, self._arrays.named())
        self._meter.finished(done.num_examples, done.step)
        self._rates_read = {name: float(info[name][num - 1]) for name in self._training.rate_names}
        if done.window is not None:
            window = jax.device_get(done.window)
            self._meter.add(window)
            metrics = {
                f"train/{name}_step": value
                for name, value in (computed(window) if self._has_values(window) else {}).items()
                if "/" not in name  # those of single classes appear at the end of the epoch
            }
            metrics |= self._speed(self._meter.window_rates())
            if publishes:
                self._progress.publish(metrics, done.step)

    def learning_rates(self) -> dict[str, float]:
        """Waits for the newest step that was dispatched, and returns its learning rates.

        They include the other metrics in the optimizer's state, such as `grad_norm`.
        """
        rates = self._newest_rates
        if not rates and self._arrays.optimizer is not None:  # before the first step
            rates = self._arrays.steps.learning_rates(self._arrays.take())
        return {name: float(rate) for name, rate in rates.items()}

    def _speed(self, rates: dict[str, float]) -> dict[str, float]:
        """Returns the learning rates, and the metrics of the speed of the steps."""
        speed = rates.get("perf/images_per_second")
        if speed is not None:
            per_device = speed / self._placement.num_devices
            used = flops_utilization(per_device, self._training.example_flops)
            rates |= {} if used is None else {"perf/mfu": used}
        # Before the first step after a resume, no rate has been read.
        return dict(self._rates_read or self.learning_rates()) | rates

    # ---- The metrics of an epoch ----------------------------------------------------------------

    def begin_epoch(self) -> None:
        """Starts the sums and the clock of a new epoch."""
        self._meter = EpochMeter(jax.device_get(self._evaluation.empty))
        self._window = self._evaluation.empty

    def end_epoch(self) -> dict[str, float]:
        """Returns the metrics of the whole epoch; call it after `read_all`."""
        self._meter.add(jax.device_get(self._window))
        self._window = self._evaluation.empty
        metrics = {}
        if self._has_values(self._meter.total):
            metrics = {f"train/{name}": value for name, value in self._meter.values().items()}
        else:
            logger.warning(
                "Every step of epoch %d was skipped, because none was finite: the epoch has no "
                "training metrics.", self._progress.epoch,
            )  # fmt: skip
        return metrics | self._speed(self._meter.epoch_rates())

    def _has_values(self, metrics: Any) -> bool:
        """Returns whether not all steps that contributed to metrics on the host were skipped."""
        may_skip = self._settings.max_skipped > 0
        return not may_skip or has_values(metrics, jax.device_get(self._evaluation.empty))

    def sums(self) -> dict[str, np.ndarray[Any, Any]]:
        """Returns the sums of the open epoch by name, such as "epoch/loss/total"."""
        parts = {"window": self._window, "epoch": self._meter.total}
        found, _ = jax.tree_util.tree_flatten_with_path(parts)
        return {_name(path): np.array(leaf) for path, leaf in found}

    def restore_sums(self, sums: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Continues an open epoch with the values that `sums` returned."""
        parts = {"window": self._window, "epoch": self._meter.total}
        parts = jax.tree_util.tree_map_with_path(lambda path, _: sums[_name(path)], parts)
        whole = self._placement.replicated
        self._window = jax.tree.map(lambda leaf: placed(leaf, whole), parts["window"])
        self._meter = EpochMeter(parts["epoch"])


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def max_in_flight(max_steps: int) -> int:
    """Returns how many dispatches may be under way; one long one is enough to hide host work."""
    return MAX_IN_FLIGHT if max_steps == 1 else 1
