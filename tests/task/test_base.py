"""The loss and the metrics of classification, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnx_alexnet import Classification, Task
from nnx_alexnet.task.base import _in_top_5

RNG = np.random.default_rng(0)


def outputs(logits, labels, **arguments):
    batch = {"image": jnp.asarray(logits), "label": jnp.asarray(labels)}
    return Classification(**arguments).outputs(lambda image: image, batch)


def accumulate(logits, labels, mask, sizes):
    """The metrics of a split that comes in batches of these sizes."""
    task, start, metrics = Classification(), 0, None
    for size in sizes:
        part = slice(start, start := start + size)
        out = outputs(logits[part], labels[part])
        collection = task.collection(jax.eval_shape(lambda out=out: out))
        new = collection.single_from_model_output(mask=jnp.asarray(mask[part]), **out)
        metrics = new if metrics is None else metrics.merge(new)
    return {name: float(value) for name, value in metrics.compute().items()}


def numpy_losses(logits, targets):
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return -(targets * (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))).sum(axis=1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_cross_entropy_against_the_one_hot_label(smoothing):
    logits = RNG.normal(size=(20, 4)).astype(np.float32)
    labels = RNG.integers(0, 4, 20).astype(np.int32)
    targets = np.eye(4)[labels] * (1 - smoothing) + smoothing / 4
    got = outputs(logits, labels, label_smoothing=smoothing)["loss"]
    np.testing.assert_allclose(got, numpy_losses(logits, targets), rtol=1e-5)


def test_soft_labels_are_a_target_and_their_largest_is_the_class():
    logits = RNG.normal(size=(20, 4)).astype(np.float32)
    soft = RNG.dirichlet(np.ones(4), 20).astype(np.float32)
    got = outputs(logits, soft)
    np.testing.assert_allclose(got["loss"], numpy_losses(logits, soft), rtol=1e-5)
    np.testing.assert_array_equal(got["labels"], soft.argmax(axis=1))


def test_bfloat16_logits_give_a_float32_loss():
    logits = jnp.asarray(RNG.normal(size=(4, 3)), jnp.bfloat16)
    assert outputs(logits, np.zeros(4, np.int32))["loss"].dtype == jnp.float32


@given(
    num_classes=st.sampled_from([3, 10, 11, 20]),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    data=st.data(),
)
@settings(deadline=None, max_examples=6)
def test_masked_metrics_are_those_of_the_kept_rows_however_they_are_batched(
    num_classes, sizes, data
):
    num = sum(sizes)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=num, max_size=num)))
    mask[data.draw(st.integers(0, num - 1))] = True
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    logits = rng.normal(size=(num, num_classes)).astype(np.float32)
    labels = rng.integers(0, num_classes, num).astype(np.int32)
    logits[~mask] = np.nan  # what stands in padding must not matter
    got = accumulate(logits, labels, mask, sizes)
    kept, right = logits[mask], labels[mask]
    order = np.argsort(-kept, axis=1, kind="stable")
    expected = {
        "loss": numpy_losses(kept, np.eye(num_classes)[right]).mean(),
        "accuracy": (order[:, 0] == right).mean(),
    }
    if num_classes > 10:
        expected["top_5_accuracy"] = (order[:, :5] == right[:, None]).any(axis=1).mean()
    assert got == pytest.approx(expected, abs=1e-6)


def test_top_5_is_that_of_top_k_with_equal_logits_and_with_nan():
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 4, (500, 12)).astype(np.float32)  # many are equal
    logits[rng.random(logits.shape) < 0.1] = np.nan
    labels = rng.integers(0, 12, 500).astype(np.int32)
    best = jax.lax.top_k(logits, 5)[1]
    expected = (best == labels[:, None]).any(axis=1)
    got = _in_top_5(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_array_equal(got, expected.astype(np.float32))


def test_predict_gives_probabilities():
    logits = jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32)
    got = Classification().predict(lambda image: image, logits)
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(got.argmax(axis=1), logits.argmax(axis=1))


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((4, 3, 3), np.float32), np.zeros(4, np.int32)),
        (np.zeros((4, 3), np.float32), np.zeros((4, 2), np.float32)),
        (np.zeros((4, 3), np.float32), np.zeros(4, np.float32)),
        (np.zeros((4, 3), np.float32), np.zeros((4, 3), np.int32)),
    ],
)
def test_labels_and_logits_that_do_not_fit_are_refused(logits, labels):
    with pytest.raises(ValueError, match="Subclass `Task`"):
        outputs(logits, labels)


def test_a_task_must_say_its_outputs():
    with pytest.raises(TypeError, match="must override `outputs"):
        Task().outputs(None, {})
