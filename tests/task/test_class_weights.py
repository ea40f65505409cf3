"""Class weights and sample weights in the loss, against torch and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from helpers import X, Y
from sklearn.metrics import accuracy_score, log_loss
from sklearn.utils.class_weight import compute_class_weight

from nnx_alexnet import Classification, DataModule, Trainer
from nnx_alexnet.task.class_weights import balanced_weights
from nnx_alexnet.training.default_steps import masked_mean

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(20, 4)).astype(np.float32)
LABELS = RNG.integers(0, 4, 20).astype(np.int32)
WEIGHTS = (0.5, 1.0, 2.0, 0.0)


def mean_loss(task, labels, weight=None):
    """The loss of a batch whose last three rows are padding."""
    logits, labels = np.array(LOGITS), np.array(labels)
    mask = np.arange(20) < 17
    logits[~mask] = np.nan
    batch = {"image": jnp.asarray(logits), "label": jnp.asarray(labels)}
    if weight is not None:
        batch["weight"] = jnp.asarray(np.where(mask, weight, np.nan))
    found = task.outputs(lambda image: image, batch)
    return float(masked_mean(found["loss"], jnp.asarray(mask), found.get("weight")))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_mean_loss_with_class_weights_is_that_of_torch(smoothing):
    weights = (0.5, 1.0, 2.0, 3.0)
    loss = torch.nn.CrossEntropyLoss(torch.tensor(weights), label_smoothing=smoothing)
    expected = loss(torch.tensor(LOGITS[:17]), torch.tensor(LABELS[:17]).long())
    got = mean_loss(Classification(smoothing, class_weights=weights), LABELS)
    assert got == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.usefixtures("strict_dtype_promotion")
def test_class_weights_need_no_promotion():
    with jax.numpy_rank_promotion("raise"):
        assert np.isfinite(mean_loss(Classification(class_weights=WEIGHTS), LABELS))


def test_a_class_of_weight_zero_is_left_out():
    kept = LABELS[:17] != 3
    loss = torch.nn.CrossEntropyLoss(torch.tensor(WEIGHTS))
    expected = loss(torch.tensor(LOGITS[:17][kept]), torch.tensor(LABELS[:17][kept]).long())
    got = mean_loss(Classification(class_weights=WEIGHTS), LABELS)
    assert got == pytest.approx(float(expected), rel=1e-5)


def test_soft_labels_weight_each_of_their_classes():
    """torch divides by the number of examples, and not by the sum of weights."""
    weights, soft = (0.5, 1.0, 2.0, 3.0), RNG.dirichlet(np.ones(4), 20).astype(np.float32)
    loss = torch.nn.CrossEntropyLoss(torch.tensor(weights), reduction="sum")
    total = loss(torch.tensor(LOGITS[:17]), torch.tensor(soft[:17]))
    expected = float(total) / (soft[:17] * weights).sum()
    got = mean_loss(Classification(class_weights=weights), soft)
    assert got == pytest.approx(expected, rel=1e-5)


def test_sample_weights_multiply_class_weights():
    sample, weights = RNG.uniform(0, 2, 20).astype(np.float32), np.array(WEIGHTS)[LABELS]
    p = np.exp(LOGITS.astype(np.float64))
    losses = -np.log((p / p.sum(axis=1, keepdims=True))[np.arange(20), LABELS])
    both = (sample * weights)[:17]
    got = mean_loss(Classification(class_weights=WEIGHTS), LABELS, sample)
    assert got == pytest.approx((both * losses[:17]).sum() / both.sum(), rel=1e-5)


def test_the_focal_loss_is_that_of_the_paper():
    p = np.exp(LOGITS.astype(np.float64))
    p = (p / p.sum(axis=1, keepdims=True))[np.arange(20), LABELS][:17]
    got = mean_loss(Classification(focal_gamma=2.0), LABELS)
    assert got == pytest.approx((-((1 - p) ** 2) * np.log(p)).mean(), rel=1e-5)


def test_balanced_weights_are_those_of_scikit_learn():
    labels = RNG.integers(0, 5, 100) ** 2 // 4
    expected = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    got = balanced_weights(np.bincount(labels), 8)
    np.testing.assert_allclose(got[np.unique(labels)], expected, rtol=1e-6)
    assert got[np.setdiff1d(np.arange(8), labels)].tolist() == [1] * (8 - len(expected))


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_weighted_metrics_of_a_split_are_those_of_scikit_learn(devices):
    """The last batch is padded."""
    labels, weight = (X[:27, 0] > 0.3).astype(np.int32), RNG.uniform(0, 2, 27).astype(np.float32)
    split = {"image": X[:27], "label": labels, "weight": weight}
    data = DataModule(split, split, batch_size=8)
    trainer = Trainer(
        nnx.Linear(4, 2, rngs=nnx.Rngs(0)), data, log_dir=None, progress_bar=False,
        task=Classification(class_weights="balanced"), max_epochs=2, devices=devices,
    )  # fmt: skip
    trainer.fit()
    found, p = trainer.validate(), trainer.predict({"image": X[:27]})
    classes = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels)[labels]
    assert found["val/loss"] == pytest.approx(
        log_loss(labels, p, sample_weight=weight * classes), rel=1e-4
    )
    assert found["val/accuracy"] == pytest.approx(
        accuracy_score(labels, p.argmax(axis=1), sample_weight=weight), rel=1e-5
    )


def test_balanced_weights_need_the_classes_of_all_examples():
    batches = [(X[:16], Y[:16]), (X[16:], Y[16:])]
    with pytest.raises(ValueError, match=r'`class_weights` \(="balanced"\) needs the classes'):
        Trainer(
            nnx.Linear(4, 2, rngs=nnx.Rngs(0)), DataModule(batches),
            task=Classification(class_weights="balanced"),
        )  # fmt: skip


@pytest.mark.parametrize("weights", ["even", [1.0], [1, -1], [0, 0], [1, np.nan], [[1, 2]], 3])
def test_wrong_class_weights_are_refused(weights):
    with pytest.raises(ValueError, match=r'`class_weights` \(=.*"balanced", None, or one number'):
        Classification(class_weights=weights)


def test_class_weights_are_one_per_logit(refused):
    refused(Classification(class_weights=[1, 2, 3]), "has 3 numbers for a model of 2 classes")
