"""Precision, recall and F1 of each class, from counts over a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import flax
import jax
import jax.numpy as jnp
import numpy as np
from clu.metrics import Metric

ClassScore = Literal["precision", "recall", "f1"]
Outputs = Mapping[str, Any]
MAX_NAMED = 100
"""The largest number of classes that have metrics of their own."""


def class_score(
    score: ClassScore,
    classes: Callable[[Outputs], tuple[jax.Array, jax.Array]],
    names: Sequence[str] | None,
    num_classes: int,
) -> type[Metric]:
    """Returns a metric that computes a score of each class, and its mean over the classes (macro).

    A score with a denominator of 0 is 0, as in scikit-learn, and counts in the mean. The output
    `example_weight`, `[B]`, weights the examples if it exists.

    Args:
        score: which score.
        classes: a function of the outputs of a task that returns the predicted and the right
            classes, each `bool[B, K]`.
        names: the names of the classes; None: their numbers.
        num_classes: K. With one class, or more than 100, only the mean is computed.

    Source: `sklearn.metrics.precision_recall_fscore_support`.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.task.class_counts import class_score
        >>> def classes(outputs):
        ...     return outputs["predicted"] > 0, outputs["labels"] > 0
        >>> metric = class_score("recall", classes, ("cat", "dog"), 2)
        >>> right, predicted = jnp.array([[1, 0], [1, 0]]), jnp.array([[1, 0], [0, 1]])
        >>> metric.from_model_output(predicted=predicted, labels=right).compute()
        {'': 0.25, 'cat': 0.5, 'dog': 0.0}
    """
    keys = _keys(names, num_classes)

    @flax.struct.dataclass
    class FromCounts(Metric):  # type: ignore[misc]
        """The sums of each class."""

        hits: Any
        positives: Any
        actual: Any

        @classmethod
        def from_model_output(cls, *, mask: Any = None, **outputs: Any) -> Any:
            predicted, right = classes(outputs)
            weight = outputs.get("example_weight")
            parts = (predicted & right, predicted, right)
            return cls(*(_sums(part, weight, mask) for part in parts))

        @classmethod
        def empty(cls) -> Any:
            return cls(*[jnp.zeros(num_classes, jnp.int32)] * 3)

        def merge(self, other: Any) -> Any:
            return jax.tree.map(lambda mine, others: mine + others, self, other)

        def compute(self) -> dict[str, Any]:
            values = _scores(score, *map(np.asarray, (self.hits, self.positives, self.actual)))
            each = dict(zip(keys, values.tolist(), strict=True)) if keys else {}
            return {"": float(values.mean()), **each}

    return FromCounts


def _keys(names: Sequence[str] | None, num_classes: int) -> list[str]:
    """Returns the name of each class in the names of metrics; none if there are too many."""
    if not 1 < num_classes <= MAX_NAMED:
        return []
    known = [] if names is None else [*map(str, names)][:num_classes]
    keys = [*known, *map(str, range(len(known), num_classes))]
    return keys if all(keys) and len({*keys}) == num_classes else [*map(str, range(num_classes))]


def _sums(part: jax.Array, weight: jax.Array | None, mask: jax.Array | None) -> jax.Array:
    """Returns the number or weight of the rows of each class, `[K]`."""
    counts = part if mask is None else part & mask[:, None]
    if weight is None:
        return jnp.sum(counts, axis=0, dtype=jnp.int32)
    return jnp.sum(jnp.where(counts, weight[:, None], 0), axis=0)


def _scores(score: ClassScore, hits: Any, positives: Any, actual: Any) -> np.ndarray[Any, Any]:
    hits, positives, actual = (each.astype(np.float64) for each in (hits, positives, actual))
    totals = {"precision": positives, "recall": actual, "f1": (positives + actual) / 2}[score]
    found: np.ndarray[Any, Any] = np.divide(hits, totals, out=np.zeros_like(hits), where=totals > 0)
    return found
