"""`EvaluationLoop`: one pass over a split, for validation, test and prediction."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from typing import Any

import jax
import numpy as np

from nnx_alexnet.data import Batch, Loader, padded_size
from nnx_alexnet.devices import Placement
from nnx_alexnet.task import Outputs
from nnx_alexnet.training.dispatcher import MAX_IN_FLIGHT
from nnx_alexnet.training.epoch_metrics import computed
from nnx_alexnet.training.hooks import Hooks
from nnx_alexnet.training.model_arrays import ModelArrays
from nnx_alexnet.training.progress import Progress
from nnx_alexnet.training.requests import Requests
from nnx_alexnet.training.split_rows import SplitRows

CheckBatch = Callable[[Loader, Batch], None]

# Each wait for a result costs two thread switches, about 40 microseconds on a busy CPU.
_MOST_TOGETHER = 16
# Batches and results stay in memory until they are read, and a stop waits for them.
_MOST_BYTES_TOGETHER = 4 * 2**20


class EvaluationLoop:
    """Runs a compiled step on every batch of a split, and calls the hooks around it.

    Args:
        arrays: the model's arrays, which are not changed.
        progress: contains the step, in `fit`.
        requests: a signal ends a pass between two batches.
        hooks: the callbacks.
        placement: the devices.
        check_batch: raises if the labels of a batch cannot be evaluated.
        passes: numbers the passes outside of `fit`, so that each draws its own noise.
    """

    def __init__(
        self,
        *,
        arrays: ModelArrays,
        progress: Progress,
        requests: Requests,
        hooks: Hooks,
        placement: Placement,
        check_batch: CheckBatch,
        passes: Iterator[int],
    ) -> None:
        self._arrays = arrays
        self._progress = progress
        self._requests = requests
        self._hooks = hooks
        self._placement = placement
        self._check_batch = check_batch
        self._passes = passes

    def evaluate(self, kind: str, loaders: Mapping[str, Loader], empty: Any) -> dict[str, float]:
        """Computes the metrics over one split, or over several in a row.

        The hooks at the start are called once, before the first split.

        Args:
            kind: names the hooks: "validation" or "test".
            loaders: the splits by the prefix of their metrics, such as "val" or "val/clean".
            empty: the metrics before any batch.

        Returns:
            The metrics by name; none if a signal interrupted a pass. Publish them, then call `end`.
        """
        found: dict[str, float] = {}
        try:
            for number, (split, loader) in enumerate(loaders.items()):
                self._progress.evaluated_split = split
                values = self._metrics(kind, loader, empty, is_first=number == 0)
                if self._requests.is_cut_short:
                    return {}
                found |= {f"{split}/{name}": value for name, value in values.items()}
        finally:
            self._progress.evaluated_split = None
        return found

    def _metrics(
        self, kind: str, loader: Loader, empty: Any, *, is_first: bool
    ) -> dict[str, float]:
        """Returns the metrics over a split by their own names; none if a signal interrupted it."""
        metrics = empty
        carried: list[jax.Array] | None = None

        def step(batch: Any) -> Outputs:
            nonlocal carried, metrics
            leaves, steps = self._arrays.evaluation_leaves(), self._arrays.steps
            if carried is None:  # not earlier: hooks may change the model before the first batch
                carried = steps.begin_pass("evaluate", leaves, self._pass_number())
            outputs: Outputs
            carried, metrics, outputs = steps.evaluate(leaves, carried, metrics, batch)
            return outputs

        rows = SplitRows(self._arrays.steps.split_metrics, self._placement.whole)
        for outputs, counts in self._pass(kind, loader, step, is_first=is_first):
            jax.block_until_ready(outputs)  # limits the batches in memory
            rows.add(outputs, counts)
        return {} if self._requests.is_cut_short else computed(metrics) | rows.values()

    def predict(self, loader: Loader, *, at_once: bool = False) -> Generator[Any, None, None]:
        """Yields the task's predictions for each batch as NumPy, without padding and in order.

        Closing the generator early ends the pass like its last batch.

        Args:
            loader: the split.
            at_once: whether the caller collects all predictions before it uses any, so that the
                results of several small batches may be read together (default False).
        """
        steps = self._arrays.steps
        leaves: list[jax.Array] = []
        carried: list[jax.Array] | None = None

        is_cpu = jax.default_backend() == "cpu"

        def step(batch: Any) -> Any:
            nonlocal leaves, carried
            if carried is None:  # as in `evaluate`; the caller may change the model after that
                leaves = self._arrays.take().model
                carried = steps.begin_pass("predict", leaves, self._pass_number())
            carried, predictions = steps.predict(leaves, carried, batch)
            if not is_cpu:  # on a CPU, the host reads the same memory
                for array in jax.tree.leaves(predictions):
                    array.copy_to_host_async()  # while the next batches are computed
            return predictions

        results = self._pass("predict", loader, step, is_stream=not at_once)
        with closing(loader), suppress(GeneratorExit), closing(results):
            for predictions, counts in results:
                yield jax.tree.map(partial(_rows, counts=counts), predictions)
        self.end("predict")

    def end(self, kind: str) -> None:
        """Calls the hooks at the end of a pass, after its metrics were published."""
        self._hooks.call(f"on_{kind}_epoch_end")
        self._hooks.call(f"on_{kind}_end")

    def _pass(
        self,
        kind: str,
        loader: Loader,
        step: Callable[[Any], Any],
        *,
        is_first: bool = True,
        is_stream: bool = False,
    ) -> Generator[tuple[Any, np.ndarray[Any, Any]], None, None]:
        """Yields `step(batch)` for each batch of a split, and the mask of its rows without padding.

        The results are yielded late, while those of the next batches are computed. If the batches
        are small, several are yielded at a time: each wait takes longer than a tiny step.

        Args:
            kind: names the hooks.
            loader: the split.
            step: dispatches a batch.
            is_first: whether the hooks at the start are called.
            is_stream: whether each result is yielded `MAX_IN_FLIGHT` batches late instead.
        """
        placement = self._placement
        smallest = padded_size(loader.batch_size, placement.num_parts)
        is_prediction = kind == "predict"
        batches = loader.batches(
            multiple=placement.num_parts, part=placement.rows, skips=not is_prediction
        )
        part = placement.rows(smallest)
        if is_first:
            self._hooks.call(f"on_{kind}_start")
            self._hooks.call(f"on_{kind}_epoch_start")
        in_flight: deque[tuple[Any, np.ndarray[Any, Any]]] = deque()
        num_together = 1
        for index, batch in enumerate(batches):
            if self._requests.is_cut_short:
                break
            if not is_prediction:
                self._check_batch(loader, batch)
            self._hooks.call(f"on_{kind}_batch_start", batch, index)
            size = max(smallest, len(batch["index"]))  # an iterable may have larger batches
            outputs = step(placement.send(batch, size))
            in_flight.append((outputs, _counting(loader, index, batch, size)))
            # Each process has the predictions for the whole batch.
            own = placement.own_rows(outputs, part if is_prediction else None)
            self._hooks.call(f"on_{kind}_batch_end", own, batch, index)
            self._requests.settle(at_most=MAX_IN_FLIGHT)
            if index == 0 and not is_stream:
                num_together = _num_together((batch, outputs))
            if len(in_flight) > MAX_IN_FLIGHT * num_together:
                yield from (in_flight.popleft() for _ in range(num_together))
        yield from in_flight
        self._requests.settle()

    def _pass_number(self) -> int:
        """Returns a number that distinguishes this pass from others.

        In `fit` it is the step, so that a resumed run draws the same noise as an uninterrupted
        run.
        """
        if self._arrays.optimizer is not None:
            return self._progress.global_step
        return -next(self._passes)


def _rows(array: jax.Array, *, counts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns a copy of the rows that are not padding."""
    return np.array(array) if counts.all() else np.asarray(array)[counts]


def _num_together(arrays: Any) -> int:
    """Returns how many results to wait for together, given the first batch and its result."""
    num_bytes: int = sum(array.nbytes for array in jax.tree.leaves(arrays))
    return max(1, min(_MOST_TOGETHER, _MOST_BYTES_TOGETHER // num_bytes))


def _counting(loader: Loader, number: int, batch: Batch, size: int) -> np.ndarray[Any, Any]:
    """Returns the mask of the rows of a whole batch that are not padding, bool[size].

    Args:
        loader: the loader of the batch.
        number: the number of the batch, from 0.
        batch: the rows that this process has read.
        size: the number of rows of the whole batch.
    """
    mask: np.ndarray[Any, Any] = batch["mask"]
    if len(mask) == size:
        return mask
    return np.arange(size) < loader.count(number, batch)
