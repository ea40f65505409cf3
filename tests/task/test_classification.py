"""Loss, metrics and label checks of classification, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu.metrics import Average, Collection
from flax import nnx
from helpers import X, Y, linear_trainer
from hypothesis import given, settings
from hypothesis import strategies as st

from nnx_alexnet import Classification, DataModule, Trainer
from nnx_alexnet.task.classification import _in_top_5

RNG = np.random.default_rng(0)


def outputs(logits, labels, **arguments):
    batch = {"image": jnp.asarray(logits), "label": jnp.asarray(labels)}
    return Classification(**arguments).outputs(lambda image: image, batch)


def accumulate(logits, labels, mask, sizes):
    """The metrics of a split in batches of these sizes."""
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
def test_the_loss_is_the_cross_entropy_with_one_hot_labels(smoothing):
    logits = RNG.normal(size=(20, 4)).astype(np.float32)
    labels = RNG.integers(0, 4, 20).astype(np.int32)
    targets = np.eye(4)[labels] * (1 - smoothing) + smoothing / 4
    got = outputs(logits, labels, label_smoothing=smoothing)["loss"]
    np.testing.assert_allclose(got, numpy_losses(logits, targets), rtol=1e-5)


def test_soft_labels_are_targets_and_their_largest_is_the_class():
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
@settings(deadline=None, max_examples=4)
def test_masked_metrics_do_not_depend_on_padding_or_batch_sizes(num_classes, sizes, data):
    num = sum(sizes)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=num, max_size=num)))
    mask[data.draw(st.integers(0, num - 1))] = True
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    logits = rng.normal(size=(num, num_classes)).astype(np.float32)
    labels = rng.integers(0, num_classes, num).astype(np.int32)
    logits[~mask] = np.nan  # values in the padding must not matter
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


def test_top_5_accuracy_matches_top_k_with_ties_and_nan():
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 4, (500, 12)).astype(np.float32)  # many are equal
    logits[rng.random(logits.shape) < 0.1] = np.nan
    labels = rng.integers(0, 12, 500).astype(np.int32)
    best = jax.lax.top_k(logits, 5)[1]
    expected = (best == labels[:, None]).any(axis=1)
    got = _in_top_5(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_array_equal(got, expected.astype(np.float32))


def test_predict_returns_probabilities():
    logits = jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32)
    got = Classification().predict(lambda image: image, {"image": logits})
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
def test_labels_must_fit_the_logits(logits, labels):
    with pytest.raises(ValueError, match="Subclass `Task`"):
        outputs(logits, labels)


def test_a_subclass_can_replace_the_metrics():
    class Mine(Classification):
        metrics = Collection.create(
            error=Average.from_fun(
                lambda logits, labels, **_: (logits.argmax(axis=-1) != labels).astype(jnp.float32)
            )
        )

    trainer = linear_trainer(Mine())
    row = trainer.fit()[0]
    assert {name for name in row if name.startswith("val/")} == {"val/loss", "val/error"}
    wrong = trainer.predict().argmax(axis=1) != Y
    assert row["val/error"] == pytest.approx(wrong.mean())


@pytest.mark.parametrize(
    ("head", "match"),
    [
        (lambda z: z > 0, r"returns bool\[16, 2\] for a batch; .* floating-point logits"),
        (lambda z: z.astype(jnp.int32), r"returns int32\[16, 2\].* before any argmax"),
        (lambda z: z + 1j, r"returns complex64\[16, 2\]"),
    ],
)
def test_logits_must_be_floating_point(refused, head, match):
    class Headed(Classification):
        def outputs(self, model, batch):
            return super().outputs(lambda image: head(model(image)), batch)

    refused(Headed(), match)


# ---- Labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels", [Y, Y[:, None].astype(np.float32), (3 * X[:, :1] + 1).astype(np.float32)]
)
def test_a_single_logit_is_refused_and_other_losses_suggested(refused, labels):
    match = r"one logit per example; .*`BinaryClassification`.*optax.squared_error"
    refused(Classification(), match, num_outputs=1, labels=labels)


ROWS = {
    "regression": 5 * X[:, :3],
    "multi-hot": np.stack([Y, 1 - Y, np.ones(32)], axis=1),
    "none": np.zeros((32, 3)),
    "negative": np.tile([1.5, -0.5, 0.0], (32, 1)),
    "not finite": np.tile([np.nan, 0.5, 0.5], (32, 1)),
}


@pytest.mark.parametrize("model", [nnx.Linear(4, 1, rngs=nnx.Rngs(0)), lambda x: x[:, 0]])
def test_predict_refuses_a_single_logit(model):
    with pytest.raises(ValueError, match=r"`model` returns .*`Classification` requires"):
        Classification().predict(model, {"image": X})


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("in_memory", [True, False])
def test_soft_labels_must_be_probabilities(tmp_path, kind, in_memory):
    rows = np.tile(np.array([0.25, 0.25, 0.5], np.float32), (32, 1))
    rows[-1] = ROWS[kind][-1]  # in the last example of the last batch
    batches = [(X[:16], rows[:16]), (X[16:], rows[16:])]
    data = DataModule((X, rows), batch_size=16) if in_memory else DataModule(batches)
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    trainer = Trainer(model, data, max_epochs=1, log_dir=tmp_path, progress_bar=False)
    with pytest.raises(ValueError, match=r"`train` has floating-point labels .*probabilities"):
        trainer.fit()
    if in_memory:
        assert not any(tmp_path.iterdir())
        assert trainer.num_compilations == {}


class CountsChecks(Classification):
    def __init__(self):
        super().__init__()
        self._sizes = []

    def label_problem(self, labels, outputs):
        self._sizes.append(len(labels))
        return super().label_problem(labels, outputs)


@pytest.mark.parametrize(
    ("data", "sizes"),
    [
        ({"train": (X, Y), "batch_size": 16, "keep_on_device": True}, [32]),
        ({"train": (X, Y), "batch_size": 16, "keep_on_device": False}, [32]),
        ({"train": [(X[:16], Y[:16]), (X[16:], Y[16:])]}, [16, 16]),
    ],
)
def test_each_label_is_checked_once(data, sizes):
    task, model = CountsChecks(), nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    arguments = {"task": task, "max_epochs": 1, "log_dir": None, "progress_bar": False}
    Trainer(model, DataModule(**data), **arguments).fit()
    assert task._sizes == sizes


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, jnp.bfloat16])
def test_rounded_probabilities_are_accepted(dtype):
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.ones(1000), 32).astype(dtype).astype(np.float32)
    outputs = {"logits": jax.ShapeDtypeStruct((32, 1000), jnp.float32)}
    assert Classification().label_problem(rows, outputs) is None


def test_views_have_the_mean_of_their_probabilities():
    random = np.random.default_rng(0)
    weights = random.normal(size=(4, 3)).astype(np.float32)
    views = random.normal(size=(5, 10, 4)).astype(np.float32)
    batch = {"image": views[:, 0] * 0, "views": views, "label": np.array([0, 1, 2, 0, 1])}
    exponentials = np.exp(views.astype(np.float64) @ weights)
    means = (exponentials / exponentials.sum(-1, keepdims=True)).mean(axis=1)

    def model(image):
        return image @ weights

    np.testing.assert_allclose(Classification().predict(model, batch), means, rtol=1e-5)
    outputs = Classification().outputs(model, batch)
    wanted = -np.log(means[np.arange(5), batch["label"]])
    np.testing.assert_allclose(outputs["loss"], wanted, rtol=1e-5)
    np.testing.assert_array_equal(outputs["logits"].argmax(-1), means.argmax(-1))
