"""What the processes of one run decide together: every one does the same, at the same step.

In one process nothing is sent, and what is asked for is done at once.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")

# What an error of the first process may be in the others.
_ERRORS = {"ValueError": ValueError, "TypeError": TypeError, "OSError": OSError}


def is_main() -> bool:
    """Whether this is the process that writes: the first one, or the only one."""
    return jax.process_index() == 0


def on_main(function: Callable[[], T]) -> T:
    """Runs a function in the first process alone; its result, or its error, is that of all.

    Args:
        function: returns what JSON can hold.

    Example:
        >>> from nnx_alexnet.devices.processes import on_main
        >>> on_main(lambda: "logs/alexnet/version_0")
        'logs/alexnet/version_0'
    """
    if jax.process_count() == 1:
        return function()
    message: dict[str, Any] = {}
    failure: Exception | None = None
    if is_main():
        try:
            message = {"result": function()}
        except Exception as error:
            failure = error
            kind = next((name for name, k in _ERRORS.items() if isinstance(error, k)), "other")
            message = {"error": str(error), "kind": kind}
    message = _from_main(message)
    if failure is not None:
        raise failure
    if "error" in message:
        raise _ERRORS.get(message["kind"], RuntimeError)(message["error"])
    result: T = message["result"]
    return result


def _from_main(message: Any) -> Any:
    """Returns the message of the first process in all of them."""
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(message).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    sent = np.zeros(size, np.uint8)
    sent[: len(text)] = text[:size]
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(sent)).decode())


def check_alike(parts: Mapping[str, Any]) -> None:
    """Raises a `ValueError` in all processes unless each has the same of every part.

    Args:
        parts: JSON values by the name of the argument that they belong to.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    texts = [json.dumps(part, sort_keys=True).encode() for part in parts.values()]
    digests = b"".join(hashlib.sha256(text).digest() for text in texts)
    rows = np.frombuffer(digests, np.uint8).reshape(len(parts), -1)
    everywhere = np.asarray(multihost_utils.process_allgather(rows))  # process, part, 32
    for number, name in enumerate(parts):
        same = (everywhere[:, number] == everywhere[0, number]).all(axis=1)
        if not same.all():
            raise ValueError(
                f"`{name}` differs between the processes of this run: those of "
                f"{np.flatnonzero(~same).tolist()} have another one than process 0. Each process "
                "runs the same program: give them the same arguments, seeds and data."
            )


def one_at_a_time(results: T) -> T:
    """Waits for what a program returns, where two programs must not be under way together.

    That is between processes on CPUs: their collectives (Gloo, jax 0.10) wait for each other for
    ever, now and then, when another program has been dispatched meanwhile.
    """
    if jax.process_count() > 1 and jax.default_backend() == "cpu":
        jax.block_until_ready(results)
    return results


class Wishes(NamedTuple):
    """What a process, or any of them, asks for; what follows it is done at a step boundary."""

    stop: bool = False
    save: bool = False
    signal: int = 0

    def either(self, other: Wishes) -> Wishes:
        """Returns what one of the two asks for."""
        return Wishes(
            self.stop or other.stop, self.save or other.save, max(self.signal, other.signal)
        )


class Agreement:
    """Tells every process what any of them wishes.

    All processes call `settle` at the same places. Wishes travel as a small collective between
    the steps, which is read some steps later: the host does not wait for the device.

    Attributes:
        is_alone: whether there is no other process.
        signal: that this process got; it is a wish of every call of `settle` from then on.

    Example:
        >>> from nnx_alexnet.devices.processes import Agreement
        >>> agreement = Agreement()
        >>> agreement.wish(stop=True)
        >>> agreement.settle(at_most=2)
        Wishes(stop=True, save=False, signal=0)
    """

    def __init__(self) -> None:
        self.forget()
        self.is_alone = jax.process_count() == 1
        if not self.is_alone:
            firsts = {device.process_index: device for device in reversed(jax.devices())}
            devices = np.array([firsts[index] for index in sorted(firsts)])
            self._mesh = Mesh(devices, ("process",))
            whole = NamedSharding(self._mesh, PartitionSpec())
            self._any = jax.jit(lambda wishes: wishes.max(axis=0), out_shardings=whole)

    def forget(self) -> None:
        """Drops all that was wished so far; all processes call it at the same place."""
        self.signal = 0
        self._own = Wishes()
        self._pending: deque[jax.Array] = deque()

    def wish(self, **wishes: Any) -> None:
        """Notes what this process wishes, until the next call of `settle`."""
        self._own = self._own.either(Wishes(**wishes))

    def settle(self, *, at_most: int = 0) -> Wishes:
        """Sends the own wishes, and returns what is known of those of all.

        Args:
            at_most: how many calls, this one included, need not be answered yet. 0 waits.

        Returns:
            What any process wished, in calls that are answered now. The same in all processes.
        """
        # Nothing that a signal handler may set is taken and put back.
        own, self._own = self._own._replace(signal=self.signal), Wishes()
        if self.is_alone:
            return own
        sharding = NamedSharding(self._mesh, PartitionSpec("process"))
        row = np.array([[own.stop, own.save, own.signal]], np.int32)
        shape = (jax.process_count(), row.shape[1])
        sent = jax.make_array_from_process_local_data(sharding, row, shape)
        self._pending.append(one_at_a_time(self._any(sent)))
        agreed = Wishes()
        while len(self._pending) > at_most:
            stop, save, signal = np.asarray(self._pending.popleft()).tolist()
            agreed = agreed.either(Wishes(bool(stop), bool(save), int(signal)))
        return agreed
