import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnx_alexnet.dashboard.classification_results import ClassificationResults


def batches(logits, labels, size):
    """Yields the batches of a split, the last one padded as the loader does."""
    num = len(labels)
    for start in range(0, num, size):
        rows = np.arange(start, min(start + size, num))
        index = rows[np.arange(size) % len(rows)]
        outputs = {"logits": jnp.asarray(logits[index]), "labels": jnp.asarray(labels[index])}
        yield (
            outputs,
            {
                "image": np.full((size, 2, 2, 1), index[:, None, None, None], np.uint8),
                "mask": np.arange(size) < len(rows),
                "index": index,
            },
        )


def gathered(logits, labels, size, num_mistakes=16):
    results = ClassificationResults(num_mistakes)
    for outputs, batch in batches(logits, labels, size):
        results.add(outputs, batch)
    results.finish()
    return results


@given(seed=st.integers(0, 2**16), num=st.integers(1, 40), size=st.sampled_from([1, 7, 16]))
def test_counts_and_mistakes_equal_those_of_one_numpy_pass(seed, num, size):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num, 3)).astype(np.float32)
    labels = rng.integers(0, 3, num).astype(np.int32)
    results = gathered(logits, labels, size, num_mistakes=5)
    expected = np.zeros((3, 3), int)
    for label, row in zip(labels, logits, strict=True):
        expected[label, row.argmax()] += 1
    assert results.counts.tolist() == expected.tolist()
    assert results.total.tolist() == expected.sum(axis=1).tolist()
    assert results.right.tolist() == np.diag(expected).tolist()
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidence = (exponentials / exponentials.sum(axis=1, keepdims=True)).max(axis=1)
    wrong = np.flatnonzero(logits.argmax(axis=1) != labels)
    found = results.mistakes
    assert len(found) == min(5, len(wrong))
    surest = np.sort(confidence[wrong])[::-1][:5]
    np.testing.assert_allclose([m.confidence for m in found], surest, rtol=1e-5)
    for mistake in found:
        assert mistake.label == labels[mistake.index]
        assert mistake.predicted == logits[mistake.index].argmax() != mistake.label
        assert (mistake.image == mistake.index).all()


def test_at_most_three_batches_are_left_on_the_device():
    results = ClassificationResults()
    logits, labels = np.eye(2, dtype=np.float32)[[0] * 20], np.zeros(20, np.int32)
    for number, (outputs, batch) in enumerate(batches(logits, labels, 2)):
        results.add(outputs, batch)
        assert results.counts.sum() == 2 * max(0, number + 1 - 3)
    results.finish()
    assert results.counts.sum() == 20


@pytest.mark.parametrize(
    "outputs",
    [
        {"loss": jnp.zeros(2)},
        {"logits": jnp.zeros((2, 3, 4)), "labels": jnp.zeros(2, int)},
        {"logits": jnp.zeros((2, 3))},
        {"logits": jnp.zeros((2, 1)), "labels": jnp.ones(2, int)},
        {"logits": jnp.zeros((2, 3)), "labels": jnp.zeros((2, 3))},
        {"logits": jnp.zeros((2, 3)), "labels": jnp.zeros(2)},
    ],
)
def test_outputs_that_are_no_classification_are_ignored(outputs):
    results = ClassificationResults()
    results.add(outputs, {})
    results.finish()
    assert results.total is None
    assert results.mistakes == []


def test_thousands_of_classes_have_accuracies_but_no_matrix():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(8, 30_000)).astype(np.float32)
    labels = np.where(np.arange(8) < 5, logits.argmax(axis=1), 0).astype(np.int32)
    results = gathered(logits, labels, 4)
    assert results.counts is None
    assert results.total.sum() == 8
    assert results.right.sum() == 5
