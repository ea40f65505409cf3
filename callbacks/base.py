"""`Callback`: every hook as a documented no-op; `CallbackList`: the one place that calls them."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from nnx_alexnet.support import check_metric_name, check_plain, logger, unknown

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer

Stage = Literal["fit", "validate", "test", "predict"]
Batch = Mapping[str, Any]

# A `batch_period`: whenever the host is there between two dispatches, at whatever step that is.
BETWEEN_DISPATCHES = 0

# A failure in one of these must not keep the other callbacks from closing their files.
_CLEANUP_HOOKS = ("on_exception", "teardown")


class Callback:
    """Base class of all callbacks; a subclass overrides the hooks that it needs.

    The order of the hooks is in `callbacks/README.md`. All metrics of an epoch are published (in
    `trainer.metrics`, and through `on_log`) before any `on_validation_epoch_end` or
    `on_train_epoch_end`.

    The hooks' arguments are the same throughout:

    - `trainer`: the `Trainer` that runs; `trainer.model` is valid until the hook returns.
    - `batch`: dict of NumPy arrays `image` [B, ...], `label` [B], `mask` bool[B], `index` int32[B].
    - `batch_index`: the batch's number in its epoch, from 0.
    - `outputs`: what the compiled step returned. It is on the device and may not be ready: reading
      it waits for the step, so read `trainer.metrics` instead where you can.

    Attributes:
        priority: lower runs first (default 0). `EarlyStopping` has 50, so that it can monitor what
            others publish; callbacks that save have 100, so that they see all others done.
            Callbacks of equal priority run in the order of the list.
        every_n_steps: call the train batch hooks only when the number of optimizer steps, counted
            after the step, is a multiple of this. None: at each step.
        metric_names: the metrics that this callback publishes itself through `trainer.log`.

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
        """Refuses a hook that does not exist or takes other arguments: it would never run."""
        super().__init_subclass__(**kwargs)
        check_period("every_n_steps", cls.__dict__.get("every_n_steps"))
        for name, function in cls.__dict__.items():
            if inspect.isfunction(function) and (name in HOOKS or name.startswith("on_")):
                _check_hook(cls, name, function)

    @property
    def batch_period(self) -> int | None:
        """The train batch hooks run each so many steps, exactly; from `every_n_steps`.

        Steps between them may be one dispatch. None: never. `BETWEEN_DISPATCHES` (0): after each
        dispatch, for a callback that looks at the clock.
        """
        return self.every_n_steps or 1

    @property
    def state_key(self) -> str:
        """The name under which a checkpoint holds this callback's state; one for each callback."""
        return type(self).__qualname__

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run must know, as JSON-able values: state, never arguments."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave; called on resume, after `on_fit_start`."""

    def setup(self, trainer: Trainer, stage: Stage) -> None:
        """Called first in `fit`, `validate`, `test` and `predict`: check arguments here."""

    def teardown(self, trainer: Trainer, stage: Stage) -> None:
        """Called last, also after an exception: close files here."""

    def on_fit_start(self, trainer: Trainer) -> None:
        """Called once before training, before states are restored: reset state here."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """Called once after `on_train_end` and the last save; not after an exception."""

    def on_train_start(self, trainer: Trainer) -> None:
        """Called before the first epoch; restored states are in place."""

    def on_train_end(self, trainer: Trainer) -> None:
        """Called after the last epoch, also when training was stopped early."""

    def on_train_epoch_start(self, trainer: Trainer) -> None:
        """Called before the first batch of each epoch."""

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        """Called after each epoch and the validation that was due, with their metrics published."""

    def on_train_batch_start(self, trainer: Trainer, batch: Batch, batch_index: int) -> None:
        """Called before a train step; see `every_n_steps`."""

    def on_train_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Called after a train step, `trainer.global_step` moved; see `every_n_steps`."""

    def on_validation_start(self, trainer: Trainer) -> None:
        """Called before each validation, in `fit` as in `validate`."""

    def on_validation_end(self, trainer: Trainer) -> None:
        """Called after `on_validation_epoch_end`."""

    def on_validation_epoch_start(self, trainer: Trainer) -> None:
        """Called before the first validation batch."""

    def on_validation_epoch_end(self, trainer: Trainer) -> None:
        """Called after the last validation batch, with `val/...` metrics published."""

    def on_validation_batch_start(self, trainer: Trainer, batch: Batch, batch_index: int) -> None:
        """Called before each validation batch."""

    def on_validation_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Called after each validation batch."""

    def on_test_start(self, trainer: Trainer) -> None:
        """Called before testing."""

    def on_test_end(self, trainer: Trainer) -> None:
        """Called after `on_test_epoch_end`."""

    def on_test_epoch_start(self, trainer: Trainer) -> None:
        """Called before the first test batch."""

    def on_test_epoch_end(self, trainer: Trainer) -> None:
        """Called after the last test batch, with `test/...` metrics published."""

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
        """Called before the first batch to predict."""

    def on_predict_epoch_end(self, trainer: Trainer) -> None:
        """Called after the last batch was predicted."""

    def on_predict_batch_start(self, trainer: Trainer, batch: Batch, batch_index: int) -> None:
        """Called before each batch to predict."""

    def on_predict_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Called after each predicted batch."""

    def on_log(self, trainer: Trainer, metrics: Mapping[str, float], step: int) -> None:
        """Called when `metrics` (name to value) were published, at optimizer step `step`."""

    def on_exception(self, trainer: Trainer, exception: BaseException) -> None:
        """Called when a run ends by `exception` (also Ctrl-C, where it raises); then `teardown`."""


