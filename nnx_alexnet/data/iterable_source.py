"""Batches that somebody else makes, as a source."""

import hashlib
import itertools
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from nnx_alexnet.data.convert import to_numpy, unpack
from nnx_alexnet.data.examples import ElementSpec, Rows, as_rows, evenly_spaced
from nnx_alexnet.data.worker_start import check_torch_workers
from nnx_alexnet.support import existing_working_directory, logger

_WORKERS_REPEAT = (
    " Every worker of a DataLoader reads the whole IterableDataset, unless the dataset uses "
    "torch.utils.data.get_worker_info() to select its part."
)
_NUM_DIGESTED = 16  # batches of a list, and rows of each
# What a loader holds that may give other examples in another epoch.
_HELD = ("sampler", "batch_sampler", "dataset")


class _Pass(NamedTuple):
    """One pass over the batches, of which the first is read."""

    epoch: int
    first: Rows
    rest: Iterator[Any]


class IterableSource:
    """Batches that somebody else makes: a torch `DataLoader`, a list, any iterable.

    They may have any sizes. Before each pass, `set_epoch` is called on the iterable and on its
    `sampler`, `batch_sampler` and `dataset`, where they have that method.

    Args:
        batches: each one `(images, labels)`, or a mapping with `image`, `label` and perhaps
            `mask`. Torch tensors `[B, C, H, W]` are turned to NHWC.
        argument: what the user calls the split, for errors.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.sources import IterableSource
        >>> source = IterableSource([(np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1]))])
        >>> source.batch_size, [rows.label.tolist() for rows in source.batches()]
        (2, [[0, 1]])
    """

    def __init__(self, batches: Iterable[Any], *, argument: str = "data") -> None:
        self._batches = batches
        self._argument = argument
        self._lock = threading.RLock()
        self._first: Rows | None = None
        self._opened: _Pass | None = None  # to look at the first batch; not given yet
        self._depends_on_epoch = False
        self._is_one_shot = False
        self._counted: int | None = None  # batches of the newest pass that was whole
        self._told: set[str] = set()

    def _tell(self, message: str) -> None:
        if "axes" not in self._told:
            logger.info("%s", message)
        self._told.add("axes")

    def _convert(self, item: Any) -> Rows:
        rows = as_rows(*unpack(item, self._argument), self._argument, self._tell)
        # An iterable may fill one buffer again and again, while the batch is still on its way.
        mask = None if rows.mask is None else rows.mask.copy()
        return Rows(rows.image.copy(), rows.label.copy(), mask)

    def _start(self, epoch: int) -> _Pass:
        """Starts a pass, and reads its first batch that has any rows."""
        if self._is_one_shot:
            raise self._exhausted()
        self.check_workers()
        self._depends_on_epoch = set_epoch(self._batches, epoch)
        self._warn_of_persistent_workers()
        with existing_working_directory():  # which worker processes ask for
            iterator = iter(self._batches)
        self._is_one_shot = iterator is self._batches
        for item in iterator:
            first = self._convert(item)
            if len(first.image):
                if self._first is None:
                    self._first = first
                return _Pass(epoch, first, iterator)
        raise self._empty() if self._first is None else self._exhausted()

    def _peek(self) -> Rows:
        """Returns the first batch of the first pass, and keeps that pass for `batches`."""
        with self._lock:
            if self._first is None:
                self._opened = self._start(epoch=0)
            assert self._first is not None
            return self._first

    def _take(self, epoch: int) -> _Pass:
        """Returns the pass that was opened to look at its first batch, or else a new one."""
        with self._lock:
            opened, self._opened = self._opened, None
            is_other = opened is not None and opened.epoch != epoch and self._depends_on_epoch
            if opened is None or (is_other and not self._is_one_shot):
                return self._start(epoch)
            return opened

    @property
    def batch_size(self) -> int:
        """The number of rows of the first batch; the others may have any."""
        return len(self._peek().image)

    def element_spec(self) -> ElementSpec:
        """Returns the shape and dtype of one image and one label, from the first batch."""
        return self._peek().element_spec()

    def some_images(self) -> np.ndarray:
        """Returns the images of the first batch."""
        return self._peek().image

    @property
    def num_batches(self) -> int | None:
        """How many batches with examples a pass gives; None where only counting would tell.

        It is the number that the newest complete pass gave, or, before the first one, the one
        that the length of the iterable claims.
        """
        if self._counted is not None:
            return self._counted
        batches: Any = self._batches
        if isinstance(batches, list | tuple):
            return sum(map(_has_examples, batches))
        try:
            return _length(batches) or None
        except Exception:  # there is no length
            return None

    def note_count(self, number: int) -> None:
        """Notes how many batches a complete pass gave, and reports what claimed another number."""
        believed, self._counted = self.num_batches, number
        if believed in (None, number) or "count" in self._told:
            return
        self._told.add("count")
        logger.warning(
            "`%s` gave %d batches in a pass, not %d as its length or the previous pass announced. "
            "From now on the newest number is used.%s",
            self._argument, number, believed, _WORKERS_REPEAT if self._has_worker_copies else "",
        )  # fmt: skip

    @property
    def _has_worker_copies(self) -> bool:
        dataset = getattr(self._batches, "dataset", None)
        return is_torch_iterable(dataset) and getattr(self._batches, "num_workers", 0) > 1

    def _warn_of_copies(self, first: Rows, second: Rows) -> None:
        """Warns where the first batches of two workers are one and the same."""
        if not self._has_worker_copies or "copies" in self._told:
            return
        pairs = ((first.image, second.image), (first.label, second.label))
        if all(np.array_equal(*pair) for pair in pairs):
            self._told.add("copies")
            logger.warning(
                "The first two batches of `%s` are identical, so examples may be counted several "
                "times.%s",
                self._argument, _WORKERS_REPEAT,
            )  # fmt: skip

    def batches(self, epoch: int = 0) -> Iterator[Rows]:
        """Yields one pass over the batches, without those that have no rows.

        Args:
            epoch: what `set_epoch` is called with.

        Raises:
            ValueError: there is no other pass, or a batch is not of the kind of the first one.
        """
        opened = self._take(epoch)
        spec = self.element_spec()
        rest = map(self._convert, opened.rest)
        before: Rows | None = None
        for position, rows in enumerate(itertools.chain([opened.first], rest)):
            if rows.element_spec() != spec:
                raise ValueError(
                    f"Batch {position} of `{self._argument}` has images {_text(rows.image)} and "
                    f"labels {_text(rows.label)}, the first batch had examples of "
                    f"{_spec_text(spec)}; all must be alike, except for the number of examples."
                )
            if position == 1 and before is not None:
                self._warn_of_copies(before, rows)
            before = rows if position == 0 else None
            if len(rows.image):
                yield rows

    def digest(self) -> str | None:
        """Returns a SHA-256 of rows of some batches of a list; None for any other iterable."""
        if not isinstance(self._batches, list | tuple):
            return None
        digest = hashlib.sha256(str(len(self._batches)).encode())
        for number in evenly_spaced(len(self._batches), _NUM_DIGESTED):
            rows = self._convert(self._batches[number])
            for array in (rows.image, rows.label, rows.mask):
                if array is not None:
                    part = array[evenly_spaced(len(array), _NUM_DIGESTED)]
                    digest.update(f"{array.dtype}{array.shape}".encode() + part.tobytes())
        return digest.hexdigest()

    def dataset(self) -> Any:
        """Returns the map-style dataset of a torch `DataLoader`; None of other iterables."""
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(self._batches, torch.utils.data.DataLoader):
            return None
        dataset = self._batches.dataset
        return None if is_torch_iterable(dataset) else dataset

    def check_workers(self) -> None:
        """Raises a `ValueError` if this is a `DataLoader` whose workers cannot be started."""
        check_torch_workers(self._batches)

    def close(self) -> None:
        """Lets go of an iterator that was opened to look at the first batch."""
        with self._lock:
            if not self._is_one_shot:
                self._opened = None

    def _empty(self) -> ValueError:
        why = ""
        size = getattr(self._batches, "batch_size", None)
        if getattr(self._batches, "drop_last", False) and size:
            why = (
                f" Its drop_last=True leaves out a batch of fewer examples than its batch_size, "
                f"{size}; drop_last=False keeps it."
            )
        return ValueError(f"`{self._argument}` is empty: it gave no batches.{why}")

    def _exhausted(self) -> ValueError:
        return ValueError(
            f"`{self._argument}` (a {type(self._batches).__name__}) gave its batches once and has "
            "none left for another pass. Pass a list of batches, a torch DataLoader, or an object "
            "whose __iter__ starts from the beginning each time."
        )

    def _warn_of_persistent_workers(self) -> None:
        batches: Any = self._batches
        dataset = getattr(batches, "dataset", None)
        is_unseen = getattr(batches, "persistent_workers", False) and hasattr(dataset, "set_epoch")
        if is_unseen and "workers" not in self._told:
            self._told.add("workers")
            logger.warning(
                "The workers of `%s` persist across epochs, so `set_epoch` may not reach their "
                "copies of its dataset. To be sure that it does, use "
                "DataLoader(persistent_workers=False).",
                self._argument,
            )


