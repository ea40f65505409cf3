"""The drawn precision-recall and ROC curves."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_curve

from nnx_alexnet.report.ranking_curves import GRID, ranking_curves
from nnx_alexnet.report.scores import score


@pytest.mark.parametrize("kind", ["precision-recall", "roc"])
def test_a_drawn_curve_follows_the_curve_of_scikit_learn(kind):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    rows = rng.dirichlet([1, 1, 1], 200) + 0.6 * np.eye(3)[labels]
    rows /= rows.sum(axis=1, keepdims=True)
    found = score(labels, rows).classes
    mean, first, second = ranking_curves(kind, labels, rows, found, np.array([0, 2]))
    assert (mean.number, first.number, second.number) == (None, 0, 2)
    for k, x in [(0, 0.0), (25, 0.25), (100, 1.0)]:
        assert GRID[k] == x
        if kind == "precision-recall":
            precision, recall, _ = precision_recall_curve(labels == 2, rows[:, 2])
            expected = precision[recall >= x - 1e-12].max()
        else:
            false, true, _ = roc_curve(labels == 2, rows[:, 2])
            expected = true[false <= x].max()
        assert second.values[k] == pytest.approx(expected)
    classes = ranking_curves(kind, labels, rows, found, np.arange(3))[1:]
    np.testing.assert_allclose(mean.values, np.mean([each.values for each in classes], 0))
