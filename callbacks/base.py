"""`Callback`: the base class of all callbacks; every hook is a documented no-op."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from nnx_alexnet.support import check_integer, constructor_text

if TYPE_CHECKING:
    import optax

    from nnx_alexnet.data import Batch
    from nnx_alexnet.trainer import Trainer

Stage = Literal["fit", "validate", "test", "predict"]

# A `batch_period`: the train batch hooks run after every dispatch, at whatever step that is.
BETWEEN_DISPATCHES = 0


class Callback:
    """Base class of all callbacks; a subclass overrides the hooks that it needs.

    `callbacks/README.md` shows the order of the hooks. All hooks share these arguments:

    - `trainer`: the running `Trainer`. Its counters, metrics and arrays are public attributes.
      `trainer.model` is valid until the hook returns.
    - `batch`: a dict of NumPy arrays, such as `image` [B, ...], `label` [B], `mask` bool[B] and
      `index` int32[B]. If the data are on the device, a field is read on first access.
    - `batch_index`: the position of the batch in its epoch, from 0.
    - `outputs`: what the compiled step returned. The arrays are on the device and may not be
      computed yet: reading them waits for the step. Prefer `trainer.metrics`.

    Attributes:
        priority: the position in the callback order; lower runs first (default 0), equal ones in
            the order of the list. `EarlyStopping` has 50, so that it can monitor what others
            publish. Callbacks that save have 100, so that they run after all others.
        every_n_steps: the period of the train batch hooks, in optimizer steps: they run when the
            number of steps, counted after the step, is a multiple of it. None: every step.
        metric_names: the metrics that this callback publishes through `trainer.log`.

    Example:
        >>> from nnx_alexnet.callbacks import Callback
        >>> class PrintLoss(Callback):
        ...     def on_train_epoch_end(self, trainer):
        ...         print(trainer.epoch, trainer.metrics["train/loss"])
    """

    priority: int = 0
    every_n_steps: int | None = None
    metric_names: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuses a hook with an unknown name or other arguments, which would never run."""
        super().__init_subclass__(**kwargs)
        check_integer("every_n_steps", cls.__dict__.get("every_n_steps"), also=(None,))
        for name, function in cls.__dict__.items():
            if inspect.isfunction(function) and (name in HOOKS or name.startswith("on_")):
                _check_hook(cls, name, function)

    def __repr__(self) -> str:
        return constructor_text(self)

    @property
    def batch_period(self) -> int | None:
        """The period of the train batch hooks in steps; by default `every_n_steps`, or 1.

        The steps in between may run in one dispatch. None: the hooks never run.
        `BETWEEN_DISPATCHES` (0): they run after every dispatch, for callbacks that depend on the
        clock.
        """
        return self.every_n_steps or 1

    @property
    def state_key(self) -> str:
        """The name of this callback's state in a checkpoint; unique among the callbacks."""
        return type(self).__qualname__

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs, as JSON-able values; never constructor arguments."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; called on resume, after `on_fit_start`."""

    def configure_optimizer(
        self, trainer: Trainer, optimizer: optax.GradientTransformation
    ) -> optax.GradientTransformation:
        """Returns the optimizer to train with, such as a transformation that wraps `optimizer`.

        Called when the Trainer is built, in callback order. `trainer.data` and
        `trainer.parameters()` can be read; the run has no folder and no state yet.
        """
        return optimizer

    def setup(self, trainer: Trainer, stage: Stage) -> None:
        """Called first in `fit`, `validate`, `test` and `predict`: check arguments here.

        In `fit`, nothing has been compiled or written yet, and `trainer.run_dir` is None.
        """

    def teardown(self, trainer: Trainer, stage: Stage) -> None:
        """Called last, also after an exception: close files here."""

    def on_fit_start(self, trainer: Trainer) -> None:
        """Called once before training: reset state here.

        `trainer.run_dir` is known. On resume, the saved states are restored after this hook.
        """

    def on_fit_end(self, trainer: Trainer) -> None:
        """Called once after `on_train_end` and the last save; not after an exception."""

    def on_train_start(self, trainer: Trainer) -> None:
        """Called before the first epoch.

        On resume, the counters, the parameters and the states of the callbacks are restored.
        """

    def on_train_end(self, trainer: Trainer) -> None:
        """Called after the last epoch, also if the run stopped early or was interrupted.

        `trainer.request_checkpoint()` saves the last state.
        """

    def on_train_epoch_start(self, trainer: Trainer) -> None:
        """Called before the first batch of an epoch.

        A resumed run may begin within an epoch; then `trainer.step_in_epoch` is not 0.
        """

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        """Called after an epoch and the validation that was due, with their metrics published.

        `trainer.epoch` is still the number of this epoch. Metrics that `trainer.log` publishes
        here are part of the epoch's row in `trainer.history`. A checkpoint that is requested here
        is saved after all callbacks have run. If a callback stops the run at the end of an epoch
        without validation, a validation follows this hook.
        """

    def on_train_batch_start(self, trainer: Trainer, batch: Batch, batch_index: int) -> None:
        """Called before a train step; see `every_n_steps`.

        `trainer.global_step` does not count the step yet, so `trainer.log` publishes under the
        number of the step before. `trainer.gradients(batch)` returns the gradients before the
        update: those that this step passes to the optimizer.
        """

    def on_train_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Called after a train step, which `trainer.global_step` counts; see `every_n_steps`.

        `trainer.parameters()` returns the updated parameters. `trainer.gradients(batch)` returns
        the gradients after the update, at these parameters; for those that the optimizer saw, use
        `on_train_batch_start`. `trainer.request_checkpoint()` saves the state after this step, and
        `trainer.stop(reason)` makes this step the last one.
        """

    def on_validation_start(self, trainer: Trainer) -> None:
        """Called before each validation, in `fit` and in `validate`.

        Change the model for the validation here (such as averaged parameters), and undo it in
        `on_validation_end`.
        """

    def on_validation_end(self, trainer: Trainer) -> None:
        """Called after `on_validation_epoch_end`.

        Also runs if the validation was interrupted; then there are no new metrics.
        """

    def on_validation_epoch_start(self, trainer: Trainer) -> None:
        """Called before the first validation batch."""

    def on_validation_epoch_end(self, trainer: Trainer) -> None:
        """Called after the last validation batch, with the `val/` metrics published.

        In `fit`, the `train/` metrics of the epoch are published too.
        """

    def on_validation_batch_start(self, trainer: Trainer, batch: Batch, batch_index: int) -> None:
        """Called before each validation batch.

        With several validation sets, the hooks at the start and the end run once around all of
        them, and those of batches for each set in turn: `trainer.evaluated_split` is then
        "val/clean", for example, and `batch_index` starts at 0 again.
        """

    def on_validation_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Called after each validation batch; collect per-example `outputs` here."""

    def on_test_start(self, trainer: Trainer) -> None:
        """Called before testing."""

    def on_test_end(self, trainer: Trainer) -> None:
        """Called after `on_test_epoch_end`."""

    def on_test_epoch_start(self, trainer: Trainer) -> None:
        """Called before the first test batch."""

    def on_test_epoch_end(self, trainer: Trainer) -> None:
        """Called after the last test batch, with the `test/` metrics published."""

    def on_test_batch_start(self, trainer: Trainer, batch: Batch, batch_index: int) -> None:
        """Called before each test batch."""

    def on_test_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Called after each test batch."""

    def on_predict_start(self, trainer: Trainer) -> None:
        """Called before prediction."""

    def on_predict_end(self, trainer: Trainer) -> None:
        """Called after `on_predict_epoch_end`."""

    def on_predict_epoch_start(self, trainer: Trainer) -> None:
        """Called before the first prediction batch."""

    def on_predict_epoch_end(self, trainer: Trainer) -> None:
        """Called after the last prediction batch."""

    def on_predict_batch_start(self, trainer: Trainer, batch: Batch, batch_index: int) -> None:
        """Called before each prediction batch."""

    def on_predict_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Called after each prediction batch; `outputs` are the predictions."""

    def on_log(self, trainer: Trainer, metrics: Mapping[str, float], step: int) -> None:
        """Called whenever metrics are published: forward them to a logger here.

        `trainer.log` in this hook calls it again.

        Args:
            trainer: the running trainer.
            metrics: values by name.
            step: the optimizer step of the metrics. At a log point within an epoch,
                `trainer.global_step` may already be larger.
        """

    def on_exception(self, trainer: Trainer, exception: BaseException) -> None:
        """Called before `teardown` when `exception` ends the run; also on a Ctrl-C that raises."""


