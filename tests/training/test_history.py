"""The history that `fit` returns, and the metrics that `validate` returns."""

import re
import sys

import pytest

from nnx_alexnet.training.history import History, Metrics

ROWS = [
    {"epoch": 0, "step": 4, "train/loss": 1.5, "val/loss": 1.0},
    {"epoch": 1, "step": 8, "train/loss": 0.75, "val/loss": 0.5},
]


def test_the_history_is_a_list_that_converts_to_a_data_frame():
    history = History(ROWS)
    assert history == ROWS
    frame = history.to_pandas()
    assert frame.index.name == "step"
    assert frame.index.tolist() == [4, 8]
    assert frame["val/loss"].tolist() == [1.0, 0.5]
    assert "step" not in frame.columns
    assert History().to_pandas().index.name == "step"


def test_the_table_has_four_digits_and_no_speed():
    history = History([{"lr": 1e-5, "perf/mfu": 1.0} | ROWS[0], ROWS[1] | {"train/loss": 0.123456}])
    assert repr(history).split("\n") == [
        "epoch  step  train/loss  val/loss     lr",
        "    0     4      1.5000    1.0000  1e-05",
        "    1     8      0.1235    0.5000      -",
    ]
    page = history._repr_html_()
    assert page.count("<tr>") == 2
    assert "0.1235" in page
    assert "mfu" not in page


def test_an_empty_history_is_shown_as_code():
    assert repr(History()) == "History([])"
    assert History()._repr_html_() is None


def test_of_a_long_history_the_ends_are_shown():
    history = History({"epoch": n, "step": n} for n in range(61))
    steps = [line.split()[1] for line in repr(history).split("\n")[1:]]
    assert steps == [*"01234", "...", "56", "57", "58", "59", "60"]
    assert "..." not in repr(history[1:])


def test_a_part_of_a_history_is_a_history():
    assert type(History(ROWS)[:1]) is History
    assert History(ROWS)[:1] == ROWS[:1]
    assert History(ROWS)[1] == ROWS[1]


def test_without_pandas_the_error_names_the_package_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        History().to_pandas()


def test_metrics_are_a_dict_that_a_notebook_shows_as_a_table():
    metrics = Metrics({"test/loss": 2.2964077419704862})
    assert metrics == {"test/loss": 2.2964077419704862}
    assert ">2.2964<" in metrics._repr_html_()


def test_single_classes_are_left_out_of_the_history_and_follow_the_metrics():
    values = {"val/loss": 0.125, "val/f1": 0.5, "val/f1/<b>": 0.25, "val/recall": 1.0,
              "val/recall/<b>": 0.75, "val/recall/dog": 0.375}  # fmt: skip
    assert repr(History([{"epoch": 0, "step": 4, **values}])).split("\n")[0].split() == [
        "epoch", "step", "val/loss", "val/f1", "val/recall",
    ]  # fmt: skip
    cells = re.findall("<t[hd](?: [^>]*)?>(.*?)</t[hd]>", Metrics(values)._repr_html_())
    assert cells == [
        "val/loss", "val/f1", "val/recall", "0.1250", "0.5000", "1.0000",
        "class", "val/f1", "val/recall", "&lt;b&gt;", "0.2500", "0.7500", "dog", "-", "0.3750",
    ]  # fmt: skip
