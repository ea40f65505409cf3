"""Chooses the caches of map-style datasets, and refuses datasets that cannot be cached."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nnx_alexnet.data.cache_folders import cached_records, check_room
from nnx_alexnet.data.cached_source import CachedSource
from nnx_alexnet.data.decoded_cache import KEY_BYTES
from nnx_alexnet.data.examples import evenly_spaced
from nnx_alexnet.data.seeding import (
    generator_states,
    restored_generators,
    restored_generators_of,
    seed_example,
)
from nnx_alexnet.data.sources import MapSource, Source

_NUM_SAMPLED = 16


def cached_sources(sources: Mapping[str, Source], place: Path) -> dict[str, Source]:
    """Returns sources that read the splits through caches.

    A cache is identified by the type and length of the dataset, its classes if they are known in
    advance, the shapes and dtypes of an example, and a sample of 16 examples, which is read twice
    to notice random ones. If the dataset has `samples` that begin with paths, as torchvision's
    folders do, an example is read again if its file or the rest of its sample has changed.

    Args:
        sources: by the name of the split.
        place: the folder of the caches.

    Raises:
        ValueError: a split is not a map-style dataset, its examples differ at each reading or in
            length, or the disk is too small.
    """
    made = {}
    for argument, source in sources.items():
        made[argument] = _prepared(source, argument, place)
    check_room([options["records"] for _, options in made.values()], place)
    return {
        name: CachedSource(dataset, report=_ignore, **options)
        for name, (dataset, options) in made.items()
    }


def _ignore(_: str) -> None:
    """Reports nothing: the dtypes of the examples have already been reported."""


def _prepared(source: Source, argument: str, place: Path) -> tuple[Any, dict[str, Any]]:
    """Returns the dataset of a split, and the other arguments of its `CachedSource`."""
    if not isinstance(source, MapSource):
        raise ValueError(
            f"`cache` is for map-style datasets, whose examples are read one by one, but "
            f"`{argument}` is not one: arrays are in memory already, and the examples of an "
            "iterable have no index. Use cache=False."
        )
    if source.has_lengths:
        raise ValueError(
            f"`cache` is for examples of one size, but `pad_to` gives those of `{argument}` "
            "several lengths. Use cache=False."
        )
    dataset, record = source.dataset, source.element_spec()
    about = {
        "data": f"{type(dataset).__module__}.{type(dataset).__qualname__}",
        "examples": len(source),
        "sample": _sample_digest(source, argument),
    }
    labels = source.labels()
    if labels is not None:
        about["labels"] = hashlib.sha256(labels.tobytes()).hexdigest()
    key_of = ExampleKeys(dataset)
    digests = b"".join(map(key_of, range(len(source))))
    keys = np.frombuffer(digests, np.uint8).reshape(-1, KEY_BYTES)
    records = cached_records(place, about, record, [keys])[0]
    return dataset, {"records": records, "record": record, "key_of": key_of, **source.options}


def _sample_digest(source: MapSource, argument: str) -> str:
    """Returns a digest of a sample of examples.

    Raises:
        ValueError: they depend on the seed, the epoch, or how often they were read.
    """
    indices = evenly_spaced(len(source), _NUM_SAMPLED)
    digests = set()
    with restored_generators_of(source.dataset):
        for seed in (0, 1):
            digest = hashlib.sha256()
            rows = source.take(indices, seed=seed, epoch=seed)
            for array in jax.tree.leaves(rows.fields):
                digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            digests.add(digest.hexdigest())
        source.begin_pass()
        if len(digests) > 1 or any(_draws(source.dataset, index) for index in indices.tolist()):
            raise ValueError(
                f"`cache` is for examples that are the same at each reading, but `{argument}` "
                "changes them at random or from epoch to epoch. Apply random transforms in the "
                "compiled step (`transform`), or use cache=False."
            )
    return digests.pop()


def _draws(dataset: Any, index: int) -> bool:
    """Returns whether random numbers are drawn while an example is read."""
    with restored_generators():
        seed_example(0, 0, index)
        before = pickle.dumps(generator_states(dataset))
        with contextlib.suppress(Exception):  # decoders raise all kinds of exceptions
            dataset[index]
        return pickle.dumps(generator_states(dataset)) != before


class ExampleKeys:
    """Computes the keys of examples from their index, their file and what belongs to it.

    Args:
        dataset: if it has `samples` that begin with paths, as torchvision's folders do, these are
            the files, and the other values of a sample are what belongs to its file.

    Example:
        >>> from nnx_alexnet.data.dataset_cache import ExampleKeys
        >>> ExampleKeys(["a", "b"])(1).hex()
        'cea3878a334b240469d159ff840b6434'
    """

    def __init__(self, dataset: Any) -> None:
        self._samples = _samples(dataset)

    def __call__(self, index: int) -> bytes:
        """Returns the current key of an example, 16 bytes."""
        text = str(index)
        if self._samples is not None:
            path, *others = self._samples[index]
            with contextlib.suppress(OSError):  # reading it raises the error
                about = os.stat(path)  # noqa: PTH116  # a million `Path`s are slow
                text += f" {about.st_size} {about.st_mtime_ns} {path!r} {others!r}"
        return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest()


def _samples(dataset: Any) -> list[tuple[Any, ...]] | None:
    """Returns tuples that begin with the file of each example, as torchvision has them."""
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):  # torch.utils.data.Subset
        whole = _samples(dataset.dataset)
        return None if whole is None else [whole[index] for index in dataset.indices]
    samples = getattr(dataset, "samples", None)
    if not isinstance(samples, list) or len(samples) != len(dataset):
        return None
    have_paths = all(
        isinstance(sample, tuple) and sample and isinstance(sample[0], str | os.PathLike)
        for sample in samples
    )
    return samples if have_paths else None
