"""`ValidateAtStart`: validates before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnx_alexnet.callbacks.base import Callback

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer


class ValidateAtStart(Callback):
    """Validates before the first step of a run: a check of the validation, and a baseline.

    The whole validation split is evaluated, its metrics are published at step 0, and the history
    begins with a row of step 0. A resumed run that has trained already does not repeat it.

    Example:
        >>> from nnx_alexnet.callbacks import ValidateAtStart
        >>> callbacks = [ValidateAtStart()]
    """

    def on_train_start(self, trainer: Trainer) -> None:
        """Requests the validation of a new run."""
        if trainer.global_step == 0:
            trainer.request_validation()
