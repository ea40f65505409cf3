"""Creates the loaders of all splits of a `DataModule`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnx_alexnet.data.checks import check_distinct
from nnx_alexnet.data.convert import once
from nnx_alexnet.data.dataset_cache import cached_sources
from nnx_alexnet.data.loader import Loader
from nnx_alexnet.data.padding import Padding
from nnx_alexnet.data.sources import OnBadSample, Source, as_source
from nnx_alexnet.data.validation_sets import validation_sets
from nnx_alexnet.support import logger


def split_loaders(
    train: Any,
    val: Any,
    test: Any,
    *,
    names: tuple[str, ...],
    padding: Padding,
    batch_size: int,
    drop_last: bool,
    num_workers: int,
    on_bad_sample: OnBadSample,
    place: Path | None,
) -> dict[str, Loader]:
    """Returns the loader of each split by the prefix of its metrics: "train", "val/clean", "test".

    Only `train` is shuffled, and only there an incomplete last batch may be left out.

    Args:
        train: see `DataModule`, also for the other arguments that are not explained here.
        val: one validation split, or a dict of several; None for none.
        test: None for none.
        names: the fields of a tuple.
        padding: the lengths to which sequences are padded.
        batch_size: rows of a batch.
        drop_last: whether an incomplete last batch of train is left out.
        num_workers: processes that read each map-style dataset.
        on_bad_sample: what happens if an example cannot be read.
        place: the folder of the caches of decoded examples; None for no cache.

    Raises:
        ValueError: a split has an unknown form, cannot be cached, or is the iterator of another.
    """
    report = once(logger.info)

    def source_of(split: Any, argument: str) -> Source:
        return as_source(
            split,
            argument=argument,
            names=names,
            padding=padding,
            on_bad_sample=on_bad_sample,
            batch_size=batch_size,
            drop_last=argument == "train" and drop_last,
            report=report,
        )

    sources = {"train": source_of(train, "train")}
    others = validation_sets(val, sources["train"].element_spec)
    others |= {} if test is None else {"test": test}
    check_distinct(train=train, **others)
    sources |= {argument: source_of(split, argument) for argument, split in others.items()}
    if place is not None:
        sources = cached_sources(sources, place)
    return {
        argument: Loader(
            source,
            batch_size=batch_size,
            shuffle=argument == "train",
            drop_last=argument == "train" and drop_last,
            num_workers=num_workers,
            padding=padding,
            argument=argument,
        )
        for argument, source in sources.items()
    }
