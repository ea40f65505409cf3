"""AUROC, against scikit-learn."""

import numpy as np
import pytest
from flax import nnx
from sklearn.metrics import roc_auc_score

from nnx_alexnet import (
    BinaryClassification,
    Classification,
    DataModule,
    MultiLabelClassification,
    Trainer,
)
from nnx_alexnet.task.split_metrics import SplitMetric, auroc, class_auroc

RNG = np.random.default_rng(0)
X = RNG.normal(size=(43, 4)).astype(np.float32)
HOT = (X[:, :3] + RNG.normal(size=(43, 3)) > 0).astype(np.int32)
WEIGHT = RNG.uniform(0, 2, 43).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32) + (X[:, 1] > 0)


def evaluated(task, labels, num_outputs, weight=None, devices=1):
    split = {"image": X, "label": labels} | ({} if weight is None else {"weight": weight})
    data = DataModule(split, split, split, batch_size=16)
    trainer = Trainer(
        nnx.Linear(4, num_outputs, rngs=nnx.Rngs(0)), data, task=task, max_epochs=1,
        log_dir=None, progress_bar=False, devices=devices,
    )  # fmt: skip
    row = trainer.fit()[-1]
    assert "val/auroc" in trainer.epoch_metric_names
    assert "train/auroc" not in row
    found = trainer.test()["test/auroc"]
    assert found == row["val/auroc"]
    return found, trainer.predict({"image": X})


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_classes_against_the_rest_are_those_of_scikit_learn_with_padding(devices):
    found, p = evaluated(Classification(metrics=["auroc"]), Y, 3, devices=devices)
    expected = roc_auc_score(Y, p / p.sum(axis=1, keepdims=True), multi_class="ovr")
    assert found == pytest.approx(expected, abs=1e-9)


def test_binary_area_with_sample_weights_is_that_of_scikit_learn():
    found, p = evaluated(BinaryClassification(metrics=["auroc"]), HOT[:, 0], 1, WEIGHT)
    assert found == pytest.approx(roc_auc_score(HOT[:, 0], p, sample_weight=WEIGHT), abs=1e-9)


@pytest.mark.parametrize("first", ["with", "without"])
def test_sets_with_and_without_weights_have_areas_of_their_own(first):
    """Also the test split, after a fit."""
    parts = {"with": slice(0, 17), "without": slice(17, 43)}
    sets = {name: {"image": X[rows], "label": HOT[rows, 0]} for name, rows in parts.items()}
    sets["with"]["weight"] = WEIGHT[parts["with"]]
    order = sorted(sets, reverse=first == "without")
    data = DataModule(
        {"image": X, "label": HOT[:, 0]}, {name: sets[name] for name in order}, sets[order[1]],
        batch_size=16,
    )  # fmt: skip
    trainer = Trainer(
        nnx.Linear(4, 1, rngs=nnx.Rngs(0)), data, task=BinaryClassification(metrics=["auroc"]),
        max_epochs=1, log_dir=None, progress_bar=False,
    )  # fmt: skip
    row, p = trainer.fit()[-1], trainer.predict({"image": X})
    for name, rows in parts.items():
        weight = WEIGHT[rows] if name == "with" else None
        expected = roc_auc_score(HOT[rows, 0], p[rows], sample_weight=weight)
        assert row[f"val/{name}/auroc"] == pytest.approx(expected, abs=1e-9)
    assert trainer.test()["test/auroc"] == row[f"val/{order[1]}/auroc"]


def test_an_output_that_does_not_exist_is_refused_before_compilation():
    class Mine(Classification):
        def split_metrics(self, outputs):
            return {"median": SplitMetric(np.median, ("losses",))}

    split = (X, Y)
    trainer = Trainer(
        nnx.Linear(4, 3, rngs=nnx.Rngs(0)), DataModule(split, split, batch_size=16), task=Mine(),
        log_dir=None, progress_bar=False,
    )  # fmt: skip
    with pytest.raises(
        ValueError, match=r"`median` reads the output 'losses', .* `logits`, `loss`"
    ):
        trainer.fit()
    assert trainer.num_compilations == {}


def test_multi_label_area_is_that_of_scikit_learn():
    found, p = evaluated(MultiLabelClassification(metrics=["auroc"]), HOT, 3)
    assert found == pytest.approx(roc_auc_score(HOT, p, average="macro"), abs=1e-9)


def test_classes_without_both_kinds_of_examples_are_left_out():
    scores = RNG.normal(size=(43, 5))
    softmax = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    areas = [roc_auc_score(k == Y, softmax[:, k]) for k in range(3)]
    assert class_auroc(scores, Y) == pytest.approx(np.mean(areas), abs=1e-12)
    assert np.isnan(auroc(scores[:, 0], np.zeros(43, int)))


def test_scores_that_are_not_finite_have_no_area():
    assert np.isnan(class_auroc(np.full((4, 2), np.nan), np.array([0, 1, 0, 1])))
