"""The batches of a split that is an iterable of batches, such as a torch `DataLoader`."""

from collections.abc import Callable, Iterator

import numpy as np

from nnx_alexnet.data.batching import Batch, own_batch
from nnx_alexnet.data.iterable_source import IterableSource
from nnx_alexnet.support import logger


class IterableBatches:
    """Yields the batches of an iterable in its own order and sizes.

    Args:
        source: the batches.
        argument: what the user calls the split, for errors.
    """

    num_examples = None  # not known
    num_left_out = 0
    num_workers = 0
    drop_last = False

    def __init__(self, source: IterableSource, *, argument: str) -> None:
        self._source = source
        self._argument = argument

    @property
    def batch_size(self) -> int:
        """Rows of the first batch."""
        return self._source.batch_size

    @property
    def num_batches(self) -> int | None:
        """Batches per epoch; see `IterableSource.num_batches`."""
        return self._source.num_batches

    def count(self, number: int, batch: Batch) -> int:
        """Returns how many examples a batch has."""
        return int(np.count_nonzero(batch["mask"]))

    def batches(
        self,
        *,
        epoch: int,
        seed: int,
        start: int,
        reads: bool,
        multiple: int | None,
        part: Callable[[int], slice | None] | None,
        skips: bool,
    ) -> Iterator[Batch]:
        """Yields the batches of one epoch; see `Loader.batches`."""
        if start:
            logger.info("Skipping %d batches of an iterable by reading them.", start)
        source, position, given = self._source, 0, 0
        for rows in source.batches(epoch):
            batch = own_batch(
                rows, position=position, batch_size=source.batch_size, multiple=multiple
            )
            if batch is None:
                continue
            given, position = given + 1, position + self.count(given, batch)
            if given > start:
                yield batch
        if not given:
            raise ValueError(f"`{self._argument}` gave batches, but their masks exclude every row.")
        source.note_count(given)

    def check_workers(self) -> None:
        """Raises a `ValueError` if this is a `DataLoader` whose workers cannot be started."""
        self._source.check_workers()

    def close(self) -> None:
        """Drops an iterator that was opened for a look at the first batch."""
        self._source.close()
