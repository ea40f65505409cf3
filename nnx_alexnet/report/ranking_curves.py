"""Computes precision-recall and ROC curves, with scikit-learn's metrics."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from nnx_alexnet.report.scores import ClassScores, Floats, Ints, known_mean

GRID = np.linspace(0, 1, 101)
"""The values on the x-axis at which a curve is drawn."""


class RankingCurve(NamedTuple):
    """One curve, `float64[101]` over `GRID`.

    Attributes:
        number: the class; None for the mean over the classes.
        values: precision by recall, or true positive rate by false positive rate.
        area: the area under scikit-learn's curve, which has all points.
    """

    number: int | None
    values: Floats
    area: float


def ranking_curves(
    kind: Literal["precision-recall", "roc"],
    labels: Ints,
    probabilities: Floats,
    scores: ClassScores,
    chosen: Ints,
) -> list[RankingCurve]:
    """Returns curves of one class against the rest: their mean, then those of the chosen classes.

    Args:
        kind: the curves to return.
        labels: `[N]`, the class of each example.
        probabilities: `[N, K]`.
        scores: the scores of each class, which hold the areas.
        chosen: the classes to return.

    Returns:
        The curves; empty if no class has an area.
    """
    is_roc = kind == "roc"
    areas = scores.roc_auc if is_roc else scores.average_precision
    draw = _true_positive_rates if is_roc else _precisions
    known = np.flatnonzero(np.isfinite(areas))
    if not known.size:
        return []
    values = {int(k): draw(labels == k, probabilities[:, k]) for k in known}
    mean = RankingCurve(None, np.mean([*values.values()], axis=0), known_mean(areas))
    drawn = [RankingCurve(int(k), values[int(k)], float(areas[k])) for k in chosen if k in values]
    return [mean, *drawn]


def _precisions(is_class: Ints, probabilities: Floats) -> Floats:
    """Returns the best precision at each recall of the grid or a higher one, as usually drawn."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(is_class, probabilities)
    best = np.maximum.accumulate(precision)
    found: Floats = best[np.searchsorted(-recall, -GRID, side="right") - 1]
    return found


def _true_positive_rates(is_class: Ints, probabilities: Floats) -> Floats:
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(is_class, probabilities)
    found: Floats = true[np.searchsorted(false, GRID, side="right") - 1]
    return found
