"""`CallbackList`: calls the hooks of all callbacks, in their order."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nnx_alexnet.callbacks.base import BETWEEN_DISPATCHES, HOOKS, Callback
from nnx_alexnet.support import (
    check_integer,
    check_metric_name,
    check_plain,
    logger,
    unknown,
)

# A failure in one of these must not keep the other callbacks from closing their files.
_CLEANUP_HOOKS = ("on_exception", "teardown")


class CallbackList:
    """The callbacks in callback order; the only place that calls their hooks.

    A hook is called only on callbacks whose class overrides it; the constructor looks these up.

    Args:
        callbacks: the callbacks; sorted by `priority`, those of equal priority keep their order.

    Attributes:
        raised: the newest exception of a hook, except `on_exception` and `teardown`.

    Raises:
        TypeError: if `callbacks` holds anything but instances of `Callback`.
        ValueError: if an `every_n_steps` is not a positive integer or None, a name in
            `metric_names` is reserved, or two callbacks with state have the same `state_key`.

    Example:
        >>> from nnx_alexnet.callbacks import Callback, CallbackList
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
            check_integer("every_n_steps", callback.every_n_steps, also=(None,))
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
                        f"`callbacks` holds two callbacks with the `state_key` {key!r}: a "
                        "checkpoint cannot store both states. Remove one, or override `state_key`."
                    )
                self._stateful[key] = callback

    def __len__(self) -> int:
        return len(self._callbacks)

    def __iter__(self) -> Iterator[Callback]:
        return iter(self._callbacks)

    def configure_optimizer(self, trainer: Any, optimizer: Any) -> Any:
        """Returns the optimizer after each callback has had the chance to wrap it."""
        for callback in self._callbacks:
            optimizer = callback.configure_optimizer(trainer, optimizer)
        return optimizer

    def call(self, hook: str, *arguments: Any) -> None:
        """Calls `hook` on every callback that overrides it.

        Args:
            hook: the hook's name, such as `"on_train_start"`.
            *arguments: the hook's arguments, the trainer first.

        Raises:
            ValueError: if there is no such hook.
            BaseException: an exception of a callback, immediately; for `on_exception` and
                `teardown`, the first one after all callbacks were called (others are logged).
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
        """Returns whether `train_batch` would call any callback."""
        return any(_is_due(callback.batch_period, step) for callback, _ in self._hooks[hook])

    def is_due_by_step(self, hook: str, step: int) -> bool:
        """Returns whether `train_batch` would call a callback whose period is in steps."""
        periods = [callback.batch_period for callback, _ in self._hooks[hook]]
        return any(period and step % period == 0 for period in periods)

    def next_train_batch(self, step: int) -> int | None:
        """Returns the step at which the dispatch after `step` must end for a hook; None: never."""
        # A start hook runs before its step, so the previous dispatch ends one step earlier.
        ends = [
            ((step + lead) // callback.batch_period + 1) * callback.batch_period - lead
            for hook, lead in (("on_train_batch_start", 1), ("on_train_batch_end", 0))
            for callback, _ in self._hooks[hook]
            if callback.batch_period
        ]
        return min(ends, default=None)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Returns the state of each callback by its `state_key`; empty states are omitted.

        Raises:
            TypeError: if JSON would change a state; the message names the callback and the value.
        """
        states = {key: callback.state_dict() for key, callback in self._stateful.items()}
        for key, state in states.items():
            check_plain(state, f"`{type(self._stateful[key]).__qualname__}.state_dict()`")
        return {key: state for key, state in states.items() if state}

    def load_state_dict(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Restores each callback from a copy of its state; logs states without a callback."""
        for key, state in states.items():
            if key in self._stateful:
                self._stateful[key].load_state_dict(copy.deepcopy(state))
            else:
                logger.info("The saved state of %r is not used: there is no such callback.", key)


def _is_due(period: int | None, step: int) -> bool:
    return period == BETWEEN_DISPATCHES or (period is not None and step % period == 0)


def _overrides(callback: Callback, name: str) -> bool:
    return getattr(type(callback), name) is not getattr(Callback, name)