def set_epoch(holder: Any, epoch: int) -> bool:
    """Calls `set_epoch(epoch)` on an object, and on its sampler, batch sampler and dataset.

    Returns:
        Whether any of them has that method.

    Example:
        >>> from types import SimpleNamespace
        >>> from nnx_alexnet.data.iterable_source import set_epoch
        >>> sampler = SimpleNamespace(set_epoch=print)
        >>> set_epoch(SimpleNamespace(batch_sampler=SimpleNamespace(sampler=sampler)), 3)
        3
        True
    """
    waiting, seen, is_any = [holder], set(), False
    while waiting:
        part = waiting.pop(0)
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        method = getattr(part, "set_epoch", None)
        if callable(method):
            method(epoch)
            is_any = True
        waiting += [getattr(part, name, None) for name in _HELD]
    return is_any


def is_torch_iterable(value: object) -> bool:
    """Returns whether this is an `IterableDataset`, which inherits a `__getitem__` it has not."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.utils.data.IterableDataset)


def _length(batches: Any) -> int:
    dataset: Any = getattr(batches, "dataset", None)
    if not is_torch_iterable(dataset):
        return len(batches)
    # Once it was asked for its length, a DataLoader itself warns where that is wrong.
    num, size = len(dataset), batches.batch_size
    if size is None:
        return num
    return int(num // size if batches.drop_last else -(-num // size))


def _has_examples(item: Any) -> bool:
    try:
        image, _, mask = unpack(item, "data")
        return len(image) > 0 and (mask is None or bool(to_numpy(mask, "mask").any()))
    except (TypeError, ValueError):  # the pass will say what is wrong with it
        return True


def _text(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _spec_text(spec: ElementSpec) -> str:
    return " and ".join(f"{dtype}{list(shape)}" for shape, dtype in spec.values())
