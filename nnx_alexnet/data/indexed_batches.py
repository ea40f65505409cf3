"""The batches of a split whose examples are read by index: arrays and map-style datasets."""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from nnx_alexnet.data.bad_samples import BadSamples
from nnx_alexnet.data.batch_memory import BatchMemory
from nnx_alexnet.data.batching import Batch, BatchPlan, fields_of, padded, plan_batches
from nnx_alexnet.data.cached_batches import fill_cache, read_cached
from nnx_alexnet.data.cached_records import CachedRecords
from nnx_alexnet.data.cached_source import CachedSource
from nnx_alexnet.data.examples import Fields, Rows
from nnx_alexnet.data.seeding import order
from nnx_alexnet.data.sources import ArraySource, MapSource
from nnx_alexnet.data.worker_process import BatchRequest
from nnx_alexnet.data.workers import Workers

_NUM_AT_ONCE = 256  # examples that `read_all` reads together


class IndexedBatches:
    """Cuts a split into batches, in an order that is a function of (seed, epoch) alone.

    Args:
        source: the examples.
        batch_size: examples per batch.
        shuffle: whether the order changes from epoch to epoch.
        drop_last: whether a last batch that is not full is left out.
        num_workers: processes that read a map-style dataset; 0 reads it in this process.
        argument: what the user calls the split, for errors.

    Raises:
        ValueError: no batch would be left.
    """

    def __init__(
        self,
        source: ArraySource | MapSource,
        *,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        num_workers: int,
        argument: str,
    ) -> None:
        if drop_last and batch_size > len(source):
            raise ValueError(
                f"`batch_size` (={batch_size}) is larger than the {argument} split, which has "
                f"{len(source)} examples, so that no full batch is left. "
                f"A `batch_size` of at most {len(source)} works, or drop_last=False."
            )
        self._source = source
        self._shuffle = shuffle
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.bad = BadSamples(len(source), argument, is_replaced=shuffle)
        self.num_workers = num_workers if isinstance(source, MapSource) else 0
        self._workers: Workers | None = None
        if num_workers and isinstance(source, MapSource):
            read = source.for_workers() if isinstance(source, CachedSource) else source
            self._workers = Workers(read, num_workers=num_workers, argument=argument)

    @property
    def num_examples(self) -> int:
        """Examples in the split."""
        return len(self._source)

    @property
    def num_left_out(self) -> int:
        """Examples of each epoch that `drop_last` leaves out."""
        return len(self._source) % self.batch_size if self.drop_last else 0

    @property
    def num_batches(self) -> int:
        """Batches per epoch."""
        full, rest = divmod(len(self._source), self.batch_size)
        return full + int(rest > 0 and not self.drop_last)

    def count(self, number: int, batch: Batch) -> int:
        """Returns how many examples a batch has, of all processes together."""
        return min(self.batch_size, len(self._source) - number * self.batch_size)

    def batches(
        self,
        epoch: int,
        seed: int,
        start: int,
        *,
        reads: bool,
        multiple: int | None,
        part: Callable[[int], slice | None] | None,
        skips: bool,
    ) -> Iterator[Batch]:
        """Returns the batches of one epoch; see `Loader.batches`."""
        num = len(self._source)
        indices = order(num, seed=seed, epoch=epoch) if self._shuffle else np.arange(num)
        used = indices[: num - self.num_left_out]
        plans = plan_batches(used, self.batch_size, start=start, multiple=multiple, part=part)
        if not reads:
            return (padded({"mask": np.ones(len(plan.rows), bool)}, plan) for plan in plans)
        return self._read([*plans], seed=seed, epoch=epoch, start=start, skips=skips)

    def _read(
        self, plans: list[BatchPlan], *, seed: int, epoch: int, start: int, skips: bool
    ) -> Iterator[Batch]:
        requests = [
            BatchRequest(plan.rows, seed, epoch, number)
            for number, plan in enumerate(plans, start=start)
        ]
        for plan, rows in zip(plans, self._rows(requests), strict=True):
            batch = padded(fields_of(rows), plan)
            if rows.bad:
                if not skips:
                    raise self.bad.error(rows.bad)
                self.bad.note(rows.bad)
                if not self._shuffle:  # evaluation counts no example twice
                    batch["mask"] &= ~np.isin(batch["index"], list(rows.bad))
            yield batch

    def _rows(self, requests: list[BatchRequest]) -> Iterator[Rows]:
        if isinstance(self._source, CachedSource):
            yield from read_cached(self._source, requests, self._workers)
            return
        if self._workers is not None:
            yield from self._workers.read(requests)
            return
        source = self._source
        if isinstance(source, ArraySource) and not self._shuffle:
            for request in requests:
                yield source.span(int(request.indices[0]), len(request.indices))
            return
        if isinstance(source, MapSource):
            source.begin_pass()
        for request in requests:
            yield source.take(request.indices, seed=request.seed, epoch=request.epoch)

    @property
    def records(self) -> CachedRecords | None:
        """The records of the split in its cache; None without a cache."""
        return self._source.records if isinstance(self._source, CachedSource) else None

    def fill_cache(self) -> Iterator[int]:
        """Adds all missing examples to the cache, and yields the number of examples in each part.

        Raises:
            Exception: an example cannot be read; `on_bad_sample="skip"` reports it instead.
        """
        if isinstance(self._source, CachedSource):
            for num, rows in fill_cache(self._source, self._workers):
                self.bad.note(rows.bad)
                yield num

    def read_all(self) -> Fields:
        """Returns all examples of a split with a cache, and adds missing ones to the cache."""
        assert isinstance(self._source, CachedSource)
        starts = range(0, len(self._source), _NUM_AT_ONCE)
        requests = [
            BatchRequest(np.arange(start, min(start + _NUM_AT_ONCE, len(self._source))), 0, 0, n)
            for n, start in enumerate(starts)
        ]
        memory, num = BatchMemory(), len(self._source)
        fields: Fields = jax.tree.map(
            lambda leaf: memory.empty((num, *leaf.shape), leaf.dtype), self._source.element_spec()
        )
        for request, rows in zip(requests, self._rows(requests), strict=True):
            self.bad.note(rows.bad)
            for array, part in zip(
                jax.tree.leaves(fields), jax.tree.leaves(rows.fields), strict=True
            ):
                array[request.indices[0] :][: len(part)] = part
        return fields

    def check_workers(self) -> None:
        """Raises a `ValueError` if there are to be workers and they cannot be started."""
        if self._workers is not None:
            self._workers.check()

    def close(self) -> None:
        """Ends the workers, if there are any; another epoch starts new ones."""
        if self._workers is not None:
            self._workers.close()
