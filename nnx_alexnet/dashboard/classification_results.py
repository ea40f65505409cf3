"""Collects the correct and wrong predictions of a classifier over a split, batch by batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

# The number of batches whose results stay on the device. The trainer waits until all but the last
# two batches are finished, so reading older results does not delay the validation.
_IN_FLIGHT = 3
_MAX_CLASSES = 2000  # in a confusion matrix


@dataclass(frozen=True)
class Mistake:
    """One misclassified example.

    Attributes:
        confidence: the probability given to the wrong class.
        index: the example's index in its split.
        label: its class.
        predicted: the predicted class.
        image: as stored in the split, before the transform.
    """

    confidence: float
    index: int
    label: int
    predicted: int
    image: NDArray[Any]


class ClassificationResults:
    """The confusion matrix and the most confident mistakes over a split.

    Args:
        num_mistakes: how many of the most confident mistakes to keep.

    Attributes:
        right: `int64[K]`, the number of correct predictions per class; None before the first
            batch.
        total: `int64[K]`, the number of examples per class.
        counts: `int64[K, K]`, the number of examples per class (rows) and predicted class
            (columns); None for more than 2,000 classes, whose matrix would be illegible.
        mistakes: the most confident ones, in order.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from nnx_alexnet.dashboard.classification_results import ClassificationResults
        >>> results = ClassificationResults()
        >>> outputs = {"logits": jnp.array([[2.0, 0.0], [3.0, 1.0]]), "labels": jnp.array([0, 1])}
        >>> batch = {"image": np.zeros((2, 8, 8, 1)), "mask": np.array([True, True]),
        ...          "index": np.array([0, 1])}
        >>> results.add(outputs, batch)
        >>> results.finish()
        >>> results.counts.tolist(), [(m.index, m.predicted) for m in results.mistakes]
        ([[1, 0], [1, 0]], [(1, 0)])
    """

    def __init__(self, num_mistakes: int = 16) -> None:
        self.num_mistakes = num_mistakes
        self.right: NDArray[np.int64] | None = None
        self.total: NDArray[np.int64] | None = None
        self.counts: NDArray[np.int64] | None = None
        self.mistakes: list[Mistake] = []
        self._waiting: deque[tuple[Any, Mapping[str, Any]]] = deque()

    def add(self, outputs: Mapping[str, jax.Array], batch: Mapping[str, Any]) -> None:
        """Adds a batch; its results are read some batches later, when the device has finished it.

        Args:
            outputs: the outputs of the evaluation step, with `logits` `[B, K]` of at least two
                classes and `labels` `int32[B]`. Outputs without these are ignored.
            batch: with `image`, `mask` and `index` as NumPy arrays.
        """
        logits, labels = outputs.get("logits"), outputs.get("labels")
        if logits is None or labels is None or logits.ndim != 2 or labels.ndim != 1:
            return
        num_classes = logits.shape[1]
        if num_classes < 2 or not jnp.issubdtype(labels.dtype, jnp.integer):
            return
        if self.total is None:
            self.right, self.total = np.zeros((2, num_classes), np.int64)
            if num_classes <= _MAX_CLASSES:
                self.counts = np.zeros((num_classes, num_classes), np.int64)
        self._waiting.append((_predictions(logits, labels), batch))
        if len(self._waiting) > _IN_FLIGHT:
            self._read()

    def finish(self) -> None:
        """Reads the results that are still on the device."""
        while self._waiting:
            self._read()

    def _read(self) -> None:
        predictions, batch = self._waiting.popleft()
        labels, predicted, confidence = (np.asarray(array) for array in predictions)
        mask = batch["mask"]
        assert self.total is not None
        assert self.right is not None
        np.add.at(self.total, labels[mask], 1)
        np.add.at(self.right, labels[mask & (labels == predicted)], 1)
        if self.counts is not None:
            np.add.at(self.counts, (labels[mask], predicted[mask]), 1)
        rows = np.flatnonzero(mask & (labels != predicted))
        rows = rows[np.argsort(-confidence[rows], kind="stable")][: self.num_mistakes]
        found = [
            Mistake(
                confidence=float(confidence[row]),
                index=int(batch["index"][row]),
                label=int(labels[row]),
                predicted=int(predicted[row]),
                image=np.array(batch["image"][row]),  # a view would keep the whole batch
            )
            for row in rows
        ]
        ranked = sorted([*self.mistakes, *found], key=lambda m: (-m.confidence, m.index))
        self.mistakes = ranked[: self.num_mistakes]


def class_labels(class_names: Sequence[str] | None, num_classes: int) -> list[str]:
    """Returns the name of each class, or its number if it has no name.

    Example:
        >>> from nnx_alexnet.dashboard.classification_results import class_labels
        >>> class_labels(("cat", "dog"), 3)
        ['cat', 'dog', '2']
    """
    known = [] if class_names is None else [str(name) for name in class_names]
    return [*known, *map(str, range(len(known), num_classes))][:num_classes]


@jax.jit
def _predictions(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the class, the predicted class and its probability, each `[B]`."""
    probabilities = jax.nn.softmax(logits.astype(jnp.float32))
    return labels, jnp.argmax(logits, axis=-1), jnp.max(probabilities, axis=-1)
