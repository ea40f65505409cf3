"""`Lifecycle`: the start and the end of each verb: `fit`, `validate`, `test`, `predict`."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax

from nnx_alexnet.callbacks import Stage
from nnx_alexnet.data import DataModule
from nnx_alexnet.devices import Placement
from nnx_alexnet.training.hooks import Hooks
from nnx_alexnet.training.model_arrays import ModelArrays


class Lifecycle:
    """Sets up the callbacks, and cleans up however the verb ends.

    Args:
        hooks: the callbacks.
        arrays: the arrays of the model; at the end they are put back into the caller's object.
        data: the splits; at the end their worker processes are stopped.
        placement: the devices.

    Attributes:
        is_running: whether a verb is running.
    """

    def __init__(
        self, hooks: Hooks, arrays: ModelArrays, data: DataModule, placement: Placement
    ) -> None:
        self.is_running = False
        self._is_paused = False  # whether the caller has control during a stream
        self._hooks = hooks
        self._arrays = arrays
        self._data = data
        self._placement = placement

    def check_idle(self) -> None:
        """Raises `RuntimeError` if a verb is already running."""
        if self._is_paused:
            raise RuntimeError(
                "`predict_batches` of this Trainer is still running: take all of its batches, or "
                "end it with the iterator's `close()`."
            )
        if self.is_running:
            raise RuntimeError(
                "This Trainer is running: a hook cannot call its `fit`, `validate`, `test` or "
                "`predict`. Set the validation with `validate_every_n_epochs`, or call "
                "`trainer.model` directly."
            )

    @contextmanager
    def running(self, stage: Stage) -> Iterator[None]:
        """Runs the body of a verb between `setup` and `teardown` of the callbacks.

        Args:
            stage: the verb, as hooks receive it.
        """
        with self._cleaning_up(stage), self._context():
            self._hooks.call("setup", stage)
            yield

    def stream(
        self, stage: Stage, results: Generator[Any, None, None]
    ) -> Generator[Any, None, None]:
        """Runs a verb whose results the caller takes one by one.

        The verb has begun when this returns. It ends after the last result, when the caller closes
        or drops the iterator, or by an exception. Between two results, the caller's own mesh and
        transfer guard are in effect.

        Args:
            stage: the verb, as hooks receive it.
            results: computes the results; it is closed at the end.

        Returns:
            The results.
        """
        stream = self._stream(stage, results)
        next(stream)  # a generator that has not begun would not clean up
        return stream

    def _stream(
        self, stage: Stage, results: Generator[Any, None, None]
    ) -> Generator[Any, None, None]:
        with self._cleaning_up(stage):
            with self._context():
                self._hooks.call("setup", stage)
            try:
                result = None
                while result is not _END:
                    self._is_paused = True
                    yield result
                    self._is_paused = False
                    with self._context():
                        result = next(results, _END)
            finally:
                self._is_paused = False
                with self._context():
                    results.close()

    @contextmanager
    def _context(self) -> Iterator[None]:
        """Hides the caller's mesh and transfer guard, which could refuse the trainer's work."""
        with self._placement.context(), jax.transfer_guard("allow"):
            yield

    @contextmanager
    def _cleaning_up(self, stage: Stage) -> Iterator[None]:
        """Marks the verb as running in the block, and cleans up after it."""
        failure: BaseException | None = None
        self.is_running = True
        try:
            yield
        except GeneratorExit:  # the caller needs no more results
            raise
        except BaseException as error:
            failure = error
            raise
        finally:
            # The arrays are put back first. Then everything on the stack runs, the last entry
            # first, even if an entry raises.
            with ExitStack() as stack:
                stack.callback(self._rest)
                stack.callback(self._hooks.clean_up, failure, "teardown", stage)
                if failure is not None:
                    stack.callback(self._hooks.clean_up, failure, "on_exception", failure)
                stack.callback(self._data.close)
                self._arrays.end_training()

    def _rest(self) -> None:
        self.is_running = False


_END = object()  # the results of a stream are exhausted
