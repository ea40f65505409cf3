"""`EvaluationLoop`: one pass over a split, for validation, test and prediction."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from typing import Any

import jax

from nnx_alexnet.data import Batch, Loader, padded_size
from nnx_alexnet.devices import Placement
from nnx_alexnet.task import Outputs
from nnx_alexnet.training.dispatcher import MAX_IN_FLIGHT
from nnx_alexnet.training.epoch_metrics import computed
from nnx_alexnet.training.hooks import Hooks
from nnx_alexnet.training.model_arrays import ModelArrays
from nnx_alexnet.training.progress import Progress
from nnx_alexnet.training.requests import Requests

CheckBatch = Callable[[Loader, Batch], None]


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

    def evaluate(self, kind: str, split: str, loader: Loader, empty: Any) -> dict[str, float]:
        """Computes the metrics over a split.

        Args:
            kind: names the hooks: "validation" or "test".
            split: the prefix of the metrics: "val" or "test".
            loader: the split.
            empty: the metrics before any batch.

        Returns:
            The metrics by name; none if a signal interrupted the pass. Publish them, then call
            `end`.
        """
        metrics = empty
        carried: list[jax.Array] | None = None

        def step(batch: Any) -> Outputs:
            nonlocal carried, metrics
            leaves, steps = self._arrays.take().model, self._arrays.steps
            if carried is None:  # not earlier: hooks may change the model before the first batch
                carried = steps.begin_pass("evaluate", leaves, self._pass_number())
            outputs: Outputs
            carried, metrics, outputs = steps.evaluate(leaves, carried, metrics, batch)
            return outputs

        for _ in self._pass(kind, loader, step):
            pass
        if self._requests.is_cut_short:
            return {}
        return {f"{split}/{name}": value for name, value in computed(metrics).items()}

    def predict(self, loader: Loader) -> Generator[Any, None, None]:
        """Yields the task's predictions for each batch as NumPy, without padding and in order.

        Closing the generator early ends the pass like its last batch.
        """
        steps = self._arrays.steps
        leaves: list[jax.Array] = []
        carried: list[jax.Array] | None = None

        def step(batch: Any) -> Any:
            nonlocal leaves, carried
            if carried is None:  # as in `evaluate`; the caller may change the model after that
                leaves = self._arrays.take().model
                carried = steps.begin_pass("predict", leaves, self._pass_number())
            carried, predictions, mask = steps.predict(leaves, carried, batch)
            masks.append(mask)
            return predictions

        masks: deque[jax.Array] = deque()
        results = self._pass("predict", loader, step)
        with closing(loader), suppress(GeneratorExit), closing(results):
            for predictions in results:
                rows, keep = jax.device_get((predictions, masks.popleft()))
                yield jax.tree.map(lambda row, keep=keep: row[keep], rows)
        self.end("predict")

    def end(self, kind: str) -> None:
        """Calls the hooks at the end of a pass, after its metrics were published."""
        self._hooks.call(f"on_{kind}_epoch_end")
        self._hooks.call(f"on_{kind}_end")

    def _pass(
        self, kind: str, loader: Loader, step: Callable[[Any], Any]
    ) -> Generator[Any, None, None]:
        """Yields `step(batch)` for each batch of a split.

        The results are yielded `MAX_IN_FLIGHT` batches late, when they are ready.
        """
        placement = self._placement
        smallest = padded_size(loader.batch_size, placement.num_parts)
        is_prediction = kind == "predict"
        batches = loader.batches(
            multiple=placement.num_parts, part=placement.rows, skips=not is_prediction
        )
        part = placement.rows(smallest)
        self._hooks.call(f"on_{kind}_start")
        self._hooks.call(f"on_{kind}_epoch_start")
        in_flight: deque[Any] = deque()
        for index, batch in enumerate(batches):
            if self._requests.is_cut_short:
                break
            if not is_prediction:
                self._check_batch(loader, batch)
            self._hooks.call(f"on_{kind}_batch_start", batch, index)
            size = max(smallest, len(batch["index"]))  # an iterable may have larger batches
            outputs = step(placement.send(batch, size))
            in_flight.append(outputs)
            # Each process has the predictions for the whole batch.
            own = placement.own_rows(outputs, part if is_prediction else None)
            self._hooks.call(f"on_{kind}_batch_end", own, batch, index)
            self._requests.settle(at_most=MAX_IN_FLIGHT)
            if len(in_flight) > MAX_IN_FLIGHT:
                yield jax.block_until_ready(in_flight.popleft())
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
