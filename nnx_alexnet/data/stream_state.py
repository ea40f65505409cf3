"""Reads the state of a pass over an iterable after any batch, and restores it in another run.

The state is held by the iterable (`state_dict` and `load_state_dict`: torchdata's
`StatefulDataLoader`, a Hugging Face `IterableDataset`) or by its iterator (`get_state` and
`set_state`, as in Grain, or again `state_dict` and `load_state_dict`).
"""

import copy
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from nnx_alexnet.data.example_batches import ExampleBatches
from nnx_alexnet.data.hugging_face_streams import StreamedRows
from nnx_alexnet.data.state_json import decode, encode

_METHODS = (("state_dict", "load_state_dict"), ("get_state", "set_state"))


class StateRefusedError(ValueError):
    """An iterable does not accept a state."""


class _Access(NamedTuple):
    """The methods of the object that holds the state, and the name of the first one."""

    name: str
    read: Callable[[], Any]
    load: Callable[[Any], Any]


class Stream:
    """One pass over an iterable.

    Args:
        iterable: anything with `__iter__`.
        argument: what the user calls the split, for errors.
        state: the result of `read_state` in another pass, which this one continues.
        is_end: whether `state` was read after the last batch, so that this pass is the next one.

    Attributes:
        iterator: yields the rest of the pass.
        kind: names the class and method that return the state, such as
            "StatefulDataLoader.state_dict"; None without a state.
        lasts: whether a pass depends on the state at the end of the previous one.

    Raises:
        StateRefusedError: the iterable does not accept the state.

    Example:
        >>> from nnx_alexnet.data.stream_state import Stream
        >>> class Count:
        ...     def __init__(self):
        ...         self.next = 0
        ...     def __iter__(self):
        ...         return self
        ...     def __next__(self):
        ...         self.next += 1
        ...         return self.next
        ...     def get_state(self):
        ...         return self.next
        ...     def set_state(self, state):
        ...         self.next = state
        >>> first = Stream(Count())
        >>> next(first.iterator), next(first.iterator)
        (1, 2)
        >>> next(Stream(Count(), state=first.read_state()).iterator)
        3
    """

    def __init__(
        self,
        iterable: Iterable[Any],
        *,
        argument: str = "data",
        state: Any = None,
        is_end: bool = False,
    ) -> None:
        self._argument = argument
        iterable = _own_copy(iterable)
        self._generator = _shared_generator(iterable)
        self._access = None if _loses_examples(iterable) else _access(iterable)
        self.lasts = self._access is not None
        if self.lasts and state is not None:
            self._load(state)
        self.iterator: Iterator[Any] = iter(iterable)
        if self._access is None and not _loses_examples(iterable):
            self._access = _access(self.iterator)
            if self._access is not None and state is not None:
                self._load(state)
        if self._generator is not None and state is not None and state["generator"] is not None:
            # Restoring the sampler draws other numbers than the saved run drew.
            self._generator.set_state(decode(state["generator"]))
            if is_end:
                self.iterator = iter(iterable)
        self.kind = None if self._access is None else self._access.name
        self._is_given = self.iterator is iterable

    def read_state(self) -> Any:
        """Returns the state after the newest batch as JSON values; None if there is none.

        Raises:
            ValueError: the state cannot be read, or JSON cannot represent it.
        """
        if self._access is None:
            return None
        generator = None if self._generator is None else self._generator.get_state()
        try:
            return {
                "state": encode(self._access.read(), f"the state of `{self._argument}`"),
                "generator": encode(generator, "the state of the generator"),
            }
        except Exception as error:  # the method may be the user's own
            raise ValueError(
                f"`{self._argument}`: {self.kind}() returns no state that a checkpoint can hold, "
                f"so a resumed run could not continue from it: {error}"
            ) from error

    def _load(self, state: Any) -> None:
        assert self._access is not None
        try:
            self._access.load(decode(state["state"]))
        except Exception as error:  # the method may be the user's own
            raise StateRefusedError(f"it does not accept its saved state ({error!r})") from error

    def close(self) -> None:
        """Ends the pass, and with it the workers of a Grain iterator.

        An iterator that the user passed stays open.
        """
        if self._is_given:
            return
        close = getattr(self.iterator, "close", None)
        if callable(close):
            with suppress(Exception):
                close()


def _access(holder: object) -> _Access | None:
    for names in _METHODS:
        read, load = (getattr(holder, name, None) for name in names)
        if callable(read) and callable(load):
            owner = getattr(read, "__self__", holder)  # a wrapper may pass the call on
            return _Access(f"{type(owner).__name__}.{names[0]}", read, load)
    return None


def _shared_generator(loader: Any) -> Any:
    """Returns the generator that the sampler and the seeds of a torch loader draw from.

    torchdata restores neither the order of these draws nor their number, unless workers draw.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(loader, torch.utils.data.DataLoader):
        return None
    return None if loader.num_workers else loader.generator


# ---- Hugging Face datasets --------------------------------------------------------------------


def _own_copy(iterable: Any) -> Any:
    """Returns a copy of a Hugging Face stream; any other iterable unchanged.

    The stream would keep a loaded state and start from it again whenever it reaches that epoch,
    and it shares the counters of its position with streams that were made from it.
    """
    if isinstance(iterable, ExampleBatches | StreamedRows):
        return iterable.over(_own_copy(iterable.inner))
    if not hasattr(iterable, "_ex_iterable"):
        return iterable
    # copy.copy would share its attributes, because of its __getstate__.
    own = object.__new__(type(iterable))
    vars(own).update(vars(iterable))
    own._ex_iterable = _copied_steps(iterable._ex_iterable)
    return own


def _copied_steps(step: Any) -> Any:
    own = copy.copy(step)
    if hasattr(step, "ex_iterable"):
        own.ex_iterable = _copied_steps(step.ex_iterable)
    if hasattr(step, "ex_iterables"):
        own.ex_iterables = [_copied_steps(each) for each in step.ex_iterables]
    return own


def _loses_examples(iterable: Any) -> bool:
    """Returns whether a Hugging Face stream has a shuffle buffer, which its state leaves out."""
    if isinstance(iterable, ExampleBatches | StreamedRows):
        return _loses_examples(iterable.inner)
    waiting = [iterable, getattr(iterable, "dataset", None)]
    while waiting:
        part = waiting.pop()
        if type(part).__name__ == "BufferShuffledExamplesIterable":
            return True
        inner = [getattr(part, name, None) for name in ("_ex_iterable", "ex_iterable")]
        several = getattr(part, "ex_iterables", None)
        inner += several if isinstance(several, list) else []
        waiting += [each for each in inner if each is not None]
    return False
