import jax
import numpy as np
import pytest
from flax import nnx
from helpers import tree_equal
from small_runs import FlatNet, tiny_data, tiny_trainer

from nnx_alexnet import load_checkpoint
from nnx_alexnet.callbacks import EMA, Callback, EarlyStopping, ModelCheckpoint


class Scores(Callback):
    """Logs a score per epoch, keeps the weights of each, and may fail after an epoch."""

    metric_names = ("score",)

    def __init__(self, *scores, fails_after=None):
        self.scores, self.fails_after, self.weights = scores, fails_after, {}

    def on_train_epoch_start(self, trainer):
        if trainer.epoch == self.fails_after:
            raise RuntimeError("a failure")

    def on_train_epoch_end(self, trainer):
        trainer.log({"score": self.scores[trainer.epoch]})
        self.weights[trainer.epoch] = weights(trainer.model)


def weights(model):
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    return nnx.to_pure_dict(jax.tree.map(np.array, state))


def run(*callbacks, resume="never", **arguments):
    data = tiny_data(num=32)
    arguments = {"log_dir": None, "max_epochs": 4, "name": "run", **arguments}
    trainer = tiny_trainer(model=FlatNet(), data=data, callbacks=callbacks, **arguments)
    trainer.fit(resume=resume)
    return trainer


def owner_of(kind, **arguments):
    if kind == "stopping":
        return EarlyStopping("score", restore_best=True, **{"patience": 9, **arguments})
    return ModelCheckpoint("score", restore_best=True, every_n_epochs=1)


def test_early_stopping_keeps_the_best_weights_without_a_folder():
    scores = Scores(3.0, 1.0, 2.0, 2.0)
    trainer = run(scores, owner_of("stopping", patience=2))
    assert "has not improved" in trainer.stop_reason
    assert trainer.global_step == 8
    assert tree_equal(weights(trainer.model), scores.weights[1])


def test_the_best_weights_are_used_if_the_last_epoch_ends_the_run():
    scores = Scores(3.0, 1.0, 2.0, 2.0)
    trainer = run(scores, owner_of("stopping"))
    assert trainer.stop_reason is None
    assert tree_equal(weights(trainer.model), scores.weights[1])


@pytest.mark.parametrize("kind", [pytest.param("stopping", marks=pytest.mark.slow), "checkpoint"])
def test_checkpoints_keep_the_last_weights_and_a_finished_run_ends_alike(tmp_path, kind):
    scores = Scores(3.0, 1.0, 2.0, 2.0, 0.5)
    trainer = run(scores, owner_of(kind), log_dir=tmp_path)
    assert tree_equal(weights(trainer.model), scores.weights[1])
    assert [row["score"] for row in trainer.history] == [3.0, 1.0, 2.0, 2.0]
    loaded = FlatNet(9)
    load_checkpoint(trainer.run_dir, loaded, which="last")
    assert tree_equal(weights(loaded), scores.weights[3])
    again = run(Scores(), owner_of(kind), log_dir=tmp_path, resume="auto")
    assert again.global_step == 8
    assert tree_equal(weights(again.model), scores.weights[1])


def test_the_kept_weights_survive_a_failure_and_a_resume(tmp_path):
    values = (3.0, 1.0, 2.0, 2.0)
    failing = Scores(*values, fails_after=2)
    with pytest.raises(RuntimeError, match="a failure"):
        run(failing, owner_of("stopping"), log_dir=tmp_path)
    resumed = run(Scores(*values), owner_of("stopping"), log_dir=tmp_path, resume="auto")
    assert tree_equal(weights(resumed.model), failing.weights[1])


def test_the_best_weights_are_the_averages_that_were_measured():
    trainer = run(Scores(3.0, 1.0, 2.0, 2.0), owner_of("stopping"), EMA(0.8))
    shorter = run(Scores(3.0, 1.0), EMA(0.8), max_epochs=2)
    assert tree_equal(weights(trainer.model), weights(shorter.model))


class ScoreOfValidation(Scores):
    """Logs a score per validation, and keeps the weights of each."""

    def on_train_epoch_end(self, trainer):
        pass

    def on_validation_end(self, trainer):
        number = len(self.weights)
        trainer.log({"score": self.scores[number]})
        self.weights[number] = weights(trainer.model)


def test_the_best_weights_may_be_those_within_an_epoch():
    scores = ScoreOfValidation(3.0, 2.0, 1.0, 2.0)
    best = owner_of("stopping")
    trainer = run(scores, best, max_epochs=2, validate_every_n_steps=1)
    assert (best.best_step, trainer.global_step) == (3, 4), "two steps per epoch"
    assert tree_equal(weights(trainer.model), scores.weights[2])


def test_without_a_finite_value_the_model_keeps_the_last_weights(warnings):
    scores = Scores(float("nan"), float("nan"))
    trainer = run(scores, owner_of("stopping", check_finite=False), max_epochs=2)
    assert tree_equal(weights(trainer.model), scores.weights[1])
    assert any("no weights with a finite score were kept" in text for text in warnings.messages)


def test_two_owners_of_the_best_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the best weights of only one"):
        run(owner_of("stopping"), owner_of("checkpoint"), Scores(1.0), log_dir=tmp_path)


def test_restoring_the_best_checkpoint_needs_a_ranking(tmp_path):
    with pytest.raises(ValueError, match=r"`restore_best` .* needs a metric"):
        run(ModelCheckpoint(None, restore_best=True), log_dir=tmp_path)
