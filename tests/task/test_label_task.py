"""The metrics that are chosen by name, with those of a subclass."""

import jax
import jax.numpy as jnp
import pytest
from clu.metrics import Average, Collection
from helpers import Y, linear_trainer
from sklearn.metrics import recall_score

from nnx_alexnet import BinaryClassification, Classification, Task
from nnx_alexnet.task.label_task import checked_class_metrics

OUTPUTS = {"logits": jax.ShapeDtypeStruct((16, 2), jnp.float32)}


def wrong(logits, labels, **_):
    return (logits.argmax(axis=-1) != labels).astype(jnp.float32)


class Mine(Classification):
    metrics = Collection.create(error=Average.from_fun(wrong))


def test_chosen_metrics_are_added_to_those_of_a_subclass():
    trainer = linear_trainer(Mine(metrics=["recall", "auroc"]))
    row = trainer.fit()[0]
    names = {name.removeprefix("val/") for name in row if name.startswith("val/")}
    assert names == {"loss", "error", "recall", "recall/0", "recall/1", "auroc"}
    predicted = trainer.predict().argmax(axis=1)
    assert row["val/error"] == pytest.approx((predicted != Y).mean())
    assert row["val/recall"] == pytest.approx(recall_score(Y, predicted, average="macro"))


def test_metrics_that_a_base_class_has_must_be_repeated(refused):
    class More(Mine.metrics):
        loss: Average.from_output("loss")

    class Other(Classification):
        metrics = More

    refused(Other(metrics=["f1"]), "inherits the metrics error")


@pytest.mark.parametrize("task", [Classification, BinaryClassification])
def test_outputs_without_logits_have_no_chosen_metrics(task):
    task = task(metrics=["f1", "auroc"])
    outputs = {"loss": jax.ShapeDtypeStruct((16,), jnp.float32)}
    assert task.collection(outputs) is Task.metrics
    assert task.split_metrics(outputs) == {}
    assert task.split_metrics(OUTPUTS)["auroc"].outputs == ("logits", "labels")


@pytest.mark.parametrize("metrics", ["f1", 3, ["F1 score"], [None]])
def test_unknown_metrics_are_refused(metrics):
    with pytest.raises(ValueError, match=r"`metrics` \(="):
        Classification(metrics=metrics)


def test_accuracy_and_loss_are_said_to_be_measured_anyway():
    with pytest.raises(ValueError, match=r"`metrics` \(='accuracy'\) is measured anyway"):
        checked_class_metrics(["accuracy"])


def test_the_confusion_matrix_is_no_metric_but_the_message_says_where_it_is():
    with pytest.raises(ValueError, match=r"(?s)TensorBoard .*sklearn.metrics.confusion_matrix"):
        checked_class_metrics(["f1", "confusion"])


@pytest.mark.parametrize("gamma", [-1, float("nan"), float("inf")])
def test_a_wrong_exponent_of_the_focal_loss_is_refused(gamma):
    with pytest.raises(ValueError, match=r"`focal_gamma` .* must be a number of at least 0; 0 is"):
        Classification(focal_gamma=gamma)
