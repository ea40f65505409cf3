"""Precision, recall and F1, against scikit-learn."""

import contextlib

import numpy as np
import pytest
from flax import nnx
from sklearn.metrics import precision_recall_fscore_support

from nnx_alexnet import Classification, DataModule, Trainer
from nnx_alexnet.callbacks import Callback
from nnx_alexnet.task.class_counts import MAX_NAMED, class_score

RNG = np.random.default_rng(0)
X = RNG.normal(size=(75, 4)).astype(np.float32)
Y = (np.abs(X[:, 0]) * 2).astype(np.int32).clip(0, 3)
WEIGHT = RNG.uniform(0, 2, 75).astype(np.float32)
SCORES = ("precision", "recall", "f1")


def fitted(split, num_classes=5, **arguments):
    trainer = Trainer(
        nnx.Linear(4, num_classes, rngs=nnx.Rngs(0)),
        DataModule(split, split, batch_size=16, class_names=("a", "b", "c", "d", "e")),
        task=Classification(metrics=SCORES), max_epochs=1, log_dir=None, progress_bar=False,
        log_every_n_steps=2, **arguments,
    )  # fmt: skip
    return trainer, trainer.fit()[-1]


@pytest.mark.parametrize(
    ("devices", "weight"),
    [
        (1, None),
        (2, WEIGHT),
        pytest.param(1, WEIGHT, marks=pytest.mark.slow),
        pytest.param(2, None, marks=pytest.mark.slow),
    ],
)
def test_scores_of_a_split_with_a_padded_batch_are_those_of_scikit_learn(devices, weight):
    """The fifth class has no examples."""
    split = {"image": X, "label": Y} | ({} if weight is None else {"weight": weight})
    trainer, row = fitted(split, devices=devices)
    predicted = trainer.predict({"image": X}).argmax(axis=1)
    expected = precision_recall_fscore_support(
        Y, predicted, labels=range(5), zero_division=0, sample_weight=weight
    )
    for name, values in zip(SCORES, expected[:3], strict=True):
        assert row[f"val/{name}"] == pytest.approx(values.mean(), rel=1e-5)
        got = [row[f"val/{name}/{key}"] for key in "abcde"]
        np.testing.assert_allclose(got, values, rtol=1e-5)
    assert trainer.num_compilations == {"train": 1, "evaluate": 1, "predict": 1}
    names = {name for name in row if "/f1" in name}
    assert names <= trainer.metric_names
    assert trainer.metric_names >= {"train/f1_step", "val/f1/a"}
    assert "train/f1/a_step" not in trainer.metric_names


def test_padding_with_nan_is_left_out():
    mask = np.arange(75) < 70
    metric = class_score("f1", lambda out: (out["p"] > 0, out["y"] > 0), None, 3)
    p, y = RNG.normal(size=(2, 75, 3))
    expected = precision_recall_fscore_support(y[mask] > 0, p[mask] > 0, average="macro")[2]
    p[~mask] = y[~mask] = np.nan
    weight = np.where(mask, 1.0, np.nan)
    found = metric.from_model_output(p=p, y=y, mask=mask, example_weight=weight).compute()
    assert found[""] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("names", "num", "keys"),
    [
        (None, 2, ["", "0", "1"]),
        (("a", "a"), 2, ["", "0", "1"]),
        (("a", "b"), 3, ["", "a", "b", "2"]),
        (None, 1, [""]),
        (None, MAX_NAMED + 1, [""]),
    ],
)
def test_classes_have_metrics_of_their_own_unless_they_are_many(names, num, keys):
    metric = class_score("f1", lambda out: (out["p"], out["p"]), names, num)
    assert [*metric.from_model_output(p=np.ones((1, num), bool)).compute()] == keys


class Interrupts(Callback):
    """Stops like Ctrl-C after the second step, in the middle of the epoch."""

    every_n_steps = 1

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        if trainer.global_step == 2:
            raise KeyboardInterrupt


def test_a_run_resumed_within_an_epoch_has_the_same_scores(tmp_path):
    split = {"image": X, "label": Y, "weight": WEIGHT}

    def fit(name, *callbacks, resume="never"):
        trainer = Trainer(
            nnx.Linear(4, 4, rngs=nnx.Rngs(0)), DataModule(split, split, batch_size=16),
            task=Classification(class_weights="balanced", focal_gamma=1.0, metrics=["f1"]),
            max_epochs=1, log_dir=tmp_path, name=name, progress_bar=False,
            callbacks=[*callbacks],
        )  # fmt: skip
        return trainer.fit(resume=resume)[-1]

    expected = fit("whole")
    with contextlib.suppress(KeyboardInterrupt):
        fit("parts", Interrupts())
    got = fit("parts", resume="auto")
    scores = {name for name in expected if not name.startswith("perf/")}
    assert {"train/f1", "val/f1/3", "train/loss"} < scores
    assert {name: got[name] for name in scores} == {name: expected[name] for name in scores}
