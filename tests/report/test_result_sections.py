import re
from pathlib import Path

import numpy as np

from nnx_alexnet.checkpoints import Choice
from nnx_alexnet.report import result_sections
from nnx_alexnet.report import scores as scores_module
from nnx_alexnet.report.measuring import Measurement, Predictions
from nnx_alexnet.report.result_sections import classes, confidence, main_split, overall
from nnx_alexnet.report.scores import score


def cells(html):
    rows = re.findall("<tr>(.*?)</tr>", re.sub(r"<i.*?</i></i>|<wbr>", "", html))
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def predictions(num_classes, num=200, *, is_whole=True):
    rng = np.random.default_rng(0)
    labels = np.arange(num) % num_classes
    rows = rng.dirichlet(np.ones(num_classes), num) + 0.5 * np.eye(num_classes)[labels]
    return Predictions(labels, rows / rows.sum(axis=1, keepdims=True), is_whole, {})


def test_the_scores_of_both_splits_are_side_by_side():
    val, test = predictions(3), predictions(3, 30, is_whole=False)
    choice = Choice(Path("x"), 7, "step 7, the best by val/loss (0.5)")
    measured = Measurement(choice, True, {"val": val, "test": test}, {}, {}, "")
    scores = {k: score(v.labels, v.probabilities) for k, v in measured.splits.items()}
    html = overall(measured, scores)
    rows = {row[0]: row[1:] for row in cells(html)}
    assert rows["score"] == ["validation", "test"]
    assert rows["examples"] == ["200", "30"]
    correct = np.mean(val.probabilities.argmax(1) == val.labels)
    assert rows["accuracy"][0] == f"{correct:.2%}"
    assert "the checkpoint of step 7, the best by val/loss (0.5)." in html
    assert "Its weights are averages over steps" in html
    assert "Only the first 30 examples of the test split were measured." in html
    assert main_split(scores) == "test"
    assert main_split({"val": scores["val"]}) == "val"


def test_the_class_with_the_lowest_f1_is_first_and_the_rest_is_collapsed():
    names = [f"<{k}>" for k in range(40)]
    given = predictions(40)
    found = score(given.labels, given.probabilities)
    html = classes("test", found, names)
    before, after = html.split("<details>", 1)
    shown = [row[0] for row in cells(before)[1:]]
    order = np.argsort(found.classes.f1, kind="stable")
    assert shown == [f"&lt;{k}&gt;" for k in order[:20]]
    assert "The other 20 of 40 classes" in after
    assert html.count('class="cell"') == np.count_nonzero(found.confusion)
    assert "<0>" not in html


def test_what_is_left_out_of_very_many_classes_is_stated(monkeypatch):
    for name, limit in {"_MAX_ROWS": 5, "_MAX_MORE": 7, "MAX_CELLS": 10, "_MAX_PIXELS": 20}.items():
        monkeypatch.setattr(result_sections, name, limit)
    labels = np.arange(30)
    rows = np.full((30, 31), 0.01)  # without an example of the last class
    rows[labels, (labels + 1) % 30] = 0.7
    found = score(labels, rows)
    html = classes("val", found, [str(k) for k in range(31)])
    assert "The other 7 of 30 classes" in html
    assert "The 18 classes with the highest F1 are left out." in html
    assert "Classes without examples in this split: 1." in html
    assert "A matrix of 31 classes is left out." in html
    assert "These pairs are 10 of 30 mistakes." in html


def test_curves_of_a_split_with_one_class_are_not_too_many():
    found = score(np.zeros(4, int), np.full((4, 3), 1 / 3))
    given = Predictions(np.zeros(4, int), np.full((4, 3), 1 / 3), is_whole=True, examples={})
    measured = Measurement(Choice(Path("x"), 7, "step 7"), False, {"val": given}, {}, {}, "")
    assert "too many" not in overall(measured, {"val": found})
    assert "are left out" not in confidence("val", given, found, ["a", "b", "c"])


def test_perfect_predictions_have_no_confused_pairs():
    found = score(np.array([0, 1]), np.eye(2))
    assert "No example was misclassified." in classes("val", found, ["a", "b"])


def test_curves_are_those_of_the_classes_with_the_lowest_precision():
    given = predictions(12)
    found = score(given.labels, given.probabilities)
    html = confidence("val", given, found, [f"class {k}" for k in range(12)])
    keys = re.findall(r"</i>(class \d+|mean of all classes)</li>", html)
    lowest = sorted(np.argsort(found.classes.average_precision)[:10])
    assert keys == ["mean of all classes", *(f"class {k}" for k in lowest)]
    assert "the other 2 count in the mean" in html
    captions = re.findall("<figcaption>(.*?)(?: <span|</figcaption>)", html)
    assert captions == [
        "Precision-recall curves",
        "ROC curves",
        "Reliability diagram",
        "Classes in the curves",
    ]
    assert "less confident than it is accurate" in html


def test_a_confusion_matrix_of_very_many_classes_is_not_computed(monkeypatch):
    monkeypatch.setattr(scores_module, "_MAX_CONFUSED", 3)
    split = predictions(4)
    found = score(split.labels, split.probabilities)
    assert found.confusion is None
    html = classes("val", found, ["a", "b", "c", "d"])
    assert "A matrix of 4 classes is left out." in html
