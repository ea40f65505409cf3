"""The batches of one split: their order, size and padding."""

import copy
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from nnx_alexnet.data.batch_on_demand import from_indices
from nnx_alexnet.data.batching import Batch, is_complete
from nnx_alexnet.data.cached_records import CachedRecords
from nnx_alexnet.data.descriptions import loader_facts, loader_text
from nnx_alexnet.data.examples import ElementSpec, Fields
from nnx_alexnet.data.indexed_batches import IndexedBatches
from nnx_alexnet.data.iterable_batches import IterableBatches
from nnx_alexnet.data.padding import Padding
from nnx_alexnet.data.sources import ArraySource, IterableSource, Source
from nnx_alexnet.support import as_python, check_bools, check_integer, html_facts


class Loader:
    """Yields the batches of one split.

    The order of a shuffled epoch is a function of (seed, epoch) alone, and each example is in one
    batch per epoch. An incomplete last batch is yielded in its own size, or left out with
    `drop_last`. The batches of an iterable may have any size, and none of them is left out.

    Args:
        source: the examples.
        batch_size: rows of a batch. An iterable source has batches of its own.
        shuffle: whether the order changes from epoch to epoch.
        drop_last: whether an incomplete last batch is left out; applies to arrays and
            map-style datasets only.
        num_workers: processes that read a map-style dataset; 0 reads it in this process.
            Arrays and iterables are never read by workers.
        padding: the lengths to which the source pads sequences.
        argument: what the user calls the split, for errors.

    Raises:
        ValueError: `batch_size` or `num_workers` is out of range, or no batch would be left.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.loader import Loader
        >>> from nnx_alexnet.data.sources import ArraySource
        >>> source = ArraySource({"label": np.arange(5)})
        >>> for batch in Loader(source, batch_size=3).batches():
        ...     print(batch["label"], batch["mask"])
        [0 1 2] [ True  True  True]
        [3 4] [ True  True]
        >>> for batch in Loader(source, batch_size=3).batches(multiple=2):
        ...     print(batch["label"], batch["mask"])
        [0 1 2 0] [ True  True  True False]
        [3 4 3 4] [ True  True False False]
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int = 64,
        shuffle: bool = False,
        drop_last: bool = False,
        num_workers: int = 0,
        padding: Padding | None = None,
        argument: str = "data",
    ) -> None:
        check_bools(shuffle=shuffle, drop_last=drop_last)
        check_integer("batch_size", as_python(batch_size))
        check_integer("num_workers", as_python(num_workers), minimum=0)
        self.argument = argument
        self._padding = Padding() if padding is None else padding
        self._most: int | None = None  # batches per pass
        self.source = source
        self._batches: IndexedBatches | IterableBatches
        if isinstance(source, IterableSource):
            self._batches = IterableBatches(source, argument=argument)
        else:
            self._batches = IndexedBatches(
                source,
                batch_size=int(batch_size),
                shuffle=shuffle,
                drop_last=drop_last,
                num_workers=num_workers,
                argument=argument,
            )

    def __repr__(self) -> str:
        return f"<Loader {self.argument!r}: {loader_text(self)}>"

    def _repr_html_(self) -> str:
        return html_facts(loader_facts(self))

    def limited(self, number: int | None) -> "Loader":
        """Returns a view of the split whose passes end after at most `number` batches.

        The view shares the workers and the position of an iterable with this loader.

        Args:
            number: 1 or more; None removes a limit.
        """
        if number == self._most:
            return self
        view = copy.copy(self)
        view._most = number
        return view

    def in_order(self, *, drop_last: bool = False) -> "Loader":
        """Returns a loader of the same split without a limit, in the split's order.

        An iterable keeps its own order and its own batches.

        Args:
            drop_last: whether an incomplete last batch is left out (default False).
        """
        source = self.source
        if isinstance(source, IterableSource):
            source = source.complete()
            if source is self.source:
                return self.limited(None)
        return Loader(
            source,
            batch_size=self.batch_size,
            drop_last=drop_last,
            num_workers=self.num_workers,
            padding=self._padding,
            argument=self.argument,
        )

    # ---- The split ---------------------------------------------------------------------------

    @property
    def indexable(self) -> bool:
        """Whether examples can be read by index, so that `start` costs nothing."""
        return isinstance(self._batches, IndexedBatches)

    @property
    def stream(self) -> IterableBatches | None:
        """The batches of an iterable, which have a position; None if examples have an index."""
        return self._batches if isinstance(self._batches, IterableBatches) else None

    @property
    def num_workers(self) -> int:
        """How many processes read the examples; 0 if this one does."""
        return self._batches.num_workers

    @property
    def num_examples(self) -> int | None:
        """Examples in the split; None for an iterable, where it is not known."""
        return self._batches.num_examples

    @property
    def bad_samples(self) -> dict[int, str]:
        """Which examples could not be read so far, and why, with `on_bad_sample="skip"`."""
        return self._batches.bad.reasons if isinstance(self._batches, IndexedBatches) else {}

    def element_spec(self) -> ElementSpec:
        """Returns pytrees of the shapes and dtypes of one example, by name."""
        return self.source.element_spec()

    def some_images(self) -> np.ndarray | None:
        """Returns some images as the source has them, `[N, ...]`; None without a field `image`."""
        return self.source.some_images()

    def labels(self) -> np.ndarray | None:
        """Returns the class of every example, int32[num_examples].

        Returns:
            None if the labels are not classes, or are not known without reading all examples.
        """
        return self.source.labels()

    def labels_in_memory(self) -> np.ndarray | None:
        """Returns all labels, of any dtype and shape, that are known without reading examples.

        These are the labels of arrays, and the classes of a map-style dataset; see `labels`.
        """
        arrays = self.arrays()
        labels = self.labels() if arrays is None else arrays.get("label")
        return labels if isinstance(labels, np.ndarray) else None

    def arrays(self) -> Fields | None:
        """Returns all examples as arrays if they are in memory; None if they must be read."""
        source = self.source
        if isinstance(source, ArraySource) and source.is_in_memory:
            return dict(source.fields)
        return None

    def sample_digest(self) -> str | None:
        """Returns a SHA-256 that distinguishes these examples, equal in each process.

        See the `digest` of the sources for what they read.

        Returns:
            None if it is not known: for most iterables, and for a dataset whose examples cannot be
            read or differ at each reading.
        """
        return self.source.digest()

    # ---- Its batches -------------------------------------------------------------------------

    @property
    def is_limited(self) -> bool:
        """Whether each pass ends after a fixed number of batches; see `limited`."""
        return self._most is not None

    @property
    def batch_size(self) -> int:
        """Rows of a batch. For an iterable, those of its first one."""
        return self._batches.batch_size

    @property
    def drop_last(self) -> bool:
        """Whether an incomplete last batch is left out; always False for an iterable."""
        return self._batches.drop_last

    @property
    def num_left_out(self) -> int:
        """Examples of each epoch that `drop_last` leaves out."""
        return self._batches.num_left_out

    @property
    def num_batches(self) -> int | None:
        """Batches per epoch; None if the number is not known.

        For an iterable, this is the number in the newest complete pass. Before the first one, it
        is the number that the length of the iterable announces.
        """
        number = self._batches.num_batches
        return number if self._most is None else min(number or self._most, self._most)

    def count(self, number: int, batch: Batch) -> int:
        """Returns how many examples a batch of an epoch has, of all processes together.

        Args:
            number: of the batch, from 0.
            batch: the part of it that this process read.
        """
        return self._batches.count(number, batch)

    @property
    def has_several_lengths(self) -> bool:
        """Whether sequences are padded to several lengths, so that the shapes of batches differ."""
        return self._padding.has_choice

    @property
    def has_whole_batch(self) -> bool:
        """Whether a batch of `batch_size` examples, all of the same shapes, is known to exist."""
        is_enough = self.indexable and (self.num_examples or 0) >= self.batch_size
        return is_enough and not self.has_several_lengths

    def shortest_spec(self) -> ElementSpec:
        """Returns the `element_spec` with sequences padded to the shortest lengths."""
        return self._padding.spec(self.element_spec(), shortest=True)

    def lengths(self, batch: Batch) -> tuple[int, ...]:
        """Returns the lengths to which the sequences of a batch are padded, by field."""
        return self._padding.lengths(batch)

    def batches(
        self,
        *,
        epoch: int = 0,
        seed: int = 0,
        start: int = 0,
        reads: bool = True,
        multiple: int | None = None,
        part: Callable[[int], slice | None] | None = None,
        skips: bool = True,
        records: bool = False,
    ) -> Iterator[Batch]:
        """Yields the batches of one epoch.

        Rows of an iterable's batch that its own mask excludes are padding. They are yielded only
        if `multiple` asks for padding. Batches without any examples are skipped.

        Args:
            epoch: the epoch, from 0; a shuffled split has another order in each.
            seed: the seed of the run, not negative.
            start: how many batches to skip. An iterable is consumed up to there; elsewhere the
                skipped examples are not read.
            reads: whether the examples are read (default). Otherwise each batch consists of its
                `index` and `mask`, and `complete` adds the rest. Iterables are always read.
            multiple: None (default) yields each batch in its own size, without padding. A number
                pads all batches to one size: `batch_size`, rounded up to a multiple of it. Only a
                larger batch of an iterable has more rows, also a multiple of it.
            part: returns the rows to read and yield of a batch of a given size, or None for all
                of them (default: all). Other processes read the others. Does not apply to an
                iterable.
            skips: whether `on_bad_sample="skip"` applies; False raises for an example that cannot
                be read.
            records: whether the pass over an iterable records its positions (default False).

        Yields:
            The batches, as NumPy arrays that the caller may keep. They may be read-only: arrays
            that are read in order are not copied.

        Raises:
            ValueError: an argument is negative; or, while iterating, an example is not usable.
        """
        for name, value in (("epoch", epoch), ("seed", seed), ("start", start)):
            if value < 0:
                raise ValueError(f"`{name}` (={value}) must not be negative.")
        batches: Iterator[Batch]
        if isinstance(self._batches, IterableBatches):
            batches = self._batches.batches(epoch, start, multiple=multiple, records=records)
        else:
            batches = self._batches.batches(
                epoch, seed, start, reads=reads, multiple=multiple, part=part, skips=skips
            )
        if self._most is None:
            return batches
        return itertools.islice(batches, max(0, self._most - start))

    def complete(self, batch: Batch) -> Batch:
        """Returns a batch with all fields, which are read on access if it has only indices."""
        if is_complete(batch) or isinstance(self.source, IterableSource):
            return batch
        return from_indices(batch, self.arrays(), self.source)

    @property
    def cached(self) -> CachedRecords | None:
        """The records of the split in its cache; None without a cache."""
        return self._batches.records if isinstance(self._batches, IndexedBatches) else None

    def fill_cache(self) -> Iterator[int]:
        """Adds all missing examples to the cache, and yields the number of examples in each part.

        Raises:
            Exception: an example cannot be read; `on_bad_sample="skip"` reports it instead.
        """
        if isinstance(self._batches, IndexedBatches):
            yield from self._batches.fill_cache()

    def read_all(self) -> Fields:
        """Returns all examples of a split with a cache, and adds missing ones to the cache.

        Examples that cannot be read are replaced and reported as in `batches`.
        """
        assert isinstance(self._batches, IndexedBatches)
        return self._batches.read_all()

    def check_workers(self) -> None:
        """Raises a `ValueError` if workers are needed and cannot be started."""
        self._batches.check_workers()

    def close(self) -> None:
        """Ends the workers, if there are any; another epoch starts new ones."""
        self._batches.close()
