import pytest

from nnx_alexnet.report.metric_text import metric_text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("val/accuracy", 0.9, "90.00%"),
        ("train/accuracy_step", 0.125, "12.50%"),
        ("val/accuracy", 1.5, "1.5"),  # of another scale
        ("ROC AUC (macro)", 0.99975, "0.9998"),
        ("average precision (macro)", 1.0, "1.0000"),
        ("val/loss", 0.875, "0.8750"),
        ("val/loss", 12345.6, "12,346"),
        ("val/loss", float("nan"), "-"),
        ("lr", 0.001, "0.001"),
        ("perf/data_wait", 0.0123, "1.23%"),
        ("perf/peak_memory_bytes", 1.5e9, "1.5 GB"),
        ("perf/compile_seconds", 7.234, "7.23 s"),
        ("perf/total_seconds", 754, "12m34s"),
    ],
)
def test_a_metric_is_shown_in_its_unit(name, value, text):
    assert metric_text(name, value) == text


def test_values_of_single_classes_look_like_those_of_all():
    assert metric_text("val/night/f1/cat", 0.5) == metric_text("val/f1", 0.5) == "50.00%"
    assert metric_text("val/f1/loss", 0.5) == "0.5000"
    assert metric_text("val/auroc", 0.5) == "0.5000"
