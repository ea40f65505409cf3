"""Reads the examples of a map-style dataset from a cache, and adds missing ones to it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from nnx_alexnet.data.batch_memory import BatchMemory
from nnx_alexnet.data.cached_records import CachedRecords
from nnx_alexnet.data.decoded_cache import as_bytes
from nnx_alexnet.data.examples import ElementSpec, Fields, Rows
from nnx_alexnet.data.map_source import MapSource
from nnx_alexnet.support import logger


class CachedSource(MapSource):
    """Reads each example of a map-style dataset only once.

    Args:
        dataset: see `MapSource`; it returns the same example each time it is read.
        records: the records of the examples.
        record: the fields that a record contains, of one example.
        known: the other fields, of all examples: arrays `[N, ...]` by name.
        key_of: returns the current key of an example. An example whose key has changed since the
            start is not added to the cache.
        options: see `MapSource`.

    Attributes:
        records: as given.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        records: CachedRecords,
        record: ElementSpec,
        known: Mapping[str, np.ndarray[Any, Any]] | None = None,
        key_of: Callable[[int], bytes] | None = None,
        **options: Any,
    ) -> None:
        self.records = records
        self._record = record
        self._specs: list[jax.ShapeDtypeStruct]
        self._structure: Any
        self._specs, self._structure = jax.tree.flatten(record)
        self._known = dict(known or {})
        self._key_of = key_of
        self._memory = BatchMemory()
        self._is_in_worker = False
        self._adds = True
        super().__init__(dataset, **options)

    def for_workers(self) -> CachedSource:
        """Returns a source that only adds examples to the cache.

        Its `take` returns no fields if all of the examples are in the cache afterwards.
        """
        made = copy.copy(self)
        made._is_in_worker = True
        return made

    def read(self, indices: np.ndarray[Any, Any]) -> tuple[Fields, np.ndarray[Any, Any]]:
        """Reads examples that are in the cache.

        Returns:
            The fields, in memory that is reused once nothing refers to them, and a mask of the rows
            that were read, bool `[B]`. The other rows have arbitrary values.
        """

        def empty(leaf: jax.ShapeDtypeStruct) -> np.ndarray[Any, Any]:
            return self._memory.empty((len(indices), *leaf.shape), leaf.dtype)

        fields: Fields = jax.tree.map(empty, self._record)
        is_read = self.records.read(indices, _leaves(fields))
        return fields | {name: array[indices] for name, array in self._known.items()}, is_read

    def take(self, indices: np.ndarray[Any, Any], *, seed: int, epoch: int) -> Rows:
        """Returns the examples at `indices`; see `for_workers`."""
        if self._is_in_worker:
            self.records.refresh()
            with contextlib.suppress(Exception):  # raised again, or skipped, below
                for index in indices.tolist():
                    self._example(index)
                if not len(self.records.missing(indices)):
                    return Rows({}, bad={})  # the default of `bad` cannot be pickled
        return super().take(indices, seed=seed, epoch=epoch)

    def _read_together(self, indices: np.ndarray[Any, Any]) -> Fields | None:
        self.records.refresh()
        if len(self.records.missing(indices)):
            return None
        fields, is_read = self.read(indices)
        return fields if is_read.all() else None

    def _example(self, index: int) -> Fields:
        if not self._is_in_worker:  # where `take` does it once for all examples
            self.records.refresh()
        if self.records.has(index):
            fields, is_read = self.read(np.array([index]))
            if is_read[0]:
                example: Fields = jax.tree.map(lambda array: array[0, ...], fields)
                return example
        example = super()._example(index)
        if self._adds:
            self._add(index, example)
        return example

    def _add(self, index: int, example: Fields) -> None:
        part = {name: example.get(name) for name in self._record}
        leaves, structure = jax.tree.flatten(part)
        if structure != self._structure or any(map(_differ, leaves, self._specs)):
            return  # the caller compares it with the first example, and raises the error
        key = self.records.keys[index].tobytes()
        if self._key_of is not None and self._key_of(index) != key:
            return  # the file has changed since the start
        buffers = [as_bytes(np.ascontiguousarray(leaf)) for leaf in leaves if leaf.nbytes]
        try:
            self.records.add(index, buffers)
        except OSError as error:
            self._adds = False
            logger.warning(
                "`%s`: the cache %s cannot be written: %s. Further examples are not added to it; "
                "they are decoded each time they are read.",
                self._argument, self.records.cache.folder, error.strerror or error,
            )  # fmt: skip


def _differ(value: Any, spec: jax.ShapeDtypeStruct) -> bool:
    return bool(value.shape != spec.shape or value.dtype != spec.dtype)


def _leaves(fields: Fields) -> list[np.ndarray[Any, Any]]:
    """Returns the arrays that are not empty, in the order in which a record stores them."""
    return [leaf for leaf in jax.tree.leaves(fields) if leaf.nbytes]
