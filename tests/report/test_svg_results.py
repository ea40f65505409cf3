import re
from xml.etree import ElementTree

import numpy as np

from nnx_alexnet.report.ranking_curves import GRID, RankingCurve
from nnx_alexnet.report.scores import calibrate
from nnx_alexnet.report.svg_results import (
    balance_chart,
    confusion_chart,
    ranking_chart,
    reliability_chart,
)

NAMES = ["cat", "<b>"]


def test_each_cell_of_the_confusion_matrix_names_its_classes_and_count():
    svg = confusion_chart(np.array([[6, 2], [0, 0]]), NAMES)
    ElementTree.fromstring(svg)
    assert re.findall("<title>(.*?)</title>", svg) == [
        "cat predicted as cat: 6 of 8 (75.0%)",
        "cat predicted as &lt;b&gt;: 2 of 8 (25.0%)",
    ]
    assert re.findall('class="(right|missed)".*?fill-opacity="(.*?)"', svg) == [
        ("right", "0.87"), ("missed", "0.50"),
    ]  # fmt: skip


def test_a_large_matrix_has_no_numbers_and_only_some_names():
    svg = confusion_chart(np.eye(60, dtype=int), [f"class {k}" for k in range(60)])
    texts = re.findall("<text[^>]*>(.*?)</text>", svg)
    assert texts == [f"class {k}" for k in range(0, 60, 2) for _ in range(2)]
    assert svg.count("<title>") == 60


def test_the_bars_of_the_class_balance_are_as_high_as_their_counts():
    svg = balance_chart({"train": np.array([30, 10]), "val": np.array([10, 0])}, NAMES)
    ElementTree.fromstring(svg)
    assert re.findall("<title>(.*?)</title>", svg) == [
        "cat: 30 in train, 10 in val", "&lt;b&gt;: 10 in train, 0 in val",
    ]  # fmt: skip
    heights = [float(h) for h in re.findall(r'<rect[^>]*height="([\d.]+)"', svg)]
    np.testing.assert_allclose(heights, [112.5, 37.5, 37.5, 0], atol=0.1)


def test_ranking_curves_show_each_class_at_a_place():
    curves = [RankingCurve(None, 1 - GRID / 2, 0.75), RankingCurve(1, 1 - GRID, 0.5)]
    svg = ranking_chart(
        curves, NAMES, labels=("recall", "precision"), area="average precision", number="0"
    )
    assert 'aria-label="precision by recall; average precision 0.750"' in svg
    place = svg[svg.index("recall 20%") :]
    assert place.index("mean of classes 90.0%") < place.index("&lt;b&gt; 80.0%")


def test_the_reliability_diagram_shows_each_bin_with_examples():
    rows = np.array([[0.95, 0.05], [0.95, 0.05], [0.55, 0.45]])
    svg = reliability_chart(calibrate(np.array([0, 1, 0]), rows), number="0")
    shown = re.findall(r"■ </tspan>(.*?)<", svg)
    assert shown == [
        "mean confidence 55.0%", "accuracy 100.0%", "examples 1",
        "mean confidence 95.0%", "accuracy 50.0%", "examples 2",
    ]  # fmt: skip
    assert "confidence 93% to 100%" in svg
