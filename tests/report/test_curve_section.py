import re

from nnx_alexnet.report.curve_section import curves

ROWS = [
    {"step": 4, "epoch": 0, "train/loss": 2.0, "train/loss_step": 3.0, "val/accuracy": 0.75},
    {"step": 8, "epoch": 1, "train/loss": 1.0, "val/accuracy": 0.5, "lr": 0.125},
]


def test_each_metric_has_a_figure_and_each_group_a_heading():
    rows = [
        *ROWS,
        {"step": 8, "grad_norm": 0.5, "norm/parameters": 2.0, "normal": 1.0, "fisher/trace": 3.0},
        {"step": 9, "fisher/trace": 4.0, "grad_norm": 0.5, "norm/parameters": 2.0},
    ]
    html = curves(rows, {"norm/gradients": {8: 3.0}})
    assert re.findall("<(?:figcaption|h3)>(.*?)</", html) == [
        "Training and validation", "Loss", "Accuracy", "Fisher", "Fisher trace", "Optimization",
        "Norm of the gradients", "Learning rate", "Grad norm", "Norm of the parameters",
    ]  # fmt: skip
    assert "Metrics with only one value have no chart: normal." in html


def test_a_run_without_metrics_has_a_note():
    assert curves([]) == '<p class="note">The run has logged no metrics yet.</p>'


def legend(html, caption):
    (svg,) = re.findall(f"<figcaption>{caption}.*?(<svg.*?</svg>)", html, re.S)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg[: svg.index('class="tip"')])
    return [text for text in texts if not re.fullmatch(r"[-\d.,%]+|epoch|optimizer step", text)]


def test_each_validation_set_has_a_curve_without_a_circle():
    rows = [
        {"step": 4 * k, "epoch": k - 1, "train/loss": 2.0, "val/a/loss": 3.0 / k, "val/b/loss": k}
        for k in (1, 2)
    ]
    assert legend(curves(rows), "Loss") == ["train", "val/a", "val/b"]
    for row in rows:
        del row["val/b/loss"]
    assert legend(curves(rows), "Loss") == ["train", "val/a", "best val/a"]


def test_only_the_ten_lowest_classes_have_curves_in_their_order():
    values = {f"val/f1/class {k}": 0.5 if k == 3 else 0.1 for k in range(11)}
    rows = [{"step": step, "val/loss": 1.0, "val/f1": 0.3, **values} for step in (4, 8)]
    html = curves(rows)
    assert "F1 per class <span>val, the 10 lowest</span>" in html
    expected = [f"class {k}" for k in range(11) if k != 3]
    assert sorted(legend(html, "F1 per class"), key=lambda text: int(text[6:])) == expected
