import re
from xml.etree import ElementTree

import pytest

from nnx_alexnet.report.page_style import STYLE
from nnx_alexnet.report.svg_chart import COLORS, TRAIN, VAL, Line, Tip, _num_columns, draw, themed


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_the_legend_names_each_line_and_the_marked_point():
    lines = [
        Line("train", [1, 2], [0.5, 0.25], TRAIN),
        Line("val", [1, 2], [0.5, 0.75], VAL, marked=0),
        Line("hidden", [1, 2], [0.1, 0.2], VAL, in_legend=False),
    ]
    svg = draw(lines, name="loss by step", number="3")
    assert {"train", "val", "best val"} <= set(texts(svg))
    assert "hidden" not in texts(svg)
    assert svg.count("stroke: var(--val)") >= 3
    assert 'role="img" aria-label="loss by step"' in svg


def test_charts_of_one_page_share_no_identifiers():
    lines = [Line("train", [1, 2], [0.5, 0.25], TRAIN)]
    found = [set(re.findall(r'\bid="([^"]*)"', draw(lines, name="", number=k))) for k in "01"]
    assert all(found)
    assert not found[0] & found[1]


def test_a_chart_is_well_formed_and_the_same_each_time():
    lines = [Line("$x_{ & <b>", [1, 2], [0.5, 0.25], TRAIN)]
    tips = [Tip(1, "<i>", [("a&b", "1", 0.5, TRAIN)])]
    svg = draw(lines, name='"loss" <b>', number="0", tips=tips)
    assert svg == draw(lines, name='"loss" <b>', number="0", tips=tips)
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.get("aria-label") == '"loss" <b>'
    assert "$x_{ &amp; &lt;b&gt;" in svg
    assert "a&amp;b 1" in svg


def test_each_place_of_a_chart_shows_its_values_at_their_height():
    lines = [Line("train", [0, 1, 2], [0.0, 1.0, 0.0], TRAIN)]
    tips = [Tip(x, f"step {x}", [("train", f"is {x}", y, TRAIN)]) for x, y in ((0, 0), (1, 1))]
    svg = draw(lines, name="", number="0", tips=tips)
    places = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    (x0, y0), (x1, y1) = [(float(x), float(y)) for x, y in places]
    assert x0 < x1
    assert y0 > y1  # of an SVG element, the vertical axis points down
    left, right = re.findall(r'class="tip"><rect x="([\d.]+)"[^>]*?width="([\d.]+)"', svg)
    assert float(left[0]) + float(left[1]) == pytest.approx((x0 + x1) / 2, abs=0.2)
    assert float(right[0]) == pytest.approx((x0 + x1) / 2, abs=0.2)
    assert "step 1" in svg
    assert "train is 1" in svg


def test_at_most_sixty_places_of_a_chart_show_values():
    steps = [*range(500)]
    tips = [Tip(x, f"step {x}", []) for x in steps]
    svg = draw([Line("train", steps, steps, TRAIN)], name="", number="0", tips=tips)
    assert svg.count('class="tip"') == 60
    assert "step 0<" in svg
    assert "step 499<" in svg


def test_each_color_of_a_chart_is_a_color_of_the_page_in_both_modes():
    for color, name in COLORS.items():
        assert themed(f"stroke: {color}") == f"stroke: var(--{name})"
        assert STYLE.count(f"--{name}: #") == 2
    assert themed(f'<text fill="{TRAIN}">') == '<text style="fill: var(--train)">'


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1e308, -1e308]), ([1], [5e-324]), ([2**53], [0])])
def test_extreme_values_are_drawn(x, y):
    tips = [Tip(x[0], "", [("train", "", y[0], TRAIN)])]
    assert draw([Line("train", x, y, TRAIN)], name="", number="0", tips=tips).startswith("<svg")


@pytest.mark.parametrize(
    ("labels", "num"),
    [(["val"], 1), (["train", "val", "best val", "train, log points"], 4),
     (["train", "val/clean", "val/shifted", "val/noisy", "train, log points"], 3),
     (["a" * 60, "b" * 60], 1), ([*"0123456789"], 5)],
)  # fmt: skip
def test_a_legend_has_as_many_columns_as_fit(labels, num):
    assert _num_columns(labels, 292) == num
