import re

import pytest
from helpers import write_run

from nnx_alexnet.cli import main
from nnx_alexnet.report.comparison import differences, write_comparison
from nnx_alexnet.runs import Settings


def cells(html):
    rows = re.findall("<tr>(.*?)</tr>", re.sub(r"<i.*?</i>|<wbr>", "", html))
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


@pytest.fixture
def runs(tmp_path):
    first = write_run(tmp_path, "adam", [0.5, 0.75], test_accuracy=0.5)
    second = write_run(tmp_path, "sgd", [0.625])
    (first / "config.yaml").write_text(
        "seed: 0\nmodel: {class_path: a.Net}\noptimizer: {name: adam, lr: 0.1}\n"
    )
    (second / "config.yaml").write_text(
        "seed: 0\nmodel: {class_path: a.Net}\noptimizer: {name: <b>}\n"
    )
    return [first, second]


@pytest.fixture
def html(runs):
    return write_comparison(runs).read_text()


def test_the_command_compares_several_runs(runs, tmp_path, capsys):
    assert main(["report", *map(str, runs)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "comparison.html")
    assert main(["report", *map(str, runs), "--output", str(tmp_path / "a.html")]) == 0
    assert "Comparison of 2 runs" in (tmp_path / "a.html").read_text()


def test_the_best_result_of_each_metric_is_marked(html):
    rows = cells(html)[:3]
    assert rows[0][:6] == [
        "run",
        "status",
        "val/accuracy",
        "test/accuracy",
        "val/loss",
        "test/loss",
    ]
    assert rows[1][2:6] == ['<b class="best">75.00%</b>', "50.00%", '<b class="best">0.7500</b>',
                            "0.5000"]  # fmt: skip
    assert rows[2] == ["sgd/version_0", "finished", "62.50%", "-", "0.8750", "-", "1", "10",
                       "1h02m"]  # fmt: skip


def test_only_settings_that_differ_are_listed(html):
    rows = [row for row in cells(html) if row[0].startswith("optimizer.")]
    assert rows == [["optimizer.name", "adam", "&lt;b&gt;"], ["optimizer.lr", "0.1", "-"]]
    assert "Settings that are the same in all runs: 2." in html
    assert "All 2 settings are the same." in differences(
        ["a", "b"], [Settings({"x": "1", "y": "2"})] * 2, "settings"
    )


def test_what_runs_from_python_do_not_record_is_no_difference(runs):
    (runs[1] / "config.yaml").write_text("seed: 0\nmodel: {class: Net}\n")
    html = write_comparison(runs).read_text()
    assert "All 2 settings that all runs record are the same." in html
    (part,) = re.findall("<details>.*?Python do not record: 2.*?</details>", html)
    assert ["optimizer.lr", "0.1", "not recorded"] in cells(part)


def test_a_chart_has_a_curve_of_each_run(html):
    charts = re.findall(r"<figcaption>(\w+).*?(<svg.*?</svg>)", html, re.S)
    assert [name for name, _ in charts] == ["Loss", "Accuracy", "Learning"]
    assert "dashed lines and hollow dots: training" in html
    for _, svg in charts:
        assert "stroke: var(--series-0)" in svg
        assert "stroke: var(--series-1)" in svg
    assert "adam/version_0, val 75.00%" in charts[1][1]
    assert {"optimizer step", "epoch"} <= set(
        re.findall(r"<text[^>]*>([^<]*)</text>", charts[0][1])
    )


def test_own_metrics_of_any_run_have_a_chart(runs):
    with (runs[1] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "fisher/trace": 1}\n{"step": 2, "fisher/trace": 2}\n')
        file.write('{"step": 2, "train/f1_step": 0.5}\n')
    html = write_comparison(runs).read_text()
    charts = dict(re.findall(r"<figcaption>(.*?)</figcaption>(<svg.*?</svg>)", html, re.S))
    assert [*charts] == ["Loss", "Accuracy", "F1", "Fisher trace", "Learning rate"]
    assert "sgd/version_0 2" in charts["Fisher trace"]


def test_epochs_of_different_lengths_are_compared_by_epoch(runs):
    log = runs[1] / "metrics.jsonl"
    log.write_text(log.read_text().replace('"step": 10', '"step": 25'))
    html = write_comparison(runs).read_text()
    (svg,) = re.findall(r"<figcaption>Loss.*?(<svg.*?</svg>)", html, re.S)
    assert "optimizer step" not in svg
    tips = re.findall(r"<text [^>]*>(?:<tspan[^>]*>■ </tspan>)?([^<]*)</text>", svg)
    place = tips[tips.index("epoch 1") : tips.index("epoch 2")]
    assert "adam/version_0, val 1.000" in place
    assert "sgd/version_0, val 0.8750" in place


def test_runs_that_cannot_be_compared_are_refused(runs, tmp_path):
    with pytest.raises(ValueError, match=r"`run` has 1 folders; a comparison needs 2 to 10"):
        write_comparison(runs[:1])
    with pytest.raises(ValueError, match="`run` names a folder twice"):
        write_comparison([runs[0], runs[0]])
    with pytest.raises(ValueError, match="must be the folder of a run"):
        write_comparison([runs[0], tmp_path])


def test_damaged_runs_are_compared_as_far_as_they_can_be_read(tmp_path):
    runs = [write_run(tmp_path, name) for name in ("a", "b")]
    (runs[0] / "config.yaml").write_bytes(b"\xff: [")
    (runs[1] / "environment.json").write_text("[]")
    html = write_comparison(runs).read_text()
    assert "The runs have logged no metrics yet." in html
    assert "The runs have no readable settings." in html


def test_runs_with_and_without_validation_sets_are_compared(runs):
    with (runs[1] / "metrics.jsonl").open("w") as file:
        file.write('{"step": 10, "epoch": 0, "train/loss": 1, "val/a/loss": 2, "val/b/loss": 3}\n')
    html = write_comparison(runs).read_text()
    found = re.findall(r"<figcaption>Loss <span>(.*?)</span>.*?(<svg.*?</svg>)", html, re.S)
    charts = dict(found)
    assert [*charts] == ["val", "val/a", "val/b"]
    assert "sgd/version_0, val/b 3.000" in charts["val/b"]
    assert "sgd/version_0" not in charts["val"]
    assert "adam/version_0" not in charts["val/a"]
    assert "adam/version_0, val 1.000" in charts["val"]


def test_metrics_of_single_classes_have_neither_columns_nor_charts(runs):
    with (runs[1] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "val/f1": 0.5, "val/f1/cat": 0.25, "val/f1/dog": 0.75}\n')
    html = write_comparison(runs).read_text()
    assert cells(html)[0][6] == "val/f1"
    assert "cat" not in html
    assert "per class" not in html
