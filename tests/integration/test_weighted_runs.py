"""Runs whose examples and classes have weights, compared with NumPy and scikit-learn."""

import numpy as np
import optax
import pytest
from flax import nnx
from helpers import tree_allclose
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from nnx_alexnet import (
    BinaryClassification,
    Classification,
    DataModule,
    Trainer,
    create_optimizer,
)
from nnx_alexnet.callbacks import EMA, EarlyStopping, ReduceLROnPlateau
from nnx_alexnet.optimizers import dynamic_loss_scale

RNG = np.random.default_rng(0)
NUM, RATE = 22, 0.5
IMAGES = RNG.normal(size=(NUM, 4)).astype(np.float32)
LABELS = RNG.permutation(np.arange(NUM, dtype=np.int32) % 3)
WEIGHTS = (RNG.uniform(0, 3, NUM) * (RNG.random(NUM) > 0.3)).astype(np.float32)
CLASS_WEIGHTS = (0.5, 1.0, 4.0)


def linear(num_outputs=3):
    return nnx.Linear(4, num_outputs, rngs=nnx.Rngs(0))


def trainer_of(data, task, model=None, **arguments):
    return Trainer(
        linear() if model is None else model, data, task=task, optimizer=optax.sgd(RATE),
        log_dir=None, progress_bar=False, **{"max_epochs": 2, **arguments},
    )  # fmt: skip


def trained_by_numpy(model, batches):
    """SGD on the weighted mean of the cross-entropy of each batch, in float64."""
    kernel, bias = (np.asarray(each[...], np.float64) for each in (model.kernel, model.bias))
    losses = []
    for batch in batches:
        kept = batch["mask"]
        images, labels = batch["image"][kept].astype(np.float64), batch["label"][kept]
        weight = batch["weight"][kept] * np.array(CLASS_WEIGHTS)[labels]
        exponentials = np.exp(images @ kernel + bias)
        chance = exponentials / exponentials.sum(axis=1, keepdims=True)
        losses.append(-(weight * np.log(chance[np.arange(len(labels)), labels])).sum())
        error = (chance - np.eye(3)[labels]) * weight[:, None] / weight.sum()
        kernel, bias = kernel - RATE * images.T @ error, bias - RATE * error.sum(axis=0)
    return kernel, bias, np.sum(losses)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_micro_batches": 3, "devices": 2},
        pytest.param({"num_micro_batches": 4}, marks=pytest.mark.slow),
        pytest.param({}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_steps_of_weighted_micro_batches_are_those_of_numpy(arguments):
    """Micro-batches of unequal weight; the last batch has 6 examples."""
    split = {"image": IMAGES, "label": LABELS, "weight": WEIGHTS}
    trainer = trainer_of(
        DataModule(split, split, batch_size=8, drop_last=False),
        Classification(class_weights=CLASS_WEIGHTS), **arguments,
    )  # fmt: skip
    loader = trainer.data.train
    epochs = [[*loader.batches(epoch=epoch, seed=0)] for epoch in range(2)]
    kernel, bias, _ = trained_by_numpy(linear(), epochs[0] + epochs[1])
    before = trained_by_numpy(linear(), epochs[0])
    first, _ = trainer.fit()
    np.testing.assert_allclose(trainer.model.kernel[...], kernel, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trainer.model.bias[...], bias, rtol=1e-4, atol=1e-5)
    total = (WEIGHTS * np.array(CLASS_WEIGHTS)[LABELS]).sum()
    assert first["train/loss"] == pytest.approx(before[2] / total, rel=1e-4)


def imbalanced():
    """Classes of 17 and 5 examples, which three folds cannot share equally."""
    return DataModule((IMAGES, (np.arange(NUM) < 5).astype(np.int32)), batch_size=4)


def test_balanced_class_weights_are_those_of_the_training_part_of_each_fold():
    task, seen = Classification(class_weights="balanced"), set()
    for fold in imbalanced().folds(3):
        trainer = trainer_of(fold, task, linear(2), max_epochs=1)
        trainer.fit()
        train, val = fold.train.labels(), fold.val.labels()
        classes = np.array([0, 1])
        weights = compute_class_weight("balanced", classes=classes, y=train)
        expected = log_loss(val, trainer.predict(fold.val), sample_weight=weights[val])
        assert trainer.validate()["val/loss"] == pytest.approx(expected, rel=1e-4)
        seen.add((*np.bincount(train),))
    assert seen == {(11, 3), (12, 3), (11, 4)}


def test_a_balanced_pos_weight_is_that_of_the_training_part_of_each_fold():
    task, seen = BinaryClassification(pos_weight="balanced"), set()
    for fold in imbalanced().folds(3):
        trainer = trainer_of(fold, task, linear(1))
        train, val = fold.train.labels(), fold.val.labels()
        zeros, ones = np.bincount(train)
        p = trainer.predict(fold.val).astype(np.float64)
        losses = np.where(val == 1, -zeros / ones * np.log(p), -np.log(1 - p))
        assert trainer.validate()["val/loss"] == pytest.approx(losses.mean(), rel=1e-4)
        seen.add(zeros / ones)
    assert len(seen) == 3


def fitted_with_all_controls(**arguments):
    """One batch has a NaN; only one of the validation sets has weights."""
    images = np.where(np.arange(NUM)[:, None] == 5, np.nan, IMAGES)
    data = DataModule(
        {"image": images, "label": LABELS, "weight": WEIGHTS},
        {
            "plain": (IMAGES[:9], LABELS[:9]),
            "weighted": {"image": IMAGES, "label": LABELS, "weight": WEIGHTS},
        },
        batch_size=8, drop_last=False,
    )  # fmt: skip
    optimizer = create_optimizer("sgd", 0.05, clip_norm=1.0, rate_factors={"bias": 0.5})
    trainer = Trainer(
        linear(), data, task=Classification(class_weights="balanced", metrics=("f1", "auroc")),
        optimizer=dynamic_loss_scale(optimizer, initial_scale=8.0, growth_interval=3),
        callbacks=[
            EMA(0.9), EarlyStopping("val/weighted/auroc", mode="max", patience=9),
            ReduceLROnPlateau("val/plain/loss", min_delta=10.0, patience=1, factor=0.5),
        ],
        max_epochs=3, check_finite=1, num_micro_batches=2, log_dir=None, progress_bar=False,
        **arguments,
    )  # fmt: skip
    rows = trainer.fit()
    return nnx.state(trainer.model), [
        {name: value for name, value in row.items() if not name.startswith("perf/")} for row in rows
    ]


@pytest.mark.slow
def test_all_controls_together_on_several_devices_equal_one_device():
    state, rows = fitted_with_all_controls(devices=1)
    assert rows[-1]["skipped_steps"] == 3
    assert rows[-1]["lr/bias"] == pytest.approx(0.05 * 0.5 * 0.5)
    for arguments in ({"steps_per_execution": 1}, {"shard_state": True}):
        other, other_rows = fitted_with_all_controls(devices=4, **arguments)
        assert tree_allclose(other, state, rtol=1e-5, atol=1e-6)
        for row, expected in zip(other_rows, rows, strict=True):
            assert row == pytest.approx(expected, rel=1e-5)
