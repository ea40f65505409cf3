"""Metrics that need all examples of a split at once, such as the area under the ROC curve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class SplitMetric(NamedTuple):
    """A metric that is computed on the host, from outputs of all examples of a split.

    Attributes:
        compute: returns the metric for the arrays `[N, ...]` of these outputs, without padding and
            in the order of the split.
        outputs: the names of the outputs of `Task.outputs`.
        weight: the name of an output that only some splits have, such as the weights of examples.
            If a split has it, it is the last argument of `compute`. None (the default): there is
            none.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.task.split_metrics import SplitMetric
        >>> median = SplitMetric(np.median, ("loss",))
        >>> float(median.compute(np.array([1.0, 9.0, 2.0])))
        2.0
    """

    compute: Callable[..., float]
    outputs: tuple[str, ...]
    weight: str | None = None


def auroc(scores: NDArray[Any], labels: NDArray[Any], weight: NDArray[Any] | None = None) -> float:
    """Returns the area under the ROC curve, averaged over the classes (macro).

    Args:
        scores: `[N]`, or `[N, K]` with one score per class or label.
        labels: `[N]` of 0 and 1; `[N, K]` of 0 and 1; or the class of each example, `int[N]`, if
            the scores are `[N, K]`, for one class against the rest.
        weight: of the examples, `[N]` (default: all 1).

    Returns:
        The mean over the classes that some examples have and others do not; NaN if there is no
        such class, or if a score is not finite.

    Source: `sklearn.metrics.roc_auc_score` with `multi_class="ovr"`.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.task.split_metrics import auroc
        >>> auroc(np.array([0.1, 0.4, 0.3, 0.8]), np.array([0, 0, 1, 1]))
        0.75
    """
    from sklearn.metrics import roc_auc_score

    if not np.isfinite(scores).all():
        return float("nan")
    columns = scores.reshape(len(scores), -1)
    if labels.ndim < scores.ndim:
        rights = [labels == k for k in range(columns.shape[1])]
    else:
        rights = [*(labels.reshape(len(labels), -1).T > 0)]
    kept = slice(None) if weight is None else weight > 0
    shares = None if weight is None else weight[kept]
    areas = [
        roc_auc_score(right[kept], column[kept], sample_weight=shares)
        for right, column in zip(rights, columns.T, strict=True)
        if right[kept].any() and not right[kept].all()
    ]
    return float(np.mean(areas)) if areas else float("nan")


def class_auroc(
    logits: NDArray[Any], labels: NDArray[Any], weight: NDArray[Any] | None = None
) -> float:
    """Returns `auroc` of the probabilities of classes.

    Args:
        logits: `[N, K]`.
        labels: `int[N]`.
        weight: see `auroc`.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.task.split_metrics import class_auroc
        >>> class_auroc(np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([0, 1]))
        1.0
    """
    if not np.isfinite(logits).all():
        return float("nan")
    # Their order is that of the probabilities, which may be rounded to 0 or 1.
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return auroc(log_p, labels, weight)
