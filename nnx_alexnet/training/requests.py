"""`Requests`: applies the requests of hooks, signals and other processes between two steps.

A hook in one process may request a stop or a checkpoint, and a signal may reach only one process,
but all processes must act at the same step. Requests are therefore collected, exchanged between the
processes at fixed places (`settle`), and applied in all of them at the same step. A run with one
process applies them immediately.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nnx_alexnet.devices import SharedProgram
from nnx_alexnet.training.signals import Received


class Asked(NamedTuple):
    """The requests of one process, or of all: a stop, a checkpoint, the number of a signal."""

    stop: bool = False
    save: bool = False
    signal: int = 0

    def either(self, other: Asked) -> Asked:
        """Returns the requests that at least one of the two contains."""
        return Asked(
            self.stop or other.stop, self.save or other.save, max(self.signal, other.signal)
        )


class Agreement:
    """Shares the requests of each process with all processes.

    All processes call `settle` at the same places. A small collective between the steps transfers
    the requests, and its result is read some steps later, so the host does not wait for the device.

    Attributes:
        is_alone: whether there are no other processes.
        signal: the signal that this process received; sent with every call of `settle`.

    Example:
        >>> from nnx_alexnet.training.requests import Agreement
        >>> agreement = Agreement()
        >>> agreement.ask(stop=True)
        >>> agreement.settle(at_most=2)
        Asked(stop=True, save=False, signal=0)
    """

    def __init__(self) -> None:
        self.is_alone: bool = jax.process_count() == 1
        self.signal = 0
        # Counters, not flags, because a signal handler may add a request while `settle` reads.
        self._asked = {"stop": 0, "save": 0}
        self._sent = dict(self._asked)
        self._pending: deque[jax.Array] = deque()
        self._mesh: Mesh | None = None
        self._any: SharedProgram[jax.Array] | None = None
        if not self.is_alone:
            firsts = {device.process_index: device for device in reversed(jax.devices())}
            self._mesh = Mesh(np.array([firsts[index] for index in sorted(firsts)]), ("process",))
            whole = NamedSharding(self._mesh, PartitionSpec())
            self._any = SharedProgram(jax.jit(lambda asked: asked.max(axis=0), out_shardings=whole))

    def forget(self) -> None:
        """Drops all requests so far; all processes call it at the same place."""
        self.signal = 0
        self._sent = dict(self._asked)
        self._pending.clear()

    def ask(self, *, stop: bool = False, save: bool = False) -> None:
        """Records requests of this process; the next call of `settle` sends them."""
        self._asked["stop"] += stop
        self._asked["save"] += save

    def settle(self, *, at_most: int = 0) -> Asked:
        """Sends the requests of this process, and returns those of all processes.

        Args:
            at_most: how many calls, this one included, may still be unanswered; 0 waits for all.

        Returns:
            The requests of any process in the calls that are answered now; the same result in all
            processes.
        """
        asked = dict(self._asked)
        own = Asked(
            stop=asked["stop"] > self._sent["stop"],
            save=asked["save"] > self._sent["save"],
            signal=self.signal,
        )
        self._sent = asked
        if self._mesh is None or self._any is None:
            return own
        sharding = NamedSharding(self._mesh, PartitionSpec("process"))
        row = np.array([[*own]], np.int32)
        shape = (jax.process_count(), row.shape[1])
        sent = jax.make_array_from_process_local_data(sharding, row, shape)
        self._pending.append(self._any(sent))
        agreed = Asked()
        while len(self._pending) > at_most:
            stop, save, signal = np.asarray(self._pending.popleft()).tolist()
            agreed = agreed.either(Asked(bool(stop), bool(save), int(signal)))
        return agreed


class SaveRequest(NamedTuple):
    """A request for a checkpoint.

    Attributes:
        gives_way: whether the checkpoint need not be written if a better one follows soon.
    """

    gives_way: bool


class Requests:
    """Collects requests, and applies those that all processes have received.

    Args:
        on_stop: called when the run is to stop, with the reason, or None if only another process
            has the reason.
        agreement: shares the requests of all processes (default: a new one).

    Attributes:
        interrupted: whether a signal ends this run.
        is_cut_short: whether a signal ends the current verb; `begin_verb` clears it.
        received: the signal that the processes agreed on, for `graceful_stop`.

    Example:
        >>> from nnx_alexnet.training.requests import Requests
        >>> reasons = []
        >>> requests = Requests(reasons.append)
        >>> requests.stop("good enough")
        >>> requests.save()
        >>> reasons, requests.take_save(), requests.take_save()
        (['good enough'], SaveRequest(gives_way=False), None)
    """

    def __init__(
        self, on_stop: Callable[[str | None], None], agreement: Agreement | None = None
    ) -> None:
        self.interrupted = False
        self.is_cut_short = False
        self.received = Received()
        self._on_stop = on_stop
        self._agreement = Agreement() if agreement is None else agreement
        self._reason: str | None = None  # why a callback of this process stops the run
        self._num_saves = self._num_taken = 0  # counters, as in `Agreement`
        self._gives_way = True  # whether all requests for a checkpoint at this step give way
        self._has_ended = False  # whether nothing is left that a signal could interrupt

    @property
    def is_alone(self) -> bool:
        """Whether there are no other processes."""
        return self._agreement.is_alone

    @property
    def is_save_asked(self) -> bool:
        """Whether a checkpoint is due at this step."""
        return self._num_saves > self._num_taken

    def stop(self, reason: str) -> None:
        """Requests that the run stop after this step."""
        self._reason = reason
        self._ask(stop=True)

    def save(self, *, gives_way: bool = False) -> None:
        """Requests a checkpoint of this step.

        Args:
            gives_way: see `SaveRequest`; used only if all requests of the step agree.
        """
        if not gives_way:
            self._gives_way = False
        self._ask(save=True)

    def interrupt(self, number: int) -> None:
        """Requests that a signal end the run; called from the handler of the signal."""
        if self.is_alone:
            self._apply(Asked(signal=number))
        else:
            self._agreement.signal = number

    def _ask(self, *, stop: bool = False, save: bool = False) -> None:
        if self.is_alone:
            self._apply(Asked(stop=stop, save=save))
        else:
            self._agreement.ask(stop=stop, save=save)

    def settle(self, *, at_most: int = 0) -> None:
        """Applies the requests of all processes, which call this at the same places.

        Args:
            at_most: see `Agreement.settle`.
        """
        if not self.is_alone:
            asked = self._agreement.settle(at_most=at_most)
            if any(asked):
                self._apply(asked)

    def _apply(self, asked: Asked) -> None:
        if asked.save:
            self._num_saves += 1
        if asked.stop:
            self._on_stop(self._reason)
        if asked.signal and not self._has_ended:
            self.interrupted = self.is_cut_short = True
            self.received.signal = asked.signal

    def take_save(self) -> SaveRequest | None:
        """Returns the request for a checkpoint of this step, and marks it as answered."""
        num_saves, gives_way = self._num_saves, self._gives_way
        is_asked, self._num_taken, self._gives_way = num_saves > self._num_taken, num_saves, True
        return SaveRequest(gives_way) if is_asked else None

    def begin_verb(self) -> None:
        """Drops requests and signals of an earlier verb."""
        self.is_cut_short = False
        self._agreement.forget()

    def end_run(self) -> None:
        """Ignores signals from now on, unless one has arrived: only files remain to be closed."""
        self._has_ended = not self.interrupted
