"""Finds the labels and a digest of a map-style dataset by reading a few of its examples."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from nnx_alexnet.data.examples import Fields, evenly_spaced
from nnx_alexnet.data.known_labels import known_labels
from nnx_alexnet.data.seeding import restored_generators_of
from nnx_alexnet.support import logger

# How many examples are a sample, and for how many classes one more example is read.
_NUM_SAMPLED = 16
# Large examples are probably files that are decoded at each reading, in milliseconds.
_NUM_LARGE, _LARGE_BYTES = 8, 2**17

Read = Callable[[Iterable[int]], dict[int, Fields]]


class Probe:
    """Reads evenly spaced examples of a dataset, once, and keeps their digests and labels.

    Args:
        dataset: has `__len__`.
        example_bytes: the size of an example of the dataset.
        argument: what the user calls the split, for messages.
        is_trusted: whether the dataset is known to return the same example at each reading, with
            the label in its `targets`.
    """

    def __init__(
        self, dataset: Any, *, example_bytes: int, argument: str, is_trusted: bool = False
    ) -> None:
        self._dataset = dataset
        self._num = _NUM_SAMPLED if example_bytes <= _LARGE_BYTES else _NUM_LARGE
        self._argument = argument
        self._is_trusted = is_trusted
        self._indices = [int(index) for index in evenly_spaced(len(dataset), self._num)]
        self._sample: dict[int, tuple[bytes, Any]] | None = None
        self._is_repeatable = False
        self._labels: tuple[np.ndarray | None] | None = None

    def labels(self, read: Read) -> np.ndarray | None:
        """Returns the labels that the dataset has as an attribute if a sample agrees with them.

        Args:
            read: returns examples by index, except those that cannot be read.
        """
        if self._labels is None:
            self._labels = (self._checked_labels(read),)
        return self._labels[0]

    def digest(self, read: Read) -> str | None:
        """Returns a SHA-256 of the sample; None if it differs at each reading.

        Args:
            read: see `labels`.
        """
        sample = self._sampled(read)
        if len(sample) < len(self._indices) or not self._is_repeatable:
            return None
        digest = hashlib.sha256(str(len(self._dataset)).encode())
        for index, (bits, _) in sample.items():
            digest.update(str(index).encode() + bits)
        return digest.hexdigest()

    def _sampled(self, read: Read) -> dict[int, tuple[bytes, Any]]:
        if self._sample is None:
            # Twice before its generators are restored, so that random examples differ.
            with restored_generators_of(self._dataset):
                self._sample = _digested(read(self._indices))
                again = self._sample if self._is_trusted else _digested(read(self._indices))
            self._is_repeatable = _bits(self._sample) == _bits(again)
        return self._sample

    def _checked_labels(self, read: Read) -> np.ndarray | None:
        claimed = known_labels(self._dataset)
        if claimed is None or self._is_trusted:
            return claimed
        firsts = np.unique(claimed, return_index=True)[1]
        firsts = firsts[evenly_spaced(len(firsts), self._num)]
        sample = self._sampled(read)
        with restored_generators_of(self._dataset):
            sample = sample | _digested(read(i for i in firsts.tolist() if i not in sample))
        for index, (_, label) in sorted(sample.items()):
            if not isinstance(label, np.ndarray):
                return None  # the examples have no label
            if not _is_class(label) or label != claimed[index]:
                own = label.tolist() if np.size(label) < 9 else f"a label of shape {label.shape}"
                logger.info(
                    "`%s`: an attribute of the dataset, `targets` or `labels`, has %d for example "
                    "%d, but the example itself has %s. The attribute is not used.",
                    self._argument, claimed[index], index, own,
                )  # fmt: skip
                return None
        return claimed if sample else None


def _digested(examples: dict[int, Fields]) -> dict[int, tuple[bytes, Any]]:
    found = {}
    for index, example in examples.items():
        digest = hashlib.sha256()
        for path, array in jax.tree_util.tree_leaves_with_path(example):
            what = f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}"
            digest.update(what.encode() + array.tobytes())
        found[index] = digest.digest(), example.get("label")
    return found


def _is_class(label: np.ndarray) -> bool:
    return label.dtype.kind in "iu" and not label.ndim


def _bits(sample: dict[int, tuple[bytes, Any]]) -> dict[int, bytes]:
    return {index: bits for index, (bits, _) in sample.items()}
