"""Views of data with fewer batches: limits, a quick trial, and overfitting on a few batches."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import jax

from nnx_alexnet.data.batching import Batch
from nnx_alexnet.data.composition import Transform
from nnx_alexnet.data.data_module import DataModule
from nnx_alexnet.data.examples import ElementSpec
from nnx_alexnet.data.loader import Loader
from nnx_alexnet.support import as_python, check_integer

LimitBatches = int | float | dict[str, int | float]

_SPLITS = ("train", "val", "test")


def limited_data(
    data: DataModule,
    *,
    limit_batches: LimitBatches | None = None,
    overfit_batches: int | None = None,
    fast_dev_run: bool | int = False,
) -> DataModule:
    """Returns a view of data with fewer batches; the data themselves if there is no limit.

    Args:
        data: the data.
        limit_batches: batches per pass over each split, or over those that a dict names: an int is
            a number of batches, and a float a fraction of them, rounded down to at least one
            batch. A larger number has no effect. A shuffled split has other examples in each epoch.
        overfit_batches: the number of batches that are used for training and validation alike,
            unshuffled and without the augmentation of the transform. The test split is unchanged.
        fast_dev_run: True or a number of batches limits all splits to it, and overrides the
            other arguments.

    Raises:
        ValueError: a limit is out of range, names no split, or is a fraction of an iterable
            without a length; or the batches to overfit on are those of an iterable.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data import DataModule
        >>> from nnx_alexnet.data.limited import limited_data
        >>> split = np.zeros((40, 2)), np.zeros(40, np.int32)
        >>> data = DataModule(split, split, batch_size=4)
        >>> data = limited_data(data, limit_batches={"train": 0.5})
        >>> data.train.num_batches, data.val.num_batches
        (5, 10)
    """
    overfit_batches, fast_dev_run = as_python(overfit_batches), as_python(fast_dev_run)
    limits = _limits(limit_batches)
    if overfit_batches is not None:
        check_integer("overfit_batches", overfit_batches, also=(None,))
        if limits:
            raise ValueError(
                f"`overfit_batches` (={overfit_batches}) and `limit_batches` (={limit_batches!r}) "
                "both choose the batches. Pass only one of them."
            )
    check_integer("fast_dev_run", fast_dev_run, also=(True, False))
    if fast_dev_run:
        limits = dict.fromkeys(_SPLITS, int(fast_dev_run))
    if overfit_batches is not None:
        data = _same_batches(data, overfit_batches)
    if not limits:
        return data
    view = copy.copy(data)
    view.train = _limited(view.train, limits.get("train"))
    view.val_sets = {
        name: _limited(loader, limits.get("val")) for name, loader in view.val_sets.items()
    }
    view.test = None if view.test is None else _limited(view.test, limits.get("test"))
    return view


def _limits(given: LimitBatches | None) -> dict[str, int | float]:
    """Returns the limit of each limited split."""
    if given is None:
        return {}
    limits = dict(given) if isinstance(given, Mapping) else dict.fromkeys(_SPLITS, given)
    limits = {split: as_python(limit) for split, limit in limits.items()}
    if unknown := [name for name in limits if name not in _SPLITS]:
        raise ValueError(
            f"`limit_batches` (={given!r}) names an unknown split, {unknown[0]!r}. The splits are "
            "'train', 'val' and 'test'."
        )
    for limit in limits.values():
        is_number = isinstance(limit, int | float) and not isinstance(limit, bool)
        if not is_number or not limit > 0 or (isinstance(limit, float) and limit > 1):
            raise ValueError(
                f"`limit_batches` (={given!r}) must be a positive number of batches such as 10, a "
                "fraction above 0.0 and at most 1.0, or a dict of them by split, such as "
                '{"train": 0.1, "val": 10}.'
            )
    return limits


def _limited(loader: Loader, limit: int | float | None) -> Loader:
    if isinstance(limit, float):
        if loader.num_batches is None:
            raise ValueError(
                f"`limit_batches` (={limit}) is a fraction, but `{loader.argument}` is an iterable "
                'without a length. A number of batches works, such as {"train": 100}.'
            )
        # Rounded first: 0.29 * 100 is a little less than 29.
        limit = max(1, int(round(limit * loader.num_batches, 6)))
    if limit is None:
        return loader
    if loader.argument == "train" and loader.stream is not None and loader.stream.kind is not None:
        raise ValueError(
            f"`limit_batches` (={limit}) ends each pass over `train` early, but the state of "
            f"the stream ({loader.stream.kind}) covers whole passes. Limit the examples of the "
            "loader itself."
        )
    return loader.limited(limit)


def _same_batches(data: DataModule, number: int) -> DataModule:
    """Returns a view whose train and validation splits are the same batches, in order."""
    if not data.train.indexable:
        raise ValueError(
            f"`overfit_batches` (={number}) needs a train split of arrays or of a map-style "
            "dataset, whose examples have an order; `train` is an iterable of batches. "
            "DataModule(batches[:1], batches[:1]) does the same with a list of batches."
        )
    whole = data.train.num_batches
    view = copy.copy(data)
    view.train = data.train.in_order(drop_last=data.train.drop_last)
    view.train = view.train.limited(min(number, whole or number))
    view.val_sets = dict.fromkeys(data.val_sets or ["val"], view.train)
    view.transform = cast(Transform, WithoutAugmentation(data.transform))
    return view


class WithoutAugmentation:
    """Applies a transform in training as in evaluation.

    Args:
        transform: the transform.

    Example:
        >>> from nnx_alexnet.data import ImageTransform
        >>> from nnx_alexnet.data.limited import WithoutAugmentation
        >>> WithoutAugmentation(ImageTransform(flip=True)).std
        (1.0,)
    """

    def __init__(self, transform: Transform) -> None:
        self._transform = transform
        self.mean = transform.mean
        self.std = transform.std

    def __call__(self, batch: Mapping[str, Any], key: jax.Array | None = None) -> Batch:
        """Returns the batch as the transform does in evaluation."""
        found: Batch = self._transform(batch, None)
        return found

    def describe(self) -> dict[str, Any]:
        """Returns the description of the transform."""
        return self._transform.describe()

    def check(self, spec: ElementSpec, *, may_lack_fields: bool = False) -> ElementSpec:
        """Returns the shapes of one example after the transform."""
        return self._transform.check(spec, may_lack_fields=may_lack_fields)
