"""Selects the columns of named datasets, and holds out their validation splits."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nnx_alexnet.data.dataset_splits import (
    DatasetRequest,
    Splits,
    channel_statistics,
    held_out_rows,
)
from nnx_alexnet.data.examples import evenly_spaced
from nnx_alexnet.support import unknown

SPLIT_NAMES = {
    "train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test",
}  # fmt: skip
"""The names that splits have in files, and the argument of `DataModule` that each belongs to."""

TRANSLATE = 0.08  # images of unknown content are not mirrored, which could change their class
_SAMPLED_IMAGES = 256


class ArrayRows:
    """A map-style dataset of some rows of arrays, which are read one at a time.

    Args:
        arrays: with the rows along the first axis. Memory-mapped ones are not read as a whole.
        indices: of the rows.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.column_splits import ArrayRows
        >>> ArrayRows({"x": np.arange(5) * 10}, np.array([1, 4]))[1]
        {'x': np.int64(40)}
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], indices: np.ndarray) -> None:
        self._arrays = arrays
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: array[self._indices[index]] for name, array in self._arrays.items()}

    @property
    def targets(self) -> np.ndarray | None:
        """The column `label`, or None."""
        labels = self._arrays.get("label")
        return None if labels is None else np.asarray(labels[self._indices])


def new_names(names: Iterable[str], request: DatasetRequest) -> dict[str, str]:
    """Returns the columns to use, by their own names, with the names that the batch gets.

    Args:
        names: of all columns.
        request: its `columns` and `rename` are applied.

    Raises:
        ValueError: a name does not exist, or two columns would have the same one.
    """
    names = list(names)
    for argument, wanted in (("columns", request.columns or ()), ("rename", request.rename)):
        for name in wanted:
            if name not in names:
                raise unknown(argument, name, names)
    kept = [name for name in names if request.columns is None or name in request.columns]
    renamed = {name: request.rename.get(name, name) for name in kept}
    twice = [name for name in renamed.values() if list(renamed.values()).count(name) > 1]
    if twice:
        raise ValueError(
            f"`rename` (={dict(request.rename)}) gives two columns the name {twice[0]!r}. Leave "
            "one of them out with `columns`."
        )
    return renamed


def array_splits(splits: Mapping[str, Mapping[str, np.ndarray]], request: DatasetRequest) -> Splits:
    """Returns splits of arrays; without a validation split, 10% of train are held out.

    Args:
        splits: the arrays of "train", and optionally of "val" and "test", by name.
        request: what `load_data` was called with.
    """
    train: Any = splits["train"]
    val: Any = splits.get("val")
    mean, std = statistics(train.get("image"))
    if val is None:
        num = len(next(iter(train.values())))
        kept, held = held_out_rows(num, train.get("label"), seed=request.seed)
        train, val = _part(train, kept), _part(train, held)
    return Splits(
        train=train, val=val, test=splits.get("test"), mean=mean, std=std, translate=TRANSLATE
    )


def _part(arrays: Mapping[str, np.ndarray], indices: np.ndarray) -> Any:
    if any(isinstance(array, np.memmap) for array in arrays.values()):
        return ArrayRows(arrays, indices)
    return {name: array[indices] for name, array in arrays.items()}


def statistics(
    images: np.ndarray | None,
) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    """Returns mean and standard deviation of each channel of images; None if there are none.

    Args:
        images: `[N, H, W, C]`; only 256 of them are read if they are memory-mapped. Arrays of other
            ranks are not images.
    """
    if images is None or images.ndim != 4:
        return None, None
    if isinstance(images, np.memmap):
        images = np.asarray(images[evenly_spaced(len(images), _SAMPLED_IMAGES)])
    return channel_statistics(images)
