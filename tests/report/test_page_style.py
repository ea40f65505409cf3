import re

from nnx_alexnet.report.page_style import STYLE


def test_each_status_of_a_run_has_a_color():
    for status in ("finished", "failed", "killed", "interrupted", "running"):
        assert re.search(rf"\.{status}\b[^}}]*color:", STYLE)


def test_both_modes_define_every_color_that_the_style_uses():
    used = set(re.findall(r"var\((--[\w-]+)\)", STYLE))
    light, dark = (set(re.findall(r"(--[\w-]+): #", part)) for part in STYLE.split("@media", 2)[:2])
    assert used <= light == dark


def test_the_style_loads_nothing():
    assert "url(" not in STYLE
    assert "@import" not in STYLE
