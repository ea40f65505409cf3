"""The batches of one split: their order, size and padding."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from nnx_alexnet.data.iterable import IterableSource
from nnx_alexnet.data.randomness import order
from nnx_alexnet.data.rows import ElementSpec, Rows
from nnx_alexnet.data.sources import ArraySource, MapSource, Source
from nnx_alexnet.data.workers import Request, Workers
from nnx_alexnet.log import logger

Batch = dict[str, np.ndarray]
"""One batch: `image` (uint8 or float32 `[B, ...]`), `label` (int32 `[B]`, or float32 of any
trailing shape), `mask` (bool `[B]`, False where a row is padding) and `index` (int32 `[B]`, the
example's index in its split; for an iterable, its position in the epoch)."""

_MOST_BAD = 0.01  # of a split


class _Planned(NamedTuple):
    """What is read of a batch: the examples, how many of them count, and the rows with padding."""

    rows: np.ndarray
    num: int
    size: int


class Loader:
    """Yields the batches of one split, all of one size.

    The order of a shuffled epoch is a function of (seed, epoch) alone. A last batch that is not
    full is dropped, or padded by repeating its own rows, which the mask then leaves out.

    Args:
        source: the examples.
        batch_size: rows of a batch. An iterable source brings its own.
        shuffle: whether the order changes from epoch to epoch.
        drop_last: whether a last batch that is not full is left out.
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
        [3 4 3] [ True  True False]
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
        for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
                raise ValueError(f"`{name}` (={value!r}) must be an integer of at least {least}.")
        if not isinstance(source, IterableSource) and drop_last and batch_size > len(source):
            raise ValueError(
                f"`batch_size` (={batch_size}) is larger than the {argument} split, which has "
                f"{len(source)} examples, so that no full batch is left. "
                f"A `batch_size` of at most {len(source)} works, or drop_last=False."
            )
        self._source = source
        self._batch_size = int(batch_size)
        self._shuffle = shuffle
        self._drop_last = drop_last
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
        """Rows of a batch. For an iterable this looks at its first batch."""
        if isinstance(self._source, IterableSource):
            return self._source.batch_size
        return self._batch_size

    @property
    def drop_last(self) -> bool:
        """Whether a last batch that is not full is left out."""
        return self._drop_last

    @property
    def num_examples(self) -> int | None:
        """Examples in the split; None for an iterable, where it is not known."""
        return None if isinstance(self._source, IterableSource) else len(self._source)

    @property
    def num_batches(self) -> int | None:
        """Batches of an epoch; None where only counting would tell."""
        if isinstance(self._source, IterableSource):
            return self._source.num_batches(drop_last=self._drop_last)
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

    def labels(self) -> np.ndarray | None:
        """Returns the class of every example, int32[num_examples].

        Returns:
            None if the labels are not classes, or are not known without decoding the images.
        """
        return None if isinstance(self._source, IterableSource) else self._source.labels()

    def sample_digest(self) -> str | None:
        """STUB"""
        import hashlib

        arrays = self.arrays()
        return (
            None
            if arrays is None
            else hashlib.sha256(
                b"".join(np.ascontiguousarray(a).tobytes() for a in arrays.values())
            ).hexdigest()
        )

    def labels_in_memory(self) -> np.ndarray | None:
        """Returns the label of every example where they lie in memory, None elsewhere."""
        arrays = self.arrays()
        return self.labels() if arrays is None else arrays["label"]

    def arrays(self) -> Batch | None:
        """Returns all of `image` and `label`, if they lie in memory; None if they must be read."""
        if not isinstance(self._source, ArraySource):
            return None
        rows = self._source.rows
        return {"image": rows.image, "label": rows.label}

    def batches(
        self,
        *,
        epoch: int = 0,
        seed: int = 0,
        start: int = 0,
        reads: bool = True,
        size: int | None = None,
        part: slice | None = None,
    ) -> Iterator[Batch]:
        """Yields the batches of one epoch.

        Args:
            epoch: the epoch, from 0; a shuffled split has another order in each.
            seed: the seed of the run, not negative.
            start: how many batches to skip. An iterable is consumed up to there; elsewhere the
                skipped examples are not read.
            reads: whether the examples are read (default), or each batch is its `index` and
                `mask` alone, which `complete` fills. Of an iterable they are always read.
            size: rows of what is yielded, if it is more than `batch_size`: the others are padding.
            part: which rows of each batch to read and yield (default all): another process
                takes the others. Not of an iterable.

        Yields:
            The batches, NumPy arrays that the caller may keep.

        Raises:
            ValueError: an argument is negative; or, while iterating, an example is not usable.
        """
        for name, value in (("epoch", epoch), ("seed", seed), ("start", start)):
            if value < 0:
                raise ValueError(f"`{name}` (={value}) must not be negative.")
        if isinstance(self._source, IterableSource):
            assert part is None, "its examples have no index by which processes could share them"
            return self._iterate(self._source, start, size or self.batch_size)
        plan = self._plan(epoch, seed, start, size or self._batch_size, part)
        return self._gather(plan, epoch, seed, start) if reads else self._indices(plan)

    def complete(self, batch: Batch) -> Batch:
        """Returns a batch with its `image` and `label`, which are read if they are not in it."""
        arrays = self.arrays()
        if "image" in batch or arrays is None:
            return batch
        return {name: values[batch["index"]] for name, values in arrays.items()} | batch

    def _plan(
        self, epoch: int, seed: int, start: int, size: int, part: slice | None
    ) -> list[_Planned]:
        """Returns which examples the rows of each batch of an epoch hold, from `start` on."""
        assert not isinstance(self._source, IterableSource)
        num, step = len(self._source), self._batch_size
        indices = order(num, seed=seed, epoch=epoch) if self._shuffle else np.arange(num)
        stop = num - num % step if self._drop_last else num
        whole = slice(0, size) if part is None else part
        num_rows = len(range(size)[whole])
        plan = []
        for first in range(start * step, stop, step):
            batch = indices[first : first + step]
            rows = batch[whole]  # of a ragged batch perhaps none: then all are padding
            plan.append(_Planned(rows if len(rows) else batch[:1], len(rows), num_rows))
        return plan

    def _indices(self, plan: list[_Planned]) -> Iterator[Batch]:
        for planned in plan:
            yield _padded({"mask": np.ones(len(planned.rows), bool)}, planned)

    def _gather(self, plan: list[_Planned], epoch: int, seed: int, start: int) -> Iterator[Batch]:
        assert not isinstance(self._source, IterableSource)
        if self._workers is not None:
            requests = [Request(each.rows, seed, epoch, start + n) for n, each in enumerate(plan)]
            read = self._workers.read(requests)
        else:
            source = self._source
            read = (source.take(each.rows, seed=seed, epoch=epoch) for each in plan)
        for planned, got in zip(plan, read, strict=True):
            batch = _padded(_fields(got), planned)
            if got.bad:
                self._note_bad(got.bad)
                if not self._shuffle:  # a measurement counts no example twice
                    batch["mask"] &= ~np.isin(batch["index"], list(got.bad))
            yield batch

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

    def _iterate(self, source: IterableSource, start: int, size: int) -> Iterator[Batch]:
        if start:
            logger.info("Skipping %d batches of an iterable by reading them.", start)
        position = given = 0
        for rows in source.batches():
            num = len(rows.image)
            if num < source.batch_size and self._drop_last:
                continue
            given += 1
            if given > start:
                index = np.arange(position, position + num)
                yield _padded(_fields(rows), _Planned(index, num, size))
            position += num

    def close(self) -> None:
        """Ends the workers, if there are any; another epoch starts new ones."""
        if self._workers is not None:
            self._workers.close()
        if isinstance(self._source, IterableSource):
            self._source.close()


def _fields(rows: Rows) -> Batch:
    mask = np.ones(len(rows.image), bool) if rows.mask is None else rows.mask
    return {"image": rows.image, "label": rows.label, "mask": mask}


def _padded(fields: Batch, planned: _Planned) -> Batch:
    """Returns a batch of the rows that were read, repeated in order as often as needed."""
    batch = {**fields, "index": planned.rows.astype(np.int32)}
    if planned.num < planned.size:
        repeated = np.arange(planned.size) % len(planned.rows)
        batch = {key: value[repeated] for key, value in batch.items()}
        batch["mask"][planned.num :] = False
    return batch
