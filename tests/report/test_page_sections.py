import re

import pytest
from flax import nnx
from helpers import TinyNet

from nnx_alexnet.dashboard import Newest, StoredImage
from nnx_alexnet.dashboard.content import as_code
from nnx_alexnet.models import summarize
from nnx_alexnet.report.page_sections import (
    IMAGES,
    configuration,
    environment_table,
    images,
    metrics_table,
    model_table,
)

ROWS = [
    {"step": 4, "epoch": 0, "train/loss": 2.0, "train/loss_step": 3.0, "val/accuracy": 0.75},
    {"step": 8, "epoch": 1, "train/loss": 1.0, "val/accuracy": 0.5, "lr": 0.125},
]


def cells(row):
    return re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row.replace("<wbr>", ""))


def test_the_metrics_table_has_the_last_and_the_best_value():
    rows = [cells(row) for row in re.findall("<tr>(.*?)</tr>", metrics_table(ROWS))]
    assert rows == [
        ["metric", "last", "step", "best", "step", "epoch"],
        ["val/accuracy", "50.00%", "8", "75.00%", "4", "1"],
        ["train/loss", "1.000", "8", "1.000", "8", "2"],
        ["lr", "0.125", "8", "", "", ""],
    ]


def test_metrics_of_single_classes_are_collapsed():
    rows = [*ROWS, {"step": 9, "val/f1": 0.5, "val/f1/cat": 0.25}]
    shown, collapsed = metrics_table(rows).split("<details>")
    assert "val/f1</th><td>50.00%" in shown.replace("<wbr>", "")
    assert "cat" not in shown
    assert "<summary>Metrics of single classes: 1</summary>" in collapsed
    assert "val/f1/cat</th><td>25.00%" in collapsed.replace("<wbr>", "")


def test_a_run_without_metrics_has_a_note():
    assert metrics_table([]) == '<p class="note">The run has logged no metrics yet.</p>'


def test_images_are_embedded_and_small_ones_enlarged_by_a_whole_factor():
    value = Newest(1200, [StoredImage(28, 14, b"png"), StoredImage(300, 200, b"png")], "")
    html = images({"train/images": value})
    assert '<img class="small" width="84" height="42" alt="train/images"' in html
    assert (
        '<img width="300" height="200" alt="train/images" src="data:image/png;base64,cG5n">' in html
    )
    assert "<span>train/images, step 1,200</span>" in html
    missing = [tag for tag in IMAGES if tag != "train/images"]
    assert html.endswith(f'<p class="note">The run has no images for {", ".join(missing)}.</p>')


def test_only_the_first_64_images_of_a_tag_are_shown():
    html = images({"val/mistakes": Newest(4, [StoredImage(8, 8, b"png")] * 70, "")})
    assert html.count("<img") == 64
    assert "val/mistakes, step 4, the first 64 of 70" in html


def test_measured_results_replace_the_images_of_the_validation():
    found = {tag: Newest(4, [StoredImage(8, 8, b"png")], "") for tag in IMAGES}
    html = images(found, is_measured=True)
    assert re.findall('alt="(.*?)"', html) == ["model/filters", "train/images"]


@pytest.mark.parametrize("text", ["```\na <b>\n  c\n```", "    a <b>\n      c\n", "a <b>\n  c"])
def test_a_summary_with_other_columns_is_shown_as_text(text):
    assert model_table(text) == "<pre>a &lt;b&gt;\n  c</pre>"


@pytest.mark.parametrize("width", [80, 120])
def test_the_summary_of_a_model_becomes_a_table(width):
    model = TinyNet(4, rngs=nnx.Rngs(0))
    html = model_table(as_code(summarize(model, (5, 8, 8, 1), width=width)))
    rows = [cells(row) for row in re.findall("<tr>(.*?)</tr>", html)]
    assert rows[0] == ["layer", "type", "input", "output", "parameters", "statistics"]
    assert rows[1:] == [
        ["conv", "Conv", "float32[5,8,8,1]", "float32[5,4,4,8]", "80 (320 B)", ""],
        ["bn", "BatchNorm", "float32[5,4,4,8]", "float32[5,4,4,8]", "16 (64 B)", "16 (64 B)"],
        ["dropout", "Dropout", "float32[5,8]", "float32[5,8]", "", ""],
        ["dense", "Linear", "float32[5,8]", "float32[5,4]", "36 (144 B)", ""],
    ]
    assert "Total: 132 parameters" in html


def test_a_run_without_a_summary_has_a_note():
    assert "has no summary of its model (model/summary)" in model_table(" \n")


def test_the_configuration_is_escaped_and_collapsed(tmp_path):
    assert "no readable config.yaml" in configuration(tmp_path)
    (tmp_path / "config.yaml").write_bytes(b"a: <b>\xff\n")
    assert configuration(tmp_path) == (
        "<details><summary>config.yaml</summary><pre>a: &lt;b&gt;\ufffd\n</pre></details>"
    )


def test_the_environment_counts_equal_devices_and_leaves_out_what_is_unknown():
    environment = {
        "command": ["nnx-alexnet", "fit", "a b"],
        "devices": ["gpu: H100", "gpu: H100", "cpu: cpu"],
        "git_commit": None,
        "packages": {"jax": "0.10.0", "torch": None},
    }
    html = environment_table(environment)
    assert [cells(row) for row in re.findall("<tr>(.*?)</tr>", html)] == [
        ["property", "value"],
        ["command", "nnx-alexnet fit &#x27;a b&#x27;"],
        ["devices", "2 x gpu: H100, cpu: cpu"],
        ["jax", "0.10.0"],
    ]
    assert "no readable environment.json" in environment_table({})
