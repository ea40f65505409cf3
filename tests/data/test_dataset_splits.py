import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnx_alexnet.data.dataset_splits import channel_statistics, held_out


@given(
    counts=st.lists(st.integers(2, 60), min_size=1, max_size=6),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None)
def test_a_tenth_of_each_class_is_held_out(counts, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    kept, held = held_out(labels, seed=seed)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    num = max(round(0.1 * len(labels)), len(counts))
    assert len(held) == num
    for label, count in enumerate(counts):
        share = np.sum(labels[held] == label)
        assert abs(share - count * num / len(labels)) <= 1
        assert share < count


def test_another_seed_holds_out_other_examples():
    labels = np.arange(200) % 4
    assert np.array_equal(held_out(labels, seed=1)[1], held_out(labels, seed=1)[1])
    assert not np.array_equal(held_out(labels, seed=1)[1], held_out(labels, seed=2)[1])


def test_a_class_of_one_example_cannot_be_held_out():
    with pytest.raises(ValueError, match="Class 1 has a single training example"):
        held_out(np.array([0, 0, 1]), seed=0)


def test_channel_statistics_equal_those_of_numpy():
    images = np.random.default_rng(0).integers(0, 256, (9, 7, 5, 3)).astype(np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)))
