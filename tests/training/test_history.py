"""The history that `fit` returns."""

import sys

import pytest

from nnx_alexnet.training.history import History

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


def test_without_pandas_the_error_names_the_package_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        History().to_pandas()
