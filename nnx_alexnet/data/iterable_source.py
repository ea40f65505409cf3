"""Reads the batches of an iterable, such as a torch `DataLoader`."""

import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nnx_alexnet.data.batch_lists import has_examples, list_digest
from nnx_alexnet.data.convert import Report, once
from nnx_alexnet.data.example_batches import ExampleBatches
from nnx_alexnet.data.examples import PAIR, ElementSpec, Rows, as_rows, difference
from nnx_alexnet.data.map_source import MapSource
from nnx_alexnet.data.padding import Padding
from nnx_alexnet.data.stream_positions import Mark
from nnx_alexnet.data.stream_state import Stream
from nnx_alexnet.data.torch_loader import (
    announced_length,
    check_torch_workers,
    has_worker_copies,
    hides_epochs,
    map_dataset_of,
    set_epoch,
)
from nnx_alexnet.support import existing_working_directory, logger

_WORKERS_REPEAT = (
    " Every worker of a DataLoader reads the whole IterableDataset, unless the dataset uses "
    "torch.utils.data.get_worker_info() to select its part."
)
_START = Mark()


class _Pass(NamedTuple):
    """One pass over the batches; `first` is its first batch, None if there was none left."""

    epoch: int
    first: Rows | None
    stream: Stream


class IterableSource:
    """Reads batches from a torch `DataLoader`, a list or any other iterable.

    Batches may differ in size. Before each pass, `set_epoch` is called on the iterable and on its
    `sampler`, `batch_sampler` and `dataset`, if they have that method.

    Args:
        batches: each one a dict of pytrees of arrays `[B, ...]`, optionally with a `mask`, or a
            tuple. Torch tensors `[B, C, H, W]` called `image` are transposed to NHWC.
        names: of the values of a tuple (default `("image", "label")`).
        padding: the lengths to which sequences are padded (default: all have one length).
        argument: what the user calls the split, for errors.
        report: receives messages about converted dtypes and axes (default: the log).

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.sources import IterableSource
        >>> source = IterableSource([(np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1]))])
        >>> source.batch_size, [rows.fields["label"].tolist() for rows in source.batches()]
        (2, [[0, 1]])
    """

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        names: Sequence[str] = PAIR,
        padding: Padding | None = None,
        argument: str = "data",
        report: Report = logger.info,
    ) -> None:
        self._report = once(report)
        self._padding = Padding() if padding is None else padding
        self._batches = batches
        self._names = tuple(names)
        self._argument = argument
        self._lock = threading.RLock()
        self._first: Rows | None = None
        self._opened: _Pass | None = None  # to read the first batch
        self._depends_on_epoch = False
        self._is_one_shot = False
        self._kind: str | None = None
        self._counted: int | None = None  # batches of the newest complete pass
        self._reported: set[str] = set()

    def _convert(self, item: Any) -> Rows:
        report = self._report if self._first is None else None
        rows = as_rows(item, self._names, self._argument, report)
        if self._padding:
            example = jax.tree.map(lambda x: np.empty(x.shape[1:], x.dtype), rows.fields)
            padding = self._padding.of(example, self._argument)
            rows = rows._replace(fields=padding.padded(rows.fields, self._argument))
        # An iterable may reuse one buffer while the batch is still being sent.
        mask = None if rows.mask is None else rows.mask.copy()
        return Rows(jax.tree.map(np.array, rows.fields), mask)

    def _start(self, epoch: int, start: Mark = _START) -> _Pass:
        """Starts a pass, or the rest of one, and reads the first batch that has any rows."""
        is_new = start.given == 0
        if self._is_one_shot and (is_new or start.state is None):
            raise self._exhausted()
        self.check_workers()
        self._depends_on_epoch = set_epoch(self._batches, epoch)
        self._warn_of_persistent_workers()
        with existing_working_directory():  # worker processes ask for it
            stream = Stream(
                self._batches, argument=self._argument, state=start.state, is_end=is_new
            )
        self._is_one_shot = stream.iterator is self._batches
        self._kind = stream.kind
        for item in stream.iterator:
            first = self._convert(item)
            if first.num:
                if self._first is None:
                    self._first = first
                return _Pass(epoch, first, stream)
        if not is_new:
            return _Pass(epoch, None, stream)
        if start.state is not None:  # it is at the end of the previous pass
            return self._start(epoch)
        raise self._empty() if self._first is None else self._exhausted()

    def _peek(self) -> Rows:
        """Returns the first batch of the first pass, and keeps that pass for `batches`."""
        with self._lock:
            if self._first is None:
                self._opened = self._start(epoch=0)
            assert self._first is not None
            return self._first

    def _take(self, epoch: int, start: Mark) -> _Pass:
        """Returns the pass that was opened to read its first batch, or a new one."""
        with self._lock:
            opened, self._opened = self._opened, None
            if opened is None:
                return self._start(epoch, start)
            is_other = opened.epoch != epoch and self._depends_on_epoch and not self._is_one_shot
            if is_other or start.given or start.state is not None:
                opened.stream.close()
                return self._start(epoch, start)
            return opened

    @property
    def batch_size(self) -> int:
        """The number of rows of the first batch; other batches may have more or fewer."""
        return self._peek().num

    def element_spec(self) -> ElementSpec:
        """Returns the shape and dtype of each array of one example, from the first batch."""
        return self._padding.spec(self._peek().element_spec())

    def some_images(self) -> np.ndarray | None:
        """Returns the array `image` of the first batch, if there is one."""
        images = self._peek().fields.get("image")
        return images if isinstance(images, np.ndarray) else None

    @property
    def num_batches(self) -> int | None:
        """The number of batches with examples in a pass; None if it is not known.

        This is the number in the newest complete pass. Before the first one, it is the number that
        the length of the iterable announces.
        """
        if self._counted is not None:
            return self._counted
        batches: Any = self._batches
        if isinstance(batches, list | tuple):
            return sum(has_examples(item, self._names) for item in batches)
        try:
            return announced_length(batches) or None
        except Exception:  # it has no length
            return None

    def note_count(self, number: int) -> None:
        """Stores the number of batches in a complete pass; warns if another one was announced."""
        announced, self._counted = self.num_batches, number
        if announced in (None, number) or "count" in self._reported:
            return
        self._reported.add("count")
        reason = _WORKERS_REPEAT if has_worker_copies(self._batches) else ""
        logger.warning(
            "`%s` yielded %d batches in a pass, not %d as its length or the previous pass "
            "announced. The newest number is used from now on.%s",
            self._argument, number, announced, reason,
        )  # fmt: skip

    def _warn_of_copies(self, first: Rows, second: Rows) -> None:
        """Warns if the first batches of two workers are equal."""
        if not has_worker_copies(self._batches) or "copies" in self._reported:
            return
        pairs = zip(jax.tree.leaves(first.fields), jax.tree.leaves(second.fields), strict=True)
        if all(np.array_equal(*pair) for pair in pairs):
            self._reported.add("copies")
            logger.warning(
                "The first two batches of `%s` are identical, so examples may be counted several "
                "times.%s",
                self._argument, _WORKERS_REPEAT,
            )  # fmt: skip

    def complete(self) -> "IterableSource":
        """Returns a source that leaves out no example: this one, unless it drops a last batch."""
        batches = self._batches
        if not isinstance(batches, ExampleBatches) or not batches.drop_last:
            return self
        return IterableSource(
            batches.complete(),
            names=self._names,
            padding=self._padding,
            argument=self._argument,
            report=self._report,
        )

    def batches(self, epoch: int = 0) -> Iterator[Rows]:
        """Yields the batches of one pass, except those without rows.

        Args:
            epoch: the argument of `set_epoch`.

        Raises:
            ValueError: there is no other pass, or a batch has other shapes or dtypes than the
                first one.
        """
        yield from self.open(epoch)[1]

    def open(self, epoch: int, start: Mark = _START) -> tuple[Stream, Iterator[Rows]]:
        """Opens a pass, or the rest of one.

        Args:
            epoch: the argument of `set_epoch`.
            start: where the pass starts (default: at its first batch).

        Returns:
            The pass, whose state is that after the newest batch, and its batches.

        Raises:
            ValueError: see `batches`; or the iterable does not accept the state of `start`.
        """
        opened = self._take(epoch, start)
        return opened.stream, self._rows(opened, start.given)

    def _rows(self, opened: _Pass, given: int) -> Iterator[Rows]:
        spec = self.element_spec()
        first = [] if opened.first is None else [opened.first]
        rest = map(self._convert, opened.stream.iterator)
        before: Rows | None = None
        for position, rows in enumerate(itertools.chain(first, rest), start=given):
            how = difference(self._padding.spec(rows.element_spec()), spec)
            if how is not None:
                raise ValueError(
                    f"Batch {position} of `{self._argument}` differs from the first batch: {how}, "
                    "for one example. Only the number of examples may differ, and the lengths of "
                    "fields in `pad_to`."
                )
            if position == 1 and before is not None:
                self._warn_of_copies(before, rows)
            before = rows if position == 0 else None
            if rows.num:
                yield rows

    @property
    def kind(self) -> str | None:
        """The method that returns the state of a pass, see `Stream.kind`; None without a state."""
        self._peek()
        return self._kind

    def check_state(self) -> None:
        """Raises a `ValueError` if a checkpoint cannot hold the state of the iterable."""
        self._peek()
        with self._lock:
            if self._opened is not None:
                self._opened.stream.read_state()

    def labels(self) -> np.ndarray | None:
        """Returns None: the labels are not known without a pass over the batches."""
        return None

    def digest(self) -> str | None:
        """Returns a SHA-256 of a list, or of a `DataLoader`'s dataset as of a map-style dataset.

        Of a list, 16 batches and 16 rows of each are digested.

        Returns:
            None for any other iterable, and for a dataset whose examples are not usable before
            they are collated.
        """
        if isinstance(self._batches, list | tuple):
            return list_digest(self._batches, self._convert)
        dataset = map_dataset_of(self._batches)
        if dataset is None:
            return None
        try:
            return MapSource(dataset, names=self._names, argument=self._argument).digest()
        except Exception:  # its examples may be of any form before they are collated
            return None

    def check_workers(self) -> None:
        """Raises a `ValueError` if this is a `DataLoader` whose workers cannot be started."""
        check_torch_workers(self._batches)

    def close(self) -> None:
        """Drops an iterator that was opened to read the first batch."""
        with self._lock:
            if self._opened is not None and not self._is_one_shot:
                self._opened.stream.close()
                self._opened = None

    def _empty(self) -> ValueError:
        why = ""
        size = getattr(self._batches, "batch_size", None)
        if getattr(self._batches, "drop_last", False) and size:
            why = (
                f" Its drop_last=True leaves out a batch of fewer examples than its batch_size, "
                f"{size}; drop_last=False keeps it."
            )
        return ValueError(f"`{self._argument}` is empty: it yielded no batches.{why}")

    def _exhausted(self) -> ValueError:
        return ValueError(
            f"`{self._argument}` (a {type(self._batches).__name__}) yielded its batches "
            "once and has none left for another pass. Pass a list of batches, a torch DataLoader, "
            "or an object whose __iter__ starts from the beginning each time."
        )

    def _warn_of_persistent_workers(self) -> None:
        if hides_epochs(self._batches) and "workers" not in self._reported:
            self._reported.add("workers")
            logger.warning(
                "The workers of `%s` persist across epochs, so `set_epoch` may not reach their "
                "copies of its dataset. To be sure that it does, use "
                "DataLoader(persistent_workers=False).",
                self._argument,
            )
