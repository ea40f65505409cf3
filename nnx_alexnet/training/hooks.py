"""`Hooks`: the callbacks of one trainer, called with that trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnx_alexnet.callbacks import Callback, CallbackList
from nnx_alexnet.support import logger

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer


class Hooks:
    """Passes the trainer to the hooks, so that no part of the trainer needs a reference to it.

    Args:
        callbacks: all callbacks of the run.
        trainer: the first argument of every hook.

    Attributes:
        callbacks: the same list; it also returns which hooks are due.
    """

    def __init__(self, callbacks: CallbackList, trainer: Trainer) -> None:
        self.callbacks = callbacks
        self._trainer = trainer

    def of(self, callbacks: Sequence[Callback]) -> Hooks:
        """Returns hooks of other callbacks, which get the same trainer."""
        return Hooks(CallbackList(callbacks), self._trainer)

    def call(self, hook: str, *arguments: Any) -> None:
        """Calls a hook on every callback that overrides it.

        Args:
            hook: the name of the hook, such as "on_train_start".
            *arguments: the arguments of the hook after the trainer.
        """
        self.callbacks.call(hook, self._trainer, *arguments)

    def train_batch(self, hook: str, step: int, *arguments: Any) -> None:
        """Calls a train batch hook on the callbacks that are due at a step."""
        self.callbacks.train_batch(hook, step, self._trainer, *arguments)

    def clean_up(self, failure: BaseException | None, hook: str, *arguments: Any) -> None:
        """Calls a hook; its error must not hide the error that ended the run."""
        try:
            self.call(hook, *arguments)
        except Exception as error:
            if failure is None:
                raise
            logger.error("`%s` also failed: %r", hook, error)
