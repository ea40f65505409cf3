"""What a classifier got right and wrong over a split, gathered batch by batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

# Batches that are still on the device when the next ones come: the trainer waits for a batch when
# it is two behind, so what is older is ready, and reading it does not hold up the pass.
_IN_FLIGHT = 3


@dataclass(frozen=True)
class Mistake:
    """One example that was taken for another class.

    Attributes:
        confidence: the probability given to the wrong class.
        index: the example's index in its split.
        label: its class.
        predicted: the class it was taken for.
        image: as the split holds it, before the transform.
    """

    confidence: float
    index: int
    label: int
    predicted: int
    image: NDArray[Any]


class ClassificationResults:
    """The confusion matrix and the surest mistakes of a pass over a split.

    Args:
        num_mistakes: how many mistakes are kept, the surest ones.

    Attributes:
        counts: `int64[K, K]`, examples by their class (rows) and the predicted class (columns);
            None before the first batch.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from nnx_alexnet.results import ClassificationResults
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
        self.counts: NDArray[np.int64] | None = None
        self.mistakes: list[Mistake] = []
        self._waiting: deque[tuple[Any, Mapping[str, Any]]] = deque()

    def add(self, outputs: Mapping[str, jax.Array], batch: Mapping[str, Any]) -> None:
        """Takes a batch; it is read some batches later, when the device has finished with it.

        Args:
            outputs: what the evaluation step returned, with `logits` `[B, K]` and `labels`
                `int32[B]`; others are left out.
            batch: its `image`, `mask` and `index`, as NumPy arrays.
        """
        logits = outputs.get("logits")
        if logits is None or logits.ndim != 2 or "labels" not in outputs:
            return
        num_classes = logits.shape[1]
        if self.counts is None:
            self.counts = np.zeros((num_classes, num_classes), np.int64)
        self._waiting.append((_judged(logits, outputs["labels"]), batch))
        if len(self._waiting) > _IN_FLIGHT:
            self._read()

    def finish(self) -> None:
        """Reads what is still on the device."""
        while self._waiting:
            self._read()

    def _read(self) -> None:
        judged, batch = self._waiting.popleft()
        labels, predicted, confidence = (np.asarray(array) for array in judged)
        assert self.counts is not None
        mask = batch["mask"]
        np.add.at(self.counts, (labels[mask], predicted[mask]), 1)
        rows = np.flatnonzero(mask & (labels != predicted))
        rows = rows[np.argsort(-confidence[rows], kind="stable")][: self.num_mistakes]
        found = [
            Mistake(
                confidence=float(confidence[row]),
                index=int(batch["index"][row]),
                label=int(labels[row]),
                predicted=int(predicted[row]),
                image=np.array(batch["image"][row]),  # not a view, which would keep the batch
            )
            for row in rows
        ]
        ranked = sorted([*self.mistakes, *found], key=lambda m: (-m.confidence, m.index))
        self.mistakes = ranked[: self.num_mistakes]


@jax.jit
def _judged(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns class, predicted class and the probability of the latter, each `[B]`."""
    probabilities = jax.nn.softmax(logits.astype(jnp.float32))
    return labels, jnp.argmax(logits, axis=-1), jnp.max(probabilities, axis=-1)
