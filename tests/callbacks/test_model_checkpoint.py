from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from fake_trainer import FakeTrainer
from helpers import Dense, tiny_arrays, trainer_of

from nnx_alexnet import DataModule
from nnx_alexnet.callbacks import EarlyStopping, ModelCheckpoint
from nnx_alexnet.support.log import logger


def saves(callback, *, epochs=4, start=0):
    trainer = FakeTrainer([callback])
    trainer.epoch, trainer.global_step = start, 10 * start
    trainer.run_fit([{"val/loss": 1.0}] * epochs)
    return sorted(set(trainer._requests))


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"every_n_epochs": 1}, [10, 20, 30, 40]),
        ({"every_n_epochs": 2}, [20, 40]),
        ({"every_n_epochs": 3}, [30, 40]),
        ({"every_n_epochs": None}, [40]),
        ({"every_n_epochs": None, "every_n_steps": 16}, [16, 32, 40]),
        ({"every_n_epochs": 3, "every_n_steps": 16}, [16, 30, 32, 40]),
    ],
)
def test_saves_are_due_by_epochs_and_steps(arguments, steps):
    assert saves(ModelCheckpoint(**arguments)) == steps


@pytest.mark.parametrize(
    ("rested", "best", "steps"),
    [
        ([True, True, True, True], [], [10, 20, 30, 40]),
        ([True, False, False, True], [], [10, 40]),
        ([True, False, False, False], [3.0], [10, 30, 40]),
    ],
)
def test_auto_saves_when_the_last_save_has_rested_or_the_metric_is_best(rested, best, steps):
    rested = iter(rested)
    trainer = FakeTrainer([ModelCheckpoint("val/loss")])
    trainer.checkpoints = MagicMock(would_be_best=best.__contains__)
    type(trainer.checkpoints).has_rested = property(lambda _: next(rested))
    trainer.run_fit([{"val/loss": float(number)} for number in (1, 2, 3, 4)])
    assert sorted(set(trainer._requests)) == steps


def test_without_a_checkpoint_store_auto_requests_only_the_last_save():
    assert saves(ModelCheckpoint()) == [40]  # as in all processes but the first


def test_a_resumed_run_saves_at_the_steps_of_an_uninterrupted_one():
    arguments = {"every_n_epochs": 2, "every_n_steps": 7}
    unbroken = saves(ModelCheckpoint(**arguments), epochs=5)
    resumed = saves(ModelCheckpoint(**arguments), epochs=4, start=1)
    assert resumed == [step for step in unbroken if step > 10]


def test_it_runs_after_callbacks_with_state():
    saver, stopping = ModelCheckpoint(), EarlyStopping()
    assert list(FakeTrainer([saver, stopping]).callbacks) == [stopping, saver]


def test_paths_are_those_of_the_checkpoint_store():
    saver = ModelCheckpoint("val/accuracy", mode="max")
    assert (saver.best_path, saver.best_value, saver.last_path) == (None, None, None)
    trainer = FakeTrainer([saver])
    trainer.begin()
    assert (saver.best_path, saver.best_value, saver.last_path) == (None, None, None)
    trainer.checkpoints = SimpleNamespace(
        best_step=20,
        best_value=0.9,
        latest_step=30,
        path=lambda step: Path("checkpoints", f"{step}"),
    )
    assert saver.best_path == Path("checkpoints/20")
    assert saver.best_value == 0.9
    assert saver.last_path == Path("checkpoints/30")


def ranked_by(saver, *, metrics):
    trainer = FakeTrainer([saver])
    trainer.metric_names = frozenset(metrics)
    trainer.begin()
    trainer.log(dict.fromkeys(metrics, 0.5))
    return saver.ranked_by, trainer.current_value(saver.ranked_by)


@pytest.mark.parametrize(
    ("arguments", "metrics", "name"),
    [
        ({}, ["train/loss", "val/loss"], "val/loss"),
        ({}, ["train/loss"], None),
        ({}, ["train/loss", "val/absolute_error"], None),
        ({"save_top_k": 0}, ["val/loss"], None),
        ({"monitor": None}, ["val/loss"], None),
        ({"monitor": "val/accuracy", "mode": "max"}, ["val/loss", "val/accuracy"], "val/accuracy"),
        ({"monitor": "val/accuracy", "save_top_k": 0}, ["val/loss", "val/accuracy"], None),
    ],
)
def test_auto_ranks_by_the_validation_loss_if_there_is_one(arguments, metrics, name):
    saver = ModelCheckpoint(**arguments)
    assert ranked_by(saver, metrics=metrics) == (name, None if name is None else 0.5)
    assert saver.monitor == arguments.get("monitor", "auto")
    assert saver.mode == arguments.get("mode", "min")


def test_each_fit_chooses_its_ranking():
    saver = ModelCheckpoint()
    assert [ranked_by(saver, metrics=[name])[0] for name in ("val/loss", "train/loss")] == [
        "val/loss", None,
    ]  # fmt: skip


def test_mode_max_needs_a_monitor():
    with pytest.raises(ValueError, match=r"`mode` \(='max'\) needs a `monitor`"):
        ModelCheckpoint(mode="max")


def test_a_better_epoch_is_requested_during_a_save_but_gives_way():
    trainer = FakeTrainer([ModelCheckpoint()])
    requests = []
    trainer.request_checkpoint = lambda **options: requests.append(options)
    trainer.checkpoints = MagicMock(would_be_best=lambda value: value < 0.5)
    for has_rested, loss in [(True, 0.9), (False, 0.4), (False, 0.6)]:
        trainer.checkpoints.has_rested = has_rested
        trainer.log({"val/loss": loss})
        trainer.callbacks.call("setup", trainer, "fit")
        trainer.callbacks.call("on_train_epoch_end", trainer)
    assert requests == [{}, {"gives_way": True}]


def test_without_a_ranking_nothing_is_best():
    saver = ModelCheckpoint(None)
    trainer = FakeTrainer([saver])
    trainer.begin()
    trainer.checkpoints = SimpleNamespace(
        best_step=None, best_value=None, latest_step=30, path=lambda step: Path(f"{step}")
    )
    assert (saver.best_path, saver.best_value, saver.last_path) == (None, None, Path("30"))


def test_a_metric_that_the_fit_cannot_publish_is_refused():
    with pytest.raises(ValueError, match=r"`monitor`.*did you mean 'val/accuracy'"):
        FakeTrainer([ModelCheckpoint("val/acuracy")]).begin()


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "best"},
        {"save_top_k": -1},
        {"keep_latest": 0},
        {"every_n_epochs": 0},
        {"every_n_steps": 0},
        {"every_n_steps": 1.5},
    ],
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
        ModelCheckpoint(**arguments)


def test_later_stages_report_where_the_best_weights_are(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    train, rest = tiny_arrays(num=32), tiny_arrays(num=16, seed=1)
    data = DataModule(train, rest, rest, batch_size=16)
    saver = ModelCheckpoint("lr", mode="max")  # constant, so the first value is the best
    trainer = trainer_of(Dense(), data, callbacks=saver, max_epochs=3, log_dir=tmp_path)
    trainer.fit()
    with caplog.at_level("INFO", logger="nnx_alexnet"):
        caplog.clear()
        trainer.test()
    assert caplog.messages == [
        "`test` uses the weights in the model: those of the end of the fit at step 6, unless "
        "others were loaded since. load_checkpoint(trainer.run_dir, trainer.model) loads the best "
        "weights, from step 2 (lr 0.001)."
    ]
