import re
from xml.etree import ElementTree

import pytest

from nnx_alexnet.report.svg_curves import TRAIN, VAL, Curve, draw


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_the_legend_names_each_curve_and_the_best_step():
    curves = [
        Curve("train", {1: 0.5, 2: 0.25}, TRAIN),
        Curve("val", {1: 0.5, 2: 0.75}, VAL, best=1),
    ]
    svg = draw(curves, name="loss by step", number=3)
    assert {"train", "val", "best val", "optimizer step"} <= set(texts(svg))
    assert svg.count(f"stroke: {VAL}") >= 2
    assert 'role="img" aria-label="loss by step"' in svg


def test_figures_of_one_page_share_no_identifiers():
    curves = [Curve("train", {1: 0.5, 2: 0.25}, TRAIN)]
    found = [
        set(re.findall(r'\bid="([^"]*)"', draw(curves, name="loss", number=k))) for k in (0, 1)
    ]
    assert all(found)
    assert not found[0] & found[1]


def test_a_figure_is_well_formed_and_the_same_each_time():
    curves = [Curve("$x_{ & <b>", {1: 0.5, 2: 0.25}, TRAIN)]
    svg = draw(curves, name='"loss" <b>', number=0)
    assert svg == draw(curves, name='"loss" <b>', number=0)
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.get("aria-label") == '"loss" <b>'
    assert "$x_{ &amp; &lt;b&gt;" in svg


def test_an_axis_from_zero_has_a_tick_at_zero():
    curves = [Curve("lr", {1: 1000.0, 2: 2000.0}, TRAIN)]
    assert "0" not in texts(draw(curves, name="lr", number=0))
    from_zero = texts(draw(curves, name="lr", number=0, from_zero=True))
    assert {"0", "1,000", "2,000"} <= set(from_zero)


@pytest.mark.parametrize("values", [{1: 1e308, 2: -1e308}, {1: 5e-324}, {2**53: 0.0}])
def test_extreme_values_are_drawn(values):
    assert draw([Curve("train", values, TRAIN)], name="loss", number=0).startswith("<svg")
