"""Reuses the memory of batches that nothing refers to any more."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

# JAX on the CPU uses arrays of this alignment without copying them.
_ALIGNMENT = 64
_MOST_BLOCKS = 16


def _num_references(blocks: list[np.ndarray[Any, Any]], number: int) -> int:
    return sys.getrefcount(blocks[number])


# To a block that only its list refers to; whether `getrefcount` counts its own argument depends on
# the version of Python.
_UNUSED = _num_references([np.empty(1)], 0)
# Without the GIL, the number may be out of date.
_CAN_COUNT = getattr(sys, "_is_gil_enabled", lambda: True)()


class BatchMemory:
    """Allocates arrays, and reuses their memory once an array and all its views are gone.

    New memory causes a page fault for each page of 4 KB, which takes as long as filling the page.
    A caller may keep an array for any time. JAX holds a reference to an array until it has been
    sent to the device, or as long as it is used without a copy (`HandleNumpyArray` in
    https://github.com/jax-ml/jax/blob/main/jaxlib/py_values.cc).

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.batch_memory import BatchMemory
        >>> memory = BatchMemory()
        >>> first = memory.empty((2, 3), np.uint8)
        >>> address = first.ctypes.data
        >>> memory.empty((2, 3), np.uint8).ctypes.data == address  # it is in use
        False
        >>> del first
        >>> memory.empty((2, 3), np.uint8).ctypes.data == address
        True
    """

    def __init__(self) -> None:
        self._blocks: list[np.ndarray[Any, Any]] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return BatchMemory, ()

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
        """Returns an uninitialized array.

        Args:
            shape: the shape of the array.
            dtype: the dtype of the array.
        """
        dtype = np.dtype(dtype)
        num_bytes = int(np.prod(shape)) * dtype.itemsize
        with self._lock:
            block = self._unused(num_bytes)
        start = -block.ctypes.data % _ALIGNMENT
        lent: np.ndarray[Any, Any] = block[start : start + num_bytes].view(dtype).reshape(shape)
        return lent

    def _unused(self, num_bytes: int) -> np.ndarray[Any, Any]:
        size = num_bytes + _ALIGNMENT
        for number in range(len(self._blocks)) if _CAN_COUNT else ():
            is_unused = _num_references(self._blocks, number) == _UNUSED
            if is_unused and len(self._blocks[number]) == size:
                return self._blocks[number]
        made = np.empty(size, np.uint8)
        # Drops the oldest block, whose size may no longer be needed.
        self._blocks = [*self._blocks[1 - _MOST_BLOCKS :], made]
        return made
