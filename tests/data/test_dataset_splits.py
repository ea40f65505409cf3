import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from nnx_alexnet.data.dataset_splits import channel_statistics, held_out, held_out_rows


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


@given(st.lists(st.integers(2, 40), min_size=2, max_size=8), st.integers(0, 2**32 - 1), st.data())
def test_the_draw_is_that_of_scikit_learn(counts, seed, data):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    num = data.draw(st.integers(len(counts), len(labels) - len(counts)))
    expected = train_test_split(
        np.arange(len(labels)), test_size=num, stratify=labels, random_state=seed
    )
    kept, held = held_out(labels, seed=seed, num=num)
    np.testing.assert_array_equal(kept, np.sort(expected[0]))
    np.testing.assert_array_equal(held, np.sort(expected[1]))


def test_a_class_of_one_example_cannot_be_held_out():
    with pytest.raises(ValueError, match="Class 1 has a single training example"):
        held_out(np.array([0, 0, 1]), seed=0)


@pytest.mark.parametrize(
    "labels",
    [None, np.linspace(0, 1, 60), np.arange(60), np.zeros((60, 2), int), np.arange(60) // 2],
)
def test_rows_without_classes_are_held_out_at_random(labels):
    kept, held = held_out_rows(60, labels, seed=3)
    assert (sorted([*kept, *held]), len(held)) == ([*range(60)], 6)
    assert held.tolist() == held_out_rows(60, None, seed=3)[1].tolist()
    assert held.tolist() != held_out_rows(60, None, seed=4)[1].tolist()


def test_rows_with_classes_are_held_out_by_class():
    labels = np.arange(60) % 3
    assert np.bincount(labels[held_out_rows(60, labels, seed=3)[1]]).tolist() == [2, 2, 2]


def test_a_single_row_cannot_be_held_out():
    with pytest.raises(ValueError, match="has 1 rows, so none can be held out"):
        held_out_rows(1, None, seed=0)


def test_channel_statistics_equal_those_of_numpy():
    images = np.random.default_rng(0).integers(0, 256, (9, 7, 5, 3)).astype(np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)))
