"""The factor of positive labels."""

import numpy as np
import pytest

from nnx_alexnet.task.pos_weights import balanced_pos_weight, checked_pos_weight


def test_balanced_weights_give_both_values_the_same_total():
    labels = np.random.default_rng(0).integers(0, 2, (50, 3)) * [[1, 1, 0]] + [[0, 0, 0]]
    labels[:5, 2] = 1
    weight = balanced_pos_weight(labels)
    np.testing.assert_allclose((labels * weight).sum(axis=0), (labels == 0).sum(axis=0))


@pytest.mark.parametrize("labels", [None, np.array([0, 2]), np.zeros(4, int), np.ones((4, 2))])
def test_balanced_weights_need_both_values_in_memory(labels):
    with pytest.raises(ValueError, match=r'`pos_weight` \(="balanced"\) needs'):
        balanced_pos_weight(labels)


@pytest.mark.parametrize("weight", ["even", 0, -1, float("nan"), [], [1, 0], [[1.0]], "3"])
def test_a_wrong_weight_is_refused(weight):
    with pytest.raises(ValueError, match=r'`pos_weight` \(=.*must be "balanced"'):
        checked_pos_weight(weight)
