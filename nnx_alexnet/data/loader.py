"""The batches of one split: their order, size and padding."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from nnx_alexnet.data.batching import Batch, Planned, fields_of, padded, planned, rounded_up
from nnx_alexnet.data.examples import ElementSpec
from nnx_alexnet.data.iterable_source import IterableSource
from nnx_alexnet.data.seeding import order
from nnx_alexnet.data.sources import ArraySource, MapSource, Source
from nnx_alexnet.data.worker_process import BatchRequest
from nnx_alexnet.data.workers import Workers
from nnx_alexnet.support import as_python, check_integer, logger

_MOST_BAD = 0.01  # of a split


class Loader:
    """Yields the batches of one split.

    The order of a shuffled epoch is a function of (seed, epoch) alone. Each example is in one
    batch of an epoch. A last batch that is not full is smaller, or, with `drop_last`, left out;
    an iterable may give batches of any sizes, of which none is left out.

    Args:
        source: the examples.
        batch_size: rows of a batch. An iterable source has batches of its own.
        shuffle: whether the order changes from epoch to epoch.
        drop_last: whether a last batch that is not full is left out; of arrays and map-style
            datasets only.
        num_workers: processes that read a map-style dataset; 0 reads it in this process.
            Arrays and iterables are never read by workers.
        argument: what the user calls the split, for errors.

    Attributes:
        argument: as given.
        bad_samples: which examples could not be read so far, and why, where that is no error.
        num_workers: how many processes read the examples; 0 where this one does.

    Raises:
        ValueError: `batch_size` or `num_workers` is out of range, or no batch would be left.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.loader import Loader
        >>> from nnx_alexnet.data.sources import ArraySource
        >>> source = ArraySource(np.zeros((5, 8, 8, 1), np.uint8), np.arange(5))
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
        argument: str = "data",
    ) -> None:
        check_integer("batch_size", as_python(batch_size))
        check_integer("num_workers", as_python(num_workers), minimum=0)
        if not isinstance(source, IterableSource) and drop_last and batch_size > len(source):
            raise ValueError(
                f"`batch_size` (={batch_size}) is larger than the {argument} split, which has "
                f"{len(source)} examples, so that no full batch is left. "
                f"A `batch_size` of at most {len(source)} works, or drop_last=False."
            )
        self._source = source
        self._batch_size = int(batch_size)
        self._shuffle = shuffle
        self._drop_last = drop_last and not isinstance(source, IterableSource)
        self.argument = argument
        self.bad_samples: dict[int, str] = {}
        self._workers: Workers | None = None
        self.num_workers = num_workers if isinstance(source, MapSource) else 0
        if num_workers and isinstance(source, MapSource):
            self._workers = Workers(source, num_workers=num_workers, argument=argument)

    @property
    def indexable(self) -> bool:
        """Whether examples can be read by index, so that `start` costs nothing."""
        return not isinstance(self._source, IterableSource)

    @property
    def batch_size(self) -> int:
        """Rows of a batch. For an iterable, those of its first one."""
        if isinstance(self._source, IterableSource):
            return self._source.batch_size
        return self._batch_size

    @property
    def drop_last(self) -> bool:
        """Whether a last batch that is not full is left out; never of an iterable."""
        return self._drop_last

    @property
    def num_examples(self) -> int | None:
        """Examples in the split; None for an iterable, where it is not known."""
        return None if isinstance(self._source, IterableSource) else len(self._source)

    @property
    def num_left_out(self) -> int:
        """Examples of each epoch that `drop_last` leaves out."""
        if isinstance(self._source, IterableSource) or not self._drop_last:
            return 0
        return len(self._source) % self._batch_size

    @property
    def num_batches(self) -> int | None:
        """Batches of an epoch; None where only counting would tell.

        For an iterable it is the number that the newest complete pass gave, or, before the first
        one, the one that its length claims.
        """
        if isinstance(self._source, IterableSource):
            return self._source.num_batches
        full, rest = divmod(len(self._source), self._batch_size)
        return full + int(rest > 0 and not self._drop_last)

    def count(self, number: int, batch: Batch) -> int:
        """Returns how many examples a batch of an epoch holds, of all processes together.

        Args:
            number: of the batch, from 0.
            batch: what this process read of it.
        """
        if isinstance(self._source, IterableSource):
            return int(np.count_nonzero(batch["mask"]))
        return min(self._batch_size, len(self._source) - number * self._batch_size)

    def element_spec(self) -> ElementSpec:
        """Returns `{"image": (shape, dtype), "label": (shape, dtype)}` of one example."""
        return self._source.element_spec()

    def some_images(self) -> np.ndarray:
        """Returns some images as the source holds them, `[N, ...]`: of an iterable a batch."""
        return self._source.some_images()

    def labels(self) -> np.ndarray | None:
        """Returns the class of every example, int32[num_examples].

        Returns:
            None if the labels are not classes, or are not known without reading all examples.
        """
        return None if isinstance(self._source, IterableSource) else self._source.labels()

    def labels_in_memory(self) -> np.ndarray | None:
        """Returns all labels of whatever dtype and shape that are known without reading examples.

        Those are the labels of arrays, and the classes of a map-style dataset; see `labels`.
        """
        arrays = self.arrays()
        return self.labels() if arrays is None else arrays["label"]

    def arrays(self) -> Batch | None:
        """Returns all of `image` and `label`, if they lie in memory; None if they must be read."""
        if not isinstance(self._source, ArraySource):
            return None
        rows = self._source.rows
        return {"image": rows.image, "label": rows.label}

    def sample_digest(self) -> str | None:
        """Returns a SHA-256 that tells these examples from others, the same in each process.

        Arrays of up to 64 MB are digested whole; of larger ones, the shape and 256 evenly spaced
        rows. Of a map-style dataset, also that of a `DataLoader`, 16 evenly spaced examples (8 of
        large images) are read twice, and of a list of batches 16 batches, of each 16 rows.

        Returns:
            None if it is not known: for other iterables, and for a dataset whose examples cannot
            be read or differ at each reading.
        """
        dataset = self._source.dataset() if isinstance(self._source, IterableSource) else None
        if dataset is None:
            return self._source.digest()
        try:
            return MapSource(dataset, argument=self.argument).digest()
        except Exception:  # its examples may be of any form before they are collated
            return None

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
    ) -> Iterator[Batch]:
        """Yields the batches of one epoch.

        Rows of an iterable's batch that its own mask leaves out are padding, and not yielded
        unless `multiple` asks for padding; batches without any examples are skipped.

        Args:
            epoch: the epoch, from 0; a shuffled split has another order in each.
            seed: the seed of the run, not negative.
            start: how many batches to skip. An iterable is consumed up to there; elsewhere the
                skipped examples are not read.
            reads: whether the examples are read (default), or each batch is its `index` and
                `mask` alone, which `complete` fills. Of an iterable they are always read.
            multiple: None (the default) yields each batch in its own size, without padding. A
                number pads all to one size: `batch_size`, rounded up to a multiple of it. Only a
                larger batch of an iterable has more rows, also a multiple of it.
            part: returns which rows of a batch of a size to read and yield (default all, or None):
                another process takes the others. Not of an iterable.
            skips: whether `on_bad_sample="skip"` applies; False raises for an example that cannot
                be read.

        Yields:
            The batches, NumPy arrays that the caller may keep.

        Raises:
            ValueError: an argument is negative; or, while iterating, an example is not usable.
        """
        for name, value in (("epoch", epoch), ("seed", seed), ("start", start)):
            if value < 0:
                raise ValueError(f"`{name}` (={value}) must not be negative.")
        if isinstance(self._source, IterableSource):
            return self._iterate(self._source, epoch, start, multiple)
        num, step = len(self._source), self._batch_size
        indices = order(num, seed=seed, epoch=epoch) if self._shuffle else np.arange(num)
        stop = num - num % step if self._drop_last else num
        plan = planned(indices[:stop], step, start=start, multiple=multiple, part=part)
        return self._gather(plan, epoch, seed, start, skips) if reads else self._indices(plan)

    def complete(self, batch: Batch) -> Batch:
        """Returns a batch with its `image` and `label`, which are read if they are not in it."""
        arrays = self.arrays()
        if "image" in batch or arrays is None:
            return batch
        return {name: values[batch["index"]] for name, values in arrays.items()} | batch

    def _indices(self, plan: list[Planned]) -> Iterator[Batch]:
        for each in plan:
            yield padded({"mask": np.ones(len(each.rows), bool)}, each)

    def _gather(
        self, plan: list[Planned], epoch: int, seed: int, start: int, skips: bool
    ) -> Iterator[Batch]:
        source = self._source
        assert not isinstance(source, IterableSource)
        if self._workers is not None:
            requests = [
                BatchRequest(each.rows, seed, epoch, start + n) for n, each in enumerate(plan)
            ]
            read = self._workers.read(requests)
        else:
            if isinstance(source, MapSource):
                source.begin_pass()
            read = (source.take(each.rows, seed=seed, epoch=epoch) for each in plan)
        for each, got in zip(plan, read, strict=True):
            batch = padded(fields_of(got), each)
            if got.bad:
                if not skips:
                    raise self._unreadable(got.bad)
                self._note_bad(got.bad)
                if not self._shuffle:  # a measurement counts no example twice
                    batch["mask"] &= ~np.isin(batch["index"], list(got.bad))
            yield batch

    def _unreadable(self, bad: Mapping[int, str]) -> ValueError:
        index, why = next(iter(bad.items()))
        return ValueError(
            f"`{self.argument}`[{index}] cannot be read: {why}. A prediction has one row per "
            'example, so `on_bad_sample="skip"` cannot leave one out; repair the file, or remove '
            "it from the dataset."
        )

    def _note_bad(self, bad: Mapping[int, str]) -> None:
        """Reports examples that others stood in for, and raises when there are too many."""
        assert not isinstance(self._source, IterableSource)
        most = max(1, round(_MOST_BAD * len(self._source)))
        for index, why in bad.items():
            if index in self.bad_samples:
                continue
            self.bad_samples[index] = why
            if len(self.bad_samples) > most:
                raise ValueError(
                    f"More than {most} examples of `{self.argument}` (1%) cannot be read, the "
                    f"newest is `{self.argument}`[{index}]: {why}. Mend the files; "
                    '`on_bad_sample="skip"` is for single ones.'
                )
            what = "another example stands in for it" if self._shuffle else "it is left out"
            logger.warning(
                "`%s`[%d] cannot be read, %s (number %d of at most %d): %s",
                self.argument, index, what, len(self.bad_samples), most, why,
            )  # fmt: skip

    def _iterate(
        self, source: IterableSource, epoch: int, start: int, multiple: int | None
    ) -> Iterator[Batch]:
        if start:
            logger.info("Skipping %d batches of an iterable by reading them.", start)
        position = given = 0
        for rows in source.batches(epoch):
            fields, num = fields_of(rows), len(rows.image)
            count, index = num, np.arange(position, position + num)
            if rows.mask is not None:  # padding of somebody else counts nothing
                count = int(np.count_nonzero(rows.mask))
                index = position + np.cumsum(rows.mask) - rows.mask
            if not count:
                continue
            given, position = given + 1, position + count
            if given <= start:
                continue
            if multiple is not None:
                num = rounded_up(max(source.batch_size, num), multiple)
            elif count < num:
                fields = {name: values[rows.mask] for name, values in fields.items()}
                index, num = index[rows.mask], count
            yield padded(fields, Planned(index, len(index), num))
        if not given:
            raise ValueError(f"`{self.argument}` gave batches, but their masks exclude every row.")
        source.note_count(given)

    def check_workers(self) -> None:
        """Raises a `ValueError` if there are to be workers and they cannot be started."""
        if self._workers is not None:
            self._workers.check()
        if isinstance(self._source, IterableSource):
            self._source.check_workers()

    def close(self) -> None:
        """Ends the workers, if there are any; another epoch starts new ones."""
        if self._workers is not None:
            self._workers.close()
        if isinstance(self._source, IterableSource):
            self._source.close()
