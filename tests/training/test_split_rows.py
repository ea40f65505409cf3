"""The outputs of a whole split."""

import numpy as np

from nnx_alexnet.task import SplitMetric
from nnx_alexnet.training.split_rows import SplitRows


def test_rows_are_joined_in_order_without_padding():
    metric = SplitMetric(lambda a, b: 10 * a[-1, 0] + b.sum(), ("a", "b"))
    rows = SplitRows({"mine": metric}, np.asarray)
    rows.add({"a": np.ones((2, 1)), "b": np.array([1, 2])}, np.array([True, True]))
    rows.add({"a": np.array([[3.0], [9.0]]), "b": np.array([4, 8])}, np.array([True, False]))
    assert rows.values() == {"mine": 37.0}


def test_only_a_split_with_weights_passes_them():
    metric = SplitMetric(
        lambda a, weight=None: a.sum() if weight is None else a @ weight, ("a",), "w"
    )
    for weight, expected in [({}, 5.0), ({"w": np.array([2.0, 1.0])}, 7.0)]:
        rows = SplitRows({"mine": metric}, np.asarray)
        rows.add({"a": np.array([2.0, 3.0]), **weight}, np.array([True, True]))
        assert rows.values() == {"mine": expected}


def test_nothing_is_kept_without_metrics():
    rows = SplitRows({}, np.asarray)
    rows.add({"a": np.ones(2)}, np.array([True, True]))
    assert rows._rows == {}
    assert rows.values() == {}
