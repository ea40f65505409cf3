from xml.etree import ElementTree

import pytest

from nnx_alexnet.support import html_facts, html_table, text_table

HEADER = ["epoch", "val/loss"]
ROWS = [["1/2", "0.5000"], ["2/2", "-"]]


def test_text_is_aligned_to_the_right():
    lines = text_table(HEADER, ROWS).split("\n")
    assert lines == ["epoch  val/loss", "  1/2    0.5000", "  2/2         -"]


def test_html_has_the_same_cells():
    table = ElementTree.fromstring(html_table(HEADER, ROWS))
    cells = [[cell.text for cell in row] for row in table.iter("tr")]
    assert cells == [HEADER, *ROWS]


@pytest.mark.parametrize("make", [lambda t: html_table([t], [[t]]), lambda t: html_facts([(t, t)])])
def test_text_cannot_become_markup(make):
    page = make("<script>\x1b&")
    assert "<script" not in page
    assert page.count("&lt;script&gt;\\x1b&amp;") == 2
