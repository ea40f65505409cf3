"""Selects examples to show: correct, uncertain and wrong predictions."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

NUM_EXAMPLES = 8  # of each kind
_MAX_CLASSES = 32  # whose correct examples are kept, since each holds an image


@dataclass
class Example:
    """One example with its prediction.

    Attributes:
        index: its index in its split.
        label: its class.
        predicted: the predicted class.
        confidence: the probability of the predicted class.
        second: the second most probable class.
        second_confidence: its probability.
        fields: the values of the example by name, before the transform; each with an axis of
            length 1 for the batch.
        saliency: `float32[H, W]` from 0 to 1, how much each pixel matters; None if not computed.
    """

    index: int
    label: int
    predicted: int
    confidence: float
    second: int
    second_confidence: float
    fields: dict[str, Any] = field(repr=False)
    saliency: NDArray[np.float32] | None = field(default=None, repr=False)


class Notable:
    """Keeps the examples to show, while batches of predictions arrive.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.report.notable import Notable
        >>> notable = Notable()
        >>> rows = np.array([[0.9, 0.1], [0.4, 0.6]])
        >>> notable.add({"image": np.zeros((2, 1))}, np.arange(2), np.array([0, 0]), rows)
        >>> {kind: [each.index for each in found] for kind, found in notable.examples().items()}
        {'correct': [0], 'uncertain': [1, 0], 'wrong': [1]}
    """

    def __init__(self) -> None:
        self._correct: dict[int, Example] = {}  # the most confident of each class
        self._ranked: dict[str, list[tuple[float, int, Example]]] = {"uncertain": [], "wrong": []}
        self._count = 0

    def add(
        self,
        fields: Mapping[str, Any],
        indices: NDArray[Any],
        labels: NDArray[np.int64],
        probabilities: NDArray[Any],
    ) -> None:
        """Adds a batch.

        Args:
            fields: the values of the examples by name, `[B, ...]`; those kept are copied.
            indices: `[B]`, their indices in the split.
            labels: `[B]`, their classes.
            probabilities: `[B, K]`.
        """
        top = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
        first, second = np.take_along_axis(probabilities, top, axis=1).T
        correct = top[:, 0] == labels

        def example(row: int) -> Example:
            return Example(
                index=int(indices[row]),
                label=int(labels[row]),
                predicted=int(top[row, 0]),
                confidence=float(first[row]),
                second=int(top[row, 1]),
                second_confidence=float(second[row]),
                fields=jax.tree.map(lambda array: array[row : row + 1].copy(), dict(fields)),
            )

        is_kept = correct & (labels % -(-probabilities.shape[1] // _MAX_CLASSES) == 0)
        for row in _sorted(first, is_kept):
            known = self._correct.get(int(labels[row]))
            if known is None or known.confidence < first[row]:
                self._correct[int(labels[row])] = example(row)
        everything = np.ones(len(labels), bool)
        self._rank("uncertain", second - first, everything, example)
        self._rank("wrong", first, ~correct, example)

    def _rank(self, kind: str, values: NDArray[Any], mask: NDArray[Any], example: Any) -> None:
        """Keeps the examples with the largest values; of equal ones, the first."""
        kept = self._ranked[kind]
        for row in _sorted(values, mask)[:NUM_EXAMPLES]:
            self._count += 1
            if len(kept) == NUM_EXAMPLES and kept[0][0] >= values[row]:
                continue
            push = heapq.heappush if len(kept) < NUM_EXAMPLES else heapq.heapreplace
            push(kept, (float(values[row]), -self._count, example(row)))

    def examples(self) -> dict[str, list[Example]]:
        """Returns the examples by kind, each in order.

        "correct" has the most confident correct prediction of evenly spaced classes,
        "uncertain" those whose two most probable classes are closest, correct or not, and "wrong"
        the most confident mistakes.
        """
        classes = sorted(self._correct)
        spaced = np.linspace(0, len(classes) - 1, min(NUM_EXAMPLES, len(classes)))
        by_class = [self._correct[classes[round(place)]] for place in spaced]
        ranked = {
            kind: [each for _, _, each in sorted(kept, key=lambda entry: entry[:2], reverse=True)]
            for kind, kept in self._ranked.items()
        }
        return {"correct": by_class, **ranked}


def _sorted(values: NDArray[Any], mask: NDArray[Any]) -> list[int]:
    """Returns the rows where the mask holds, the largest value first."""
    rows = np.flatnonzero(mask)
    order: list[int] = rows[np.argsort(-values[rows], kind="stable")].tolist()
    return order
