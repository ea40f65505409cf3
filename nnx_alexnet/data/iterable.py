"""Batches that somebody else makes, as a source."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from nnx_alexnet.data.convert import unpack
from nnx_alexnet.data.rows import ElementSpec, Rows, as_rows
from nnx_alexnet.data.start import check_torch_workers
from nnx_alexnet.log import logger
from nnx_alexnet.paths import existing_working_directory


class IterableSource:
    """Batches that somebody else makes: a torch `DataLoader`, a list, any iterable.

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
        self._first: Rows | None = None
        # The iterator whose first batch was looked at; the next epoch goes on with it.
        self._opened: tuple[Rows, Iterator[Any]] | None = None
        self._told = False
        self._is_one_shot = False

    def _tell(self, message: str) -> None:
        if not self._told:
            logger.info(message)
        self._told = True

    def _convert(self, item: Any) -> Rows:
        rows = as_rows(*unpack(item, self._argument), self._argument, self._tell)
        # An iterable may fill one buffer again and again, while the batch is still on its way.
        mask = None if rows.mask is None else rows.mask.copy()
        return Rows(rows.image.copy(), rows.label.copy(), mask)

    def _open(self) -> tuple[Rows, Iterator[Any]]:
        if self._opened is not None:
            return self._opened
        self.check_workers()
        with existing_working_directory():  # which worker processes ask for
            iterator = iter(self._batches)
        item = None if self._is_one_shot else next(iterator, None)
        self._is_one_shot = iterator is self._batches
        if item is None and self._first is None:
            raise ValueError(f"`{self._argument}` is empty: it gave no batches.")
        if item is None:
            raise ValueError(
                f"`{self._argument}` (a {type(self._batches).__name__}) gave its batches once and "
                "has none for another pass. Pass a list of batches, a torch DataLoader, or an "
                "object whose __iter__ starts anew each time."
            )
        first = self._convert(item)
        if self._first is None:
            self._first = first
        self._opened = first, iterator
        return self._opened

    def _known_first(self) -> Rows:
        return self._first if self._first is not None else self._open()[0]

    @property
    def batch_size(self) -> int:
        """The size of the first batch, which is that of all others but ragged ones."""
        return len(self._known_first().image)

    def element_spec(self) -> ElementSpec:
        """Returns the shape and dtype of one image and one label, from the first batch."""
        return self._known_first().element_spec()

    def num_batches(self, *, drop_last: bool) -> int | None:
        """Returns how many batches a pass gives, or None if only counting would tell.

        Args:
            drop_last: whether ragged batches are left out.
        """
        batches: Any = self._batches
        try:
            if not drop_last:
                return len(batches)
            if isinstance(batches, Sequence):
                sizes = [len(unpack(item, self._argument)[0]) for item in batches]
                return sum(size == sizes[0] for size in sizes)
            if _is_torch_loader(batches):
                if batches.drop_last or batches.batch_size is None:
                    return len(batches)
                return len(batches.sampler) // int(batches.batch_size)
        except TypeError:  # there is no length
            pass
        return None

    def batches(self) -> Iterator[Rows]:
        """Yields one pass over the batches.

        Raises:
            ValueError: there is no other pass, or a batch does not fit to the first one.
        """
        first, rest = self._open()
        self._opened = None
        yield first
        spec, size = self.element_spec(), self.batch_size
        for position, item in enumerate(rest, start=1):
            rows = self._convert(item)
            if rows.element_spec() != spec or len(rows.image) > size:
                raise ValueError(
                    f"Batch {position} of `{self._argument}` has images {_text(rows.image)} and "
                    f"labels {_text(rows.label)}, the first batch had {size} examples of "
                    f"{_spec_text(spec)}; all must be alike, and none larger than the first."
                )
            yield rows

    def check_workers(self) -> None:
        """Raises a `ValueError` if this is a `DataLoader` whose workers cannot be started."""
        check_torch_workers(self._batches)

    def close(self) -> None:
        """Lets go of an iterator that was opened to look at the first batch."""
        if not self._is_one_shot:
            self._opened = None


def _text(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _spec_text(spec: ElementSpec) -> str:
    return " and ".join(f"{dtype}{list(shape)}" for shape, dtype in spec.values())


def _is_torch_loader(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.utils.data.DataLoader)
