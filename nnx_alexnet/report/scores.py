"""Computes the scores of a classifier over a split, with scikit-learn's metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

NUM_BINS = 15  # of the reliability diagram, as in Guo et al. 2017
_MAX_SCORES = 30_000_000  # probabilities of a split for which ranking curves are computed
_MAX_RANKED = 2000  # classes for which ranking curves are computed; each takes about 10 ms
_MAX_CONFUSED = 2000  # classes in a confusion matrix, whose size is their square


class ClassScores(NamedTuple):
    """The scores of each class, `float64[K]`; NaN where a score is not defined.

    Attributes:
        precision: the share of the examples predicted as the class that belong to it.
        recall: the share of the examples of the class that were predicted as such.
        f1: the harmonic mean of precision and recall.
        support: `int64[K]`, the number of examples of the class.
        average_precision: the area under the precision-recall curve, one class against the rest.
        roc_auc: the area under the ROC curve, one class against the rest.
    """

    precision: Floats
    recall: Floats
    f1: Floats
    support: Ints
    average_precision: Floats
    roc_auc: Floats


class Calibration(NamedTuple):
    """How well confidence and accuracy agree, by bins of equal width.

    Attributes:
        confidence: the mean probability of the predicted class in each bin; NaN in an empty one.
        accuracy: the share of correct predictions in each bin; NaN in an empty one.
        counts: the number of examples in each bin.
        ece: the expected calibration error, the mean difference weighted by `counts`.
    """

    confidence: Floats
    accuracy: Floats
    counts: Ints
    ece: float


@dataclass(frozen=True)
class Scores:
    """All scores of one split.

    Attributes:
        overall: the scores of the whole split, by name.
        classes: the scores of each class.
        confusion: `int64[K, K]`, classes (rows) by predicted classes (columns); None for more than
            2000 classes.
        calibration: by bins of confidence.
    """

    overall: dict[str, float]
    classes: ClassScores
    confusion: Ints | None = field(repr=False)
    calibration: Calibration = field(repr=False)


def score(labels: Ints, probabilities: Floats) -> Scores:
    """Computes the scores of predictions.

    Means over classes ("macro") leave out classes without examples.

    Args:
        labels: `[N]`, the class of each example; at least one.
        probabilities: `[N, K]`, in rows with a sum of 1.

    Returns:
        The scores. Those that need the ranking of all probabilities are NaN if there are more
        than 30 million of them, or more than 2000 classes.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, for the calibration
    error.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.report.scores import score
        >>> found = score(np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]))
        >>> found.confusion.tolist(), round(found.overall["accuracy"], 3)
        ([[1, 0], [1, 1]], 0.667)
    """
    from sklearn import metrics

    num_classes = probabilities.shape[1]
    names = np.arange(num_classes)
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=names, zero_division=np.nan
    )
    has_examples = support > 0
    # A class that was never predicted has no precision; its F1 score is 0.
    f1 = np.where(has_examples, np.nan_to_num(f1), np.nan)
    ranked = _rankings(labels, probabilities, support)
    classes = ClassScores(precision, recall, f1, support, *ranked)
    calibration = calibrate(labels, probabilities)
    overall = {
        "loss": _log_loss(labels, probabilities),
        "accuracy": float(metrics.accuracy_score(labels, predicted)),
        **_top_5(labels, probabilities),
        "precision (macro)": known_mean(np.where(has_examples, np.nan_to_num(precision), np.nan)),
        "recall (macro)": known_mean(np.where(has_examples, recall, np.nan)),
        "F1 (macro)": known_mean(f1),
        "average precision (macro)": known_mean(classes.average_precision),
        "ROC AUC (macro)": known_mean(classes.roc_auc),
        "calibration error (ECE)": calibration.ece,
        "mean confidence": float(probabilities.max(axis=1).mean()),
    }
    confusion = None
    if num_classes <= _MAX_CONFUSED:
        confusion = metrics.confusion_matrix(labels, predicted, labels=names)
    return Scores(overall, classes, confusion, calibration)


def known_mean(values: Floats) -> float:
    """Returns the mean of the finite values; NaN if there are none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _log_loss(labels: Ints, probabilities: Floats) -> float:
    """Returns the mean cross-entropy; a probability of 0 counts as the smallest float32."""
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(true, np.finfo(np.float32).tiny)).mean())


def _top_5(labels: Ints, probabilities: Floats) -> dict[str, float]:
    from sklearn.metrics import top_k_accuracy_score

    num_classes = probabilities.shape[1]
    if num_classes <= 10:
        return {}
    top = top_k_accuracy_score(labels, probabilities, k=5, labels=np.arange(num_classes))
    return {"top-5 accuracy": float(top)}


def _rankings(labels: Ints, probabilities: Floats, support: Ints) -> tuple[Floats, Floats]:
    """Returns average precision and ROC AUC of each class against the rest."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    precisions, areas = np.full((2, len(support)), np.nan)
    if probabilities.size > _MAX_SCORES or len(support) > _MAX_RANKED:
        return precisions, areas
    for k in np.flatnonzero(support):
        is_class = labels == k
        precisions[k] = average_precision_score(is_class, probabilities[:, k])
        if support[k] < len(labels):
            areas[k] = roc_auc_score(is_class, probabilities[:, k])
    return precisions, areas


def calibrate(labels: Ints, probabilities: Floats) -> Calibration:
    """Compares the probability of the predicted class with how often it is correct.

    Args:
        labels: `[N]`.
        probabilities: `[N, K]`.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.report.scores import calibrate
        >>> round(calibrate(np.array([0, 1]), np.array([[0.9, 0.1], [0.9, 0.1]])).ece, 3)
        0.4
    """
    # Probabilities of a low precision may exceed 1.
    confidence = np.minimum(probabilities.max(axis=1).astype(np.float64), 1)
    correct = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, NUM_BINS + 1)
    counts, _ = np.histogram(confidence, edges)
    sums = [np.histogram(confidence, edges, weights=w)[0] for w in (confidence, correct * 1.0)]
    means = [np.divide(s, counts, out=np.full(NUM_BINS, np.nan), where=counts > 0) for s in sums]
    gaps = np.nan_to_num(np.abs(means[0] - means[1]))
    return Calibration(means[0], means[1], counts, float((gaps * counts).sum() / len(labels)))


@dataclass(frozen=True)
class Confusion:
    """How often one class was predicted as another.

    Attributes:
        label: the class.
        predicted: the predicted class.
        count: the number of examples.
        share: `count` as a share of the examples of the class.
    """

    label: int
    predicted: int
    count: int
    share: float


def most_confused(confusion: Ints, num: int) -> list[Confusion]:
    """Returns the most frequent pairs of a class and a wrong prediction.

    Args:
        confusion: `[K, K]`, classes (rows) by predicted classes (columns).
        num: the largest number of pairs.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.report.scores import most_confused
        >>> most_confused(np.array([[8, 2], [0, 5]]), 3)
        [Confusion(label=0, predicted=1, count=2, share=0.2)]
    """
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    totals = confusion.sum(axis=1)
    order = np.argsort(-wrong, axis=None, kind="stable")[:num]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [
        Confusion(
            int(row), int(column), int(wrong[row, column]), float(wrong[row, column] / totals[row])
        )
        for row, column in pairs
        if wrong[row, column]
    ]
