import numpy as np
import pytest

from nnx_alexnet.report import scores as scores_module
from nnx_alexnet.report.ranking_curves import ranking_curves
from nnx_alexnet.report.scores import (
    calibrate,
    most_confused,
    score,
)

LABELS = np.array([0, 0, 1, 1, 2, 2])
PROBABILITIES = np.array(
    [
        [0.7, 0.2, 0.1, 0.0],
        [0.4, 0.5, 0.1, 0.0],
        [0.1, 0.8, 0.1, 0.0],
        [0.1, 0.6, 0.3, 0.0],
        [0.1, 0.7, 0.2, 0.0],
        [0.0, 0.1, 0.9, 0.0],
    ]
)  # predicted: 0 1 1 1 1 2; no example of class 3


def test_the_scores_of_each_class_are_those_computed_by_hand():
    found = score(LABELS, PROBABILITIES)
    np.testing.assert_allclose(found.classes.precision, [1, 1 / 2, 1, np.nan])
    np.testing.assert_allclose(found.classes.recall, [1 / 2, 1, 1 / 2, np.nan])
    np.testing.assert_allclose(found.classes.f1, [2 / 3, 2 / 3, 2 / 3, np.nan])
    assert found.classes.support.tolist() == [2, 2, 2, 0]
    assert found.confusion.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [0, 1, 1, 0], [0] * 4]
    # Class 0 has the two largest probabilities of its column. Of class 1, the true ones are the
    # first and the third: (1 + 2/3) / 2; of 8 pairs, one is in the wrong order.
    np.testing.assert_allclose(found.classes.average_precision[:2], [1, 5 / 6])
    np.testing.assert_allclose(found.classes.roc_auc[:2], [1, 7 / 8])


def test_means_over_classes_leave_out_classes_without_examples():
    overall = score(LABELS, PROBABILITIES).overall
    assert overall["accuracy"] == pytest.approx(4 / 6)
    assert overall["precision (macro)"] == pytest.approx(5 / 6)
    assert overall["recall (macro)"] == pytest.approx(2 / 3)
    assert overall["F1 (macro)"] == pytest.approx(2 / 3)
    true = [0.7, 0.4, 0.8, 0.6, 0.2, 0.9]
    assert overall["loss"] == pytest.approx(-np.log(true).mean())
    assert "top-5 accuracy" not in overall


def test_a_class_that_is_never_predicted_has_no_precision_and_an_f1_of_0():
    found = score(np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]))
    assert np.isnan(found.classes.precision[1])
    assert found.classes.f1[1] == 0
    assert found.overall["precision (macro)"] == pytest.approx(0.25)


def test_the_calibration_error_is_the_weighted_difference_of_the_bins():
    confidences = np.array([0.95, 0.95, 0.95, 0.55])
    rows = np.stack([confidences, 1 - confidences], axis=1)
    found = score(np.array([0, 0, 1, 0]), rows).calibration
    # Three examples with 95% of which 2/3 are correct, and a correct one with 55%.
    assert found.ece == pytest.approx((3 * (0.95 - 2 / 3) + 0.45) / 4)
    assert found.counts.sum() == 4
    assert (found.counts[8], found.counts[14]) == (1, 3)
    assert np.isnan(found.accuracy[0])


def test_a_probability_above_1_counts_in_the_last_bin():
    found = calibrate(np.array([0, 1]), np.array([[1.001, 0.0], [1.001, 0.0]]))
    assert found.counts[-1] == 2
    assert found.ece == pytest.approx(0.5)


def test_more_than_ten_classes_have_a_top_5_accuracy():
    rows = np.tile(np.linspace(0.1, 0.01, 12), (4, 1))
    overall = score(np.array([0, 4, 5, 11]), rows / rows.sum(axis=1, keepdims=True)).overall
    assert overall["top-5 accuracy"] == 0.5


def test_perfect_predictions_have_perfect_scores():
    overall = score(np.array([0, 1]), np.eye(2)).overall
    assert overall["loss"] == 0
    assert all(overall[name] == 1 for name in ("accuracy", "F1 (macro)", "ROC AUC (macro)"))
    assert overall["calibration error (ECE)"] == 0


@pytest.mark.parametrize("limit", [("_MAX_SCORES", 10), ("_MAX_RANKED", 3)])
def test_too_many_probabilities_or_classes_are_not_ranked(monkeypatch, limit):
    monkeypatch.setattr(scores_module, *limit)
    found = score(LABELS, PROBABILITIES)
    assert np.isnan(found.classes.roc_auc).all()
    assert ranking_curves("roc", LABELS, PROBABILITIES, found.classes, np.array([0])) == []


def test_the_most_confused_pairs_are_in_order():
    pairs = most_confused(np.array([[5, 1, 4], [0, 2, 2], [0, 0, 3]]), 2)
    assert [(p.label, p.predicted, p.count, p.share) for p in pairs] == [
        (0, 2, 4, 0.4),
        (1, 2, 2, 0.5),
    ]
    assert most_confused(np.eye(3, dtype=int), 5) == []
