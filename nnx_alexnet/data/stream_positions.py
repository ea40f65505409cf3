"""Records the positions of a pass to which a resumed run can return.

The state of the iterable is not recorded after every batch: recording may take at most one
hundredth of the time. A resumed run reads the few batches between the recorded state and its
position, and compares the first of them with the saved run's.
"""

import hashlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from nnx_alexnet.data.batching import Batch

_MAX_SHARE = 0.01  # of the time
_NUM_DIGESTED = 2**14  # bytes of each array


class Mark(NamedTuple):
    """A place in a pass.

    Attributes:
        given: batches before it.
        examples: examples before it.
        state: the state of the iterable there; None if it has none. At the start of a pass, this is
            the state at the end of the previous pass.
        check: the digest of the batch that follows; None until that batch has been read.
    """

    given: int = 0
    examples: int = 0
    state: Any = None
    check: str | None = None


class Positions:
    """Marks of one pass.

    Args:
        epoch: of the pass.
        start: where the pass starts.
        read_state: returns the state of the iterable.
        clock: returns seconds.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.stream_positions import Mark, Positions
        >>> positions = Positions(0, Mark(), lambda: "a state")
        >>> for number in (1, 2):
        ...     positions.note(number, 4 * number, {"x": np.zeros(4)})
        >>> positions.at(2).given, positions.at(2).state
        (1, 'a state')
    """

    def __init__(
        self,
        epoch: int,
        start: Mark,
        read_state: Callable[[], Any],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.epoch = epoch
        self._marks = [start._replace(check=None)]
        self._read_state = read_state
        self._clock = clock
        self._due = -np.inf  # when the next mark may be set

    def note(self, given: int, examples: int, batch: Batch) -> None:
        """Notes that a batch was read.

        Args:
            given: the number of batches up to and including this one.
            examples: the number of examples up to and including those of this one.
            batch: the newest batch.
        """
        began = self._clock()
        last, is_due = self._marks[-1], began >= self._due
        is_open = last.check is None
        if is_open:
            self._marks[-1] = last._replace(check=digest(batch))
        if is_due:
            self._marks.append(Mark(given, examples, self._read_state()))
        if is_open or is_due:
            now = self._clock()
            self._due = max(self._due, now + (now - began) / _MAX_SHARE)

    def at(self, given: int) -> Mark:
        """Returns the mark from which a run continues after `given` batches.

        It is the newest one that can be checked, or the one at exactly this place if no earlier
        one has a state.
        """
        earlier = [mark for mark in self._marks if mark.given < given]
        here = [mark for mark in self._marks if mark.given == given]
        choices = [_with_state(earlier), _with_state(here), earlier, here]
        return next(marks[-1] for marks in choices if marks)

    def forget_before(self, given: int) -> None:
        """Forgets the marks that no run after `given` batches needs."""
        first = self.at(given).given
        self._marks = [mark for mark in self._marks if mark.given >= first]


def _with_state(marks: list[Mark]) -> list[Mark]:
    return [mark for mark in marks if mark.state is not None]


def digest(batch: Batch) -> str:
    """Returns a SHA-256 of a sample of the bytes of each array of a batch.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.stream_positions import digest
        >>> digest({"x": np.zeros(4)}) == digest({"x": np.ones(4)})
        False
    """
    found = hashlib.sha256()
    for path, array in jax.tree_util.tree_leaves_with_path(batch):
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        step = content.size // _NUM_DIGESTED | 1  # odd, to reach every byte of a number
        found.update(f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}".encode())
        found.update(content[::step].tobytes())
    return found.hexdigest()
