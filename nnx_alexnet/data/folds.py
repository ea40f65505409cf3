"""Divides the train split of data into folds, for cross-validation."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from nnx_alexnet.data.loader import Loader
from nnx_alexnet.data.padding import Padding
from nnx_alexnet.data.sources import ArraySource, MapSource, Source
from nnx_alexnet.support import check_integer

if TYPE_CHECKING:
    from nnx_alexnet.data.data_module import DataModule


def folds(data: DataModule, num: int, *, seed: int = 0) -> Iterator[DataModule]:
    """Yields the data of each fold; see `DataModule.folds`."""
    check_integer("num", num, minimum=2)
    check_integer("seed", seed, minimum=0)
    train = data.train
    if not isinstance(train.source, ArraySource | MapSource):
        raise ValueError(
            f"`train` is a {type(train.source).__name__}, whose examples cannot be divided into "
            "folds; that needs arrays, or a map-style dataset without `cache`."
        )
    num_examples = train.num_examples or 0
    if num > num_examples:
        raise ValueError(
            f"`num` (={num}) must be at most the number of training examples, {num_examples}."
        )
    return _folds(data, _parts(train, num, seed))


def _folds(data: DataModule, parts: list[np.ndarray]) -> Iterator[DataModule]:
    for held_out in parts:
        rest = np.setdiff1d(np.arange(data.train.num_examples or 0), held_out)
        fold = copy.copy(data)
        fold.train = _loader(data, rest, is_train=True)
        fold.val_sets = {"val": _loader(data, held_out, is_train=False)}
        yield fold


def _parts(train: Loader, num: int, seed: int) -> list[np.ndarray]:
    """Returns the indices of each part: with equal shares of each class if they are known."""
    from sklearn.model_selection import KFold, StratifiedKFold

    labels, num_examples = train.labels(), train.num_examples or 0
    is_stratified = labels is not None and np.bincount(labels - labels.min()).max() >= num
    splitter = (StratifiedKFold if is_stratified else KFold)(num, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class may have fewer examples than there are folds; some folds then lack it.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return [part for _, part in splitter.split(np.zeros(num_examples), labels)]


def _loader(data: DataModule, indices: np.ndarray, *, is_train: bool) -> Loader:
    train, argument = data.train, "train" if is_train else "val"
    return Loader(
        _subset(train.source, indices, argument, data.padding),
        batch_size=train.batch_size,
        shuffle=is_train,
        drop_last=is_train and train.drop_last,
        num_workers=train.num_workers,
        padding=data.padding,
        argument=argument,
    )


def _subset(source: Source, indices: np.ndarray, argument: str, padding: Padding) -> Source:
    if isinstance(source, ArraySource):
        rows = source.take(indices, seed=0, epoch=0).fields
        return ArraySource(rows, argument=argument)
    assert isinstance(source, MapSource)
    from torch.utils.data import Subset

    options = {**source.options, "argument": argument}
    return MapSource(Subset(source.dataset, indices.tolist()), padding=padding, **options)
