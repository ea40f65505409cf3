"""`Lifecycle`: the start and the end of each verb: `fit`, `validate`, `test`, `predict`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

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
        self._hooks = hooks
        self._arrays = arrays
        self._data = data
        self._placement = placement

    def check_idle(self) -> None:
        """Raises `RuntimeError` if a verb is already running."""
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
        failure: BaseException | None = None
        self.is_running = True
        try:
            # A user's transfer guard must not refuse the transfers of the trainer.
            with self._placement.context(), jax.transfer_guard("allow"):
                self._hooks.call("setup", stage)
                yield
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
                stack.callback(self._arrays.end_training)
                self._arrays.lend()

    def _rest(self) -> None:
        self.is_running = False
