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
