"""Binary and multi-label classification, against torch, torchvision and scikit-learn."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from sklearn.metrics import accuracy_score, hamming_loss, precision_recall_fscore_support
from torchvision.ops import sigmoid_focal_loss

from nnx_alexnet import BinaryClassification, DataModule, MultiLabelClassification, Trainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(75, 4)).astype(np.float32)
LABELS = (X[:, :3] + RNG.normal(size=(75, 3)) > 0.5).astype(np.int32)
WEIGHT = RNG.uniform(0, 2, 75).astype(np.float32)
SCORES = ("precision", "recall", "f1")


def outputs(task, logits, labels):
    batch = {"image": jnp.asarray(logits), "label": jnp.asarray(labels)}
    return task.outputs(lambda image: image, batch)


@pytest.mark.parametrize("labels", [LABELS, RNG.uniform(size=(75, 3)).astype(np.float32)])
def test_the_loss_is_that_of_torch(labels):
    weight = (0.5, 1.0, 3.0)
    loss = torch.nn.BCEWithLogitsLoss(reduction="none", pos_weight=torch.tensor(weight))
    expected = loss(torch.tensor(X[:, :3]), torch.tensor(labels).float()).mean(dim=1)
    got = outputs(MultiLabelClassification(pos_weight=weight), X[:, :3], labels)["loss"]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_is_that_of_torchvision(gamma):
    expected = sigmoid_focal_loss(
        torch.tensor(X[:, 0]), torch.tensor(LABELS[:, 0]).float(), alpha=-1, gamma=gamma
    )
    got = outputs(BinaryClassification(focal_gamma=gamma), X[:, :1], LABELS[:, 0])["loss"]
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def fitted(task, labels, num_outputs, **arguments):
    split = {"image": X, "label": labels, "weight": WEIGHT}
    data = DataModule(split, split, batch_size=16)
    model = nnx.Linear(4, num_outputs, rngs=nnx.Rngs(0))
    trainer = Trainer(
        model, data, task=task, max_epochs=2, log_dir=None, progress_bar=False, **arguments
    )
    return trainer, trainer.fit()[-1]


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_binary_metrics_of_a_padded_split_are_those_of_scikit_learn(devices):
    labels = LABELS[:, 0]
    task = BinaryClassification(0.3, pos_weight="balanced", metrics=SCORES)
    trainer, row = fitted(task, labels, 1, devices=devices)
    p = trainer.predict({"image": X})
    assert p.shape == (75,)
    expected = precision_recall_fscore_support(
        labels, p > 0.3, average="binary", sample_weight=WEIGHT
    )
    assert [row[f"val/{name}"] for name in SCORES] == pytest.approx(expected[:3], rel=1e-5)
    accuracy = accuracy_score(labels, p > 0.3, sample_weight=WEIGHT)
    assert row["val/accuracy"] == pytest.approx(accuracy, rel=1e-5)
    factor = np.where(labels, (labels == 0).sum() / labels.sum(), 1)
    losses = -factor * np.log(np.where(labels, p, 1 - p))
    assert row["val/loss"] == pytest.approx(np.average(losses, weights=WEIGHT), rel=1e-4)


def test_multi_label_metrics_are_those_of_scikit_learn():
    trainer, row = fitted(MultiLabelClassification(metrics=SCORES), LABELS, 3)
    predicted = trainer.predict({"image": X}) > 0.5
    expected = precision_recall_fscore_support(
        LABELS, predicted, sample_weight=WEIGHT, zero_division=0
    )
    for name, values in zip(SCORES, expected[:3], strict=True):
        assert row[f"val/{name}"] == pytest.approx(values.mean(), rel=1e-5)
        np.testing.assert_allclose([row[f"val/{name}/{k}"] for k in range(3)], values, rtol=1e-5)
    wrong = hamming_loss(LABELS, predicted, sample_weight=WEIGHT)
    assert row["val/accuracy"] == pytest.approx(1 - wrong, rel=1e-5)


@pytest.mark.parametrize(
    ("task", "num_outputs", "labels", "match"),
    [
        (BinaryClassification(), 2, LABELS[:, 0], "requires one floating-point logit per example"),
        (BinaryClassification(), 1, LABELS, "For several labels use `MultiLabel"),
        (
            BinaryClassification(),
            1,
            LABELS[:, 0] * 3,
            "has labels from 0 to 3; .* more than two classes",
        ),
        (BinaryClassification(), 1, LABELS[:, 0] - 1, "has labels from -1 to 0"),
        (
            MultiLabelClassification(),
            2,
            LABELS,
            r"a model of 2 logits requires labels of 0 and 1 of shape",
        ),
        (MultiLabelClassification(), 3, LABELS[:, 0], r"labels of shape \(\)"),
        (MultiLabelClassification(pos_weight=(1, 2)), 3, LABELS, "has 2 numbers for 3 labels"),
    ],
)
def test_wrong_logits_and_labels_are_refused_before_compilation(task, num_outputs, labels, match):
    model = nnx.Linear(4, num_outputs, rngs=nnx.Rngs(0))
    data = DataModule((X, labels), batch_size=16)
    trainer = Trainer(model, data, task=task, log_dir=None, progress_bar=False)
    with pytest.raises(ValueError, match=match):
        trainer.fit()
    assert trainer.num_compilations == {}


@pytest.mark.parametrize("threshold", [0, 1, -0.1, float("nan")])
def test_a_wrong_threshold_is_refused(threshold):
    with pytest.raises(ValueError, match=r"`threshold` .* must be a number in \(0, 1\); 0.5 is"):
        BinaryClassification(threshold)


def test_the_command_builds_one_output_or_one_per_label():
    data = DataModule((X, LABELS), batch_size=16)
    assert BinaryClassification().num_outputs(data) == 1
    assert MultiLabelClassification().num_outputs(data) == 3


@pytest.mark.parametrize(
    ("task", "k"), [(BinaryClassification(), 1), (MultiLabelClassification(), 3)]
)
def test_views_have_the_mean_of_their_probabilities(task, k):
    weights, views = RNG.normal(size=(4, k)), RNG.normal(size=(75, 10, 4))
    batch = {"image": X * 0, "views": jnp.asarray(views), "label": LABELS[:, :k]}
    means = (1 / (1 + np.exp(-views @ weights))).mean(axis=1)
    got = task.predict(lambda image: image @ weights, batch).reshape(75, k)
    np.testing.assert_allclose(got, means, rtol=1e-5)
    losses = -np.log(np.where(LABELS[:, :k], means, 1 - means)).mean(axis=1)
    found = task.outputs(lambda image: image @ weights, batch)
    np.testing.assert_allclose(found["loss"], losses, rtol=1e-4)