HOOKS: tuple[str, ...] = tuple(
    name for name in vars(Callback) if name.startswith("on_") or name in ("setup", "teardown")
)


def last_step(trainer: Trainer) -> int | None:
    """Returns the step at which the fit will end, None if that is not known.

    Example:
        >>> from types import SimpleNamespace
        >>> from nnx_alexnet.callbacks.base import last_step
        >>> last_step(SimpleNamespace(max_steps=None, max_epochs=3, steps_per_epoch=10))
        30
    """
    ends = []
    if trainer.max_steps is not None:
        ends.append(trainer.max_steps)
    if trainer.max_epochs is not None and trainer.steps_per_epoch is not None:
        ends.append(trainer.max_epochs * trainer.steps_per_epoch)
    return min(ends, default=None)


def _check_hook(cls: type[Callback], name: str, function: Callable[..., Any]) -> None:
    if name not in HOOKS:
        near = difflib.get_close_matches(name, HOOKS, n=1, cutoff=0.0)[0]
        raise TypeError(
            f"`{cls.__qualname__}.{name}` is not a hook and would never be called; did you mean "
            f"`{near}`? The name of a method that is not a hook must not start with `on_`."
        )
    arguments = list(inspect.signature(getattr(Callback, name)).parameters)
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise TypeError(
            f"`{cls.__qualname__}.{name}` must accept ({', '.join(arguments)}): {error}."
        ) from None