HOOKS: tuple[str, ...] = tuple(
    name for name in vars(Callback) if name.startswith("on_") or name in ("setup", "teardown")
)


def check_period(argument: str, period: object) -> None:
    """Raises `ValueError` unless `period` is None or a whole number of at least 1."""
    if period is not None and (type(period) is not int or period < 1):
        raise ValueError(f"`{argument}` (={period!r}) must be None or a whole number, 1 or more.")


def _check_hook(cls: type[Callback], name: str, function: Callable[..., Any]) -> None:
    if name not in HOOKS:
        near = difflib.get_close_matches(name, HOOKS, n=1, cutoff=0.0)[0]
        raise TypeError(
            f"`{cls.__qualname__}.{name}` is no hook and would never be called; did you mean "
            f"`{near}`? A method that is not a hook must not start with `on_`."
        )
    arguments = list(inspect.signature(getattr(Callback, name)).parameters)
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise TypeError(
            f"`{cls.__qualname__}.{name}` must take ({', '.join(arguments)}): {error}."
        ) from None


class CallbackList:
    """Callbacks in the order in which they run; the single place that calls their hooks.

    A hook is called only on callbacks whose class overrides it, which is looked up once, here.

    Args:
        callbacks: the callbacks, in any order; sorted by `priority`, else kept in order.

    Attributes:
        raised: what a hook raised last, but for those that clean up.

    Raises:
        TypeError: for something that is not an instance of `Callback`.
        ValueError: for a wrong `every_n_steps`, or two callbacks with state and one `state_key`.

    Example:
        >>> from nnx_alexnet.callbacks.base import Callback, CallbackList
        >>> class Greeter(Callback):
        ...     def on_train_start(self, trainer):
        ...         print("hello")
        >>> CallbackList([Callback(), Greeter()]).call("on_train_start", None)
        hello
    """

    def __init__(self, callbacks: Iterable[Callback] = ()):
        listed = list(callbacks)
        for callback in listed:
            if not isinstance(callback, Callback):
                hint = "an instance, not the class" if isinstance(callback, type) else "a subclass"
                raise TypeError(
                    f"`callbacks` must hold instances of `Callback`, got {callback!r}: pass {hint}."
                )
            check_period("every_n_steps", callback.every_n_steps)
            for name in callback.metric_names:
                check_metric_name(name)
        self.raised: BaseException | None = None
        self._callbacks = sorted(listed, key=lambda callback: callback.priority)
        self._hooks = {
            hook: [
                (each, getattr(each, hook)) for each in self._callbacks if _overrides(each, hook)
            ]
            for hook in HOOKS
        }
        self._stateful: dict[str, Callback] = {}
        for callback in self._callbacks:
            if _overrides(callback, "state_dict"):
                key = callback.state_key
                if key in self._stateful:
                    raise ValueError(
                        f"`callbacks` holds two callbacks with the `state_key` {key!r}, so a "
                        "checkpoint cannot hold both; remove one, or override `state_key`."
                    )
                self._stateful[key] = callback

    def __len__(self) -> int:
        return len(self._callbacks)

    def __iter__(self) -> Iterator[Callback]:
        return iter(self._callbacks)

    def call(self, hook: str, *arguments: Any) -> None:
        """Calls `hook` on every callback that overrides it.

        Args:
            hook: the hook's name, such as `"on_train_start"`.
            *arguments: the hook's arguments, the trainer first.

        Raises:
            ValueError: if there is no such hook.
            BaseException: what a callback raised: at once; or, from `on_exception` and `teardown`,
                after all callbacks were called (the first error; later ones are logged).
        """
        if hook not in self._hooks:
            raise unknown("hook", hook, HOOKS)
        if hook not in _CLEANUP_HOOKS:
            for _, function in self._hooks[hook]:
                self._run(function, arguments)
            return
        first: BaseException | None = None
        for callback, function in self._hooks[hook]:
            try:
                function(*arguments)
            except BaseException as error:
                if first is not None:
                    logger.error("%s.%s failed: %r", type(callback).__name__, hook, error)
                first = first or error
        if first is not None:
            raise first

    def train_batch(self, hook: str, step: int, *arguments: Any) -> None:
        """Calls a train batch hook on the callbacks that are due.

        Args:
            hook: `"on_train_batch_start"` or `"on_train_batch_end"`.
            step: the number of optimizer steps after this step, for both hooks.
            *arguments: the hook's arguments, the trainer first.
        """
        for callback, function in self._hooks[hook]:
            if _is_due(callback.batch_period, step):
                self._run(function, arguments)

    def _run(self, function: Any, arguments: tuple[Any, ...]) -> None:
        try:
            function(*arguments)
        except BaseException as error:
            self.raised = error
            raise

    def is_due(self, hook: str, step: int) -> bool:
        """Whether `train_batch` would call any callback."""
        return any(_is_due(callback.batch_period, step) for callback, _ in self._hooks[hook])

    def is_due_by_step(self, hook: str, step: int) -> bool:
        """Whether it would call one whose period is counted in steps, not between dispatches."""
        periods = [callback.batch_period for callback, _ in self._hooks[hook]]
        return any(period and step % period == 0 for period in periods)

    def next_train_batch(self, step: int) -> int | None:
        """Returns the step up to which no train batch hook is due after `step`; None: no end."""
        # A start hook runs before its step, so the dispatch before ends one step earlier.
        ends = [
            ((step + lead) // callback.batch_period + 1) * callback.batch_period - lead
            for hook, lead in (("on_train_batch_start", 1), ("on_train_batch_end", 0))
            for callback, _ in self._hooks[hook]
            if callback.batch_period
        ]
        return min(ends, default=None)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Returns each callback's state by its `state_key`; callbacks without any are left out.

        Raises:
            TypeError: a state holds what JSON would change; the message names callback and value.
        """
        states = {key: callback.state_dict() for key, callback in self._stateful.items()}
        for key, state in states.items():
            check_plain(state, f"`{type(self._stateful[key]).__qualname__}.state_dict()`")
        return {key: state for key, state in states.items() if state}

    def load_state_dict(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Gives each callback a copy of its state; a state that no callback claims is reported."""
        for key, state in states.items():
            if key in self._stateful:
                self._stateful[key].load_state_dict(copy.deepcopy(state))
            else:
                logger.info("The state of callback %r is not used: no such callback is given.", key)


def _is_due(period: int | None, step: int) -> bool:
    return period == BETWEEN_DISPATCHES or (period is not None and step % period == 0)


def _overrides(callback: Callback, name: str) -> bool:
    return getattr(type(callback), name) is not getattr(Callback, name)
