"""`StepsAhead`: the first steps of an epoch, dispatched before the previous epoch has ended.

At the end of an epoch, the host publishes metrics, calls hooks and copies the state for a
checkpoint. Meanwhile, the device computes these steps on a copy of the state. Hooks and
checkpoints still find the state at the end of the epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from nnx_alexnet.data import Batch
from nnx_alexnet.task import Outputs
from nnx_alexnet.training.model_arrays import ModelArrays
from nnx_alexnet.training.step_functions import State

# On a CPU, copying a larger state takes longer than the work of the host that it would hide.
_MAX_BYTES_ON_CPU = 2**24

# The state, the metrics, the scalars of all steps, and those of the last step.
Results = tuple[State, Any, Outputs, Outputs]


class Ahead(NamedTuple):
    """Steps that were dispatched ahead.

    Attributes:
        epoch: the number of their epoch, from 0.
        state: the state that was copied for them.
        group: their batches, which have only an index and a mask.
        max_steps: the length to which the group was padded.
        began: when they were dispatched, on the clock of `time.perf_counter`.
        results: what the compiled steps returned.
    """

    epoch: int
    state: State
    group: list[Batch]
    max_steps: int
    began: float
    results: Results

    def is_of(self, epoch: int, group: list[Batch], max_steps: int) -> bool:
        """Returns whether these steps have the same batches as a dispatch."""
        if (epoch, max_steps, len(group)) != (self.epoch, self.max_steps, len(self.group)):
            return False
        return all(
            np.array_equal(own[name], other[name])
            for own, other in zip(self.group, group, strict=True)
            for name in ("index", "mask")
        )


class StepsAhead:
    """Holds steps that were dispatched ahead until they are used or dropped.

    Args:
        arrays: the state.
    """

    def __init__(self, arrays: ModelArrays) -> None:
        self._arrays = arrays
        self._ahead: Ahead | None = None
        self._is_useful = True

    def send(
        self,
        run: Callable[[State, list[Batch], int], Results],
        epoch: int,
        group: list[Batch],
        max_steps: int,
    ) -> None:
        """Dispatches steps on a copy of the state, if there is memory for it.

        Args:
            run: dispatches `(state, group, max_steps)`; may donate the state.
            epoch: the number of their epoch.
            group: the batches.
            max_steps: the length to which the group is padded.
        """
        state = self._arrays.take()
        if not self._is_useful or not has_room_for_copy(state):
            return
        began = time.perf_counter()
        try:
            results = run(self._arrays.copy(), group, max_steps)
        except Exception:  # the regular dispatch of these steps will raise the error
            self._is_useful = False
            return
        self._ahead = Ahead(epoch, state, group, max_steps, began, results)

    def take(self, epoch: int, group: list[Batch], max_steps: int) -> Ahead | None:
        """Returns the steps if they match a dispatch and started from the current state.

        All other steps are dropped.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return None
        # A hook that changes or reads the model at the end of one epoch probably does so at the end
        # of the next one too.
        self._is_useful = self._arrays.is_at(ahead.state)
        return ahead if self._is_useful and ahead.is_of(epoch, group, max_steps) else None

    def drop(self) -> None:
        """Drops the steps."""
        self._ahead = None


def has_room_for_copy(state: State) -> bool:
    """Returns whether a copy of the state is small enough.

    On an accelerator, twice its size must have been free at the peak of memory use so far. On a
    CPU, copying takes time: it may have at most 16 MiB.
    """
    num_bytes: dict[jax.Device, int] = {}
    for leaf in jax.tree.leaves(state):
        for shard in leaf.addressable_shards:
            num_bytes[shard.device] = num_bytes.get(shard.device, 0) + shard.data.nbytes
    return all(size <= _most_bytes(device) for device, size in num_bytes.items())


def _most_bytes(device: jax.Device) -> float:
    if device.platform == "cpu":
        return _MAX_BYTES_ON_CPU
    stats = device.memory_stats() or {}
    free: int = stats.get("bytes_limit", 0) - stats.get("peak_bytes_in_use", 0)
    return free / 2
