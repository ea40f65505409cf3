"""When the learning rate falls, compared with torch, and what a resumed run continues with."""

import json
import math
from pathlib import Path

import numpy as np
import optax
import pytest
import torch
from fake_trainer import FakeTrainer
from linear_runs import linear_trainer

from nnx_alexnet import create_optimizer
from nnx_alexnet.callbacks import ModelCheckpoint, ReduceLROnPlateau
from nnx_alexnet.optimizers import ScalableSchedule

VALUES = [5, 4, 4, 4.5, 3.8, 3.9, 4, 4.1, 4.2, 3, 3, 3, 3, 3, 3, math.nan, 2.9]


def rates_of(callback, values, *, trainer=None):
    """The rate after each epoch."""
    trainer = FakeTrainer([callback], learning_rate=1.0) if trainer is None else trainer
    trainer.begin()
    found = []
    for value in values:
        trainer.run_epoch({callback.monitor: value} if value is not None else {})
        found.append(trainer.learning_rate())
    return found


def rates_of_torch(values, *, patience, **arguments):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, patience=patience - 1, threshold_mode="abs", eps=0, **arguments
    )
    found = []
    for value in values:
        schedule.step(value)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        {"patience": 1},
        {"patience": 2, "factor": 0.5},
        {"patience": 2, "factor": 0.5, "min_delta": 0.5},
        {"patience": 1, "cooldown": 2},
        {"patience": 1, "factor": 0.5, "min_lr": 0.3},
        {"patience": 3, "mode": "max", "cooldown": 1},
    ],
)
def test_the_rate_falls_when_that_of_torch_does(arguments):
    same = dict(arguments)
    threshold = same.pop("min_delta", 0.0)
    expected = rates_of_torch(VALUES, threshold=threshold, **{"factor": 0.1, **same})
    assert rates_of(ReduceLROnPlateau(**arguments), VALUES) == pytest.approx(expected, rel=1e-6)
    assert len({*expected}) > 1


def test_an_epoch_without_the_metric_does_not_count():
    assert rates_of(ReduceLROnPlateau(patience=2), [1, 2, None, 0.5, None, 1]) == [1] * 6


def test_the_counts_survive_as_json_and_a_new_fit_forgets_them():
    callback, other = ReduceLROnPlateau(patience=2, cooldown=3), ReduceLROnPlateau(patience=2)
    rates_of(callback, [1, 2, 2, 2])
    assert (callback.num_bad_checks, callback.cooldown_left) == (0, 2)
    other.load_state_dict(json.loads(json.dumps(callback.state_dict())))
    assert other.state_dict() == callback.state_dict()
    callback.on_fit_start(FakeTrainer(learning_rate=1.0))
    assert callback.cooldown_left == 0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"factor": 1.0}, r"`factor` \(=1.0\)"),
        ({"patience": 0}, r"`patience` \(=0\)"),
        ({"cooldown": -1}, r"`cooldown` \(=-1\)"),
        ({"min_lr": -1.0}, r"`min_lr` \(=-1.0\)"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        ReduceLROnPlateau(**arguments)


@pytest.mark.parametrize(
    ("optimizer", "match"),
    [
        (optax.sgd(0.1), "cannot change the learning rate"),
        (optax.inject_hyperparams(optax.sgd)(lambda step: 0.1), "'lr' cannot be .*ScalableSched"),
    ],
)
def test_a_rate_that_cannot_be_changed_is_refused(optimizer, match):
    with pytest.raises(ValueError, match=match):
        linear_trainer(optimizer, callbacks=ReduceLROnPlateau("train/loss")).fit()


# ---- With a trainer -----------------------------------------------------------------------------


def constant():
    return create_optimizer("sgd", 0.5)


def scheduled():
    return optax.inject_hyperparams(optax.sgd)(
        learning_rate=ScalableSchedule(optax.linear_schedule(1.0, 0.0, 8))
    )


def groups(num_steps=8):
    return create_optimizer(
        "sgd", 0.5, schedule="linear", num_steps=num_steps, rate_factors={"bias": 0.5}
    )


def falling(factor=0.5):
    # No loss improves by so much: the rate falls in every second epoch.
    return ReduceLROnPlateau("train/loss", min_delta=100.0, factor=factor, patience=2)


SCALES = np.array([1, 1, 1, 0.5, 0.5, 0.25])


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (constant, {"lr": 0.5 * SCALES}),
        (scheduled, {"lr": (1 - np.arange(6) / 8) * SCALES}),
        (
            groups,
            {
                "lr/bias": 0.25 * (1 - np.arange(6) / 8) * SCALES,
                "lr/rest": 0.5 * (1 - np.arange(6) / 8) * SCALES,
            },
        ),
    ],
)
def test_rates_and_schedules_are_multiplied(optimizer, expected):
    history = linear_trainer(optimizer(), epochs=6, callbacks=falling()).fit()
    for name, rates in expected.items():
        assert [row[name] for row in history] == pytest.approx(rates.tolist(), rel=1e-6)


def test_a_resumed_run_continues_with_the_lowered_rate(tmp_path):
    """On two devices, four steps per dispatch; it stops between two reductions."""
    on_two = {"batch_size": 8, "devices": 2}
    whole = linear_trainer(groups(24), epochs=6, callbacks=falling(), **on_two)
    expected = whole.fit()
    for epochs in (4, 6):
        trainer = linear_trainer(
            groups(24), epochs=epochs, log_dir=tmp_path, name="run",
            callbacks=[falling(), ModelCheckpoint()], **on_two,
        )  # fmt: skip
        history = trainer.fit(resume="auto")
    names = ("lr/bias", "lr/rest", "train/loss")
    assert [[row[n] for n in names] for row in history] == [[r[n] for n in names] for r in expected]
    np.testing.assert_array_equal(trainer.model.kernel[...], whole.model.kernel[...])
    assert Path(trainer.run_dir).name == "version_0"
