import re

from nnx_alexnet.dashboard import Newest, StoredImage
from nnx_alexnet.report.page_sections import configuration, curves, environment_table, images
from nnx_alexnet.report.page_template import PAGE, STYLE


def test_each_class_in_a_report_has_a_style(tmp_path):
    (tmp_path / "config.yaml").touch()
    several = Newest(4, [StoredImage(8, 8, b"png")] * 2, "")
    body = [
        PAGE.template,
        images({"val/mistakes": several}),
        curves([{"step": 4, "val/loss": 0.5}]),
        configuration(tmp_path),
        environment_table({"python": "3.11"}),
    ]
    used = {
        name for names in re.findall(r'class="([^"$]*)', "".join(body)) for name in names.split()
    }
    assert used == {"name", "status", "images", "small", "note", "curves", "environment"}
    assert {name for name in used if f".{name} " in STYLE} == used


def test_each_status_of_a_run_has_a_color():
    for status in ("finished", "failed", "killed", "interrupted", "running"):
        assert re.search(rf"\.{status}\b[^}}]*color:", STYLE)


def test_the_page_forbids_to_load_anything():
    policy = re.search(r'Content-Security-Policy"\s+content="([^"]*)"', PAGE.template)[1]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
