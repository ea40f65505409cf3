"""The Trainer through its public names, with a tiny model on tiny images."""

import inspect
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import yaml
from flax import nnx
from helpers import Dense, TinyNet, tiny_arrays, tree_equal
from small_runs import numpy_metrics, tiny_data, tiny_trainer

from nnx_alexnet import Classification, DataModule, Trainer, create_optimizer
from nnx_alexnet.callbacks import Callback, EarlyStopping, ModelCheckpoint
from nnx_alexnet.data import ImageTransform


def test_a_trainer_has_at_most_25_arguments():
    assert len(inspect.signature(Trainer).parameters) <= 25


# ---- What fit does -------------------------------------------------------------------------------


def test_the_defaults_are_enough_to_train_and_leave_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train, val = tiny_arrays(num=64), tiny_arrays(num=64, seed=1)
    trainer = Trainer(TinyNet(4, rngs=nnx.Rngs(0)), (train, val))
    history = trainer.fit()
    assert [row["epoch"] for row in history] == list(range(10))
    assert trainer.run_dir == tmp_path / "logs/tinynet/version_0"
    assert {path.name.split(".tfevents")[0] for path in trainer.run_dir.iterdir()} == {
        ".lock", ".step", "checkpoints", "config.yaml", "environment.json", "events.out",
        "metrics.jsonl",
    }  # fmt: skip


def test_a_model_learns_and_the_callers_object_holds_the_result():
    model = TinyNet(4, rngs=nnx.Rngs(0))
    start = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param, nnx.BatchStat))
    trainer = tiny_trainer(model=model, max_epochs=30, optimizer=optax.adam(1e-2))
    history = trainer.fit()
    assert history[-1]["val/accuracy"] > 0.9 > history[0]["val/accuracy"]
    assert not tree_equal(start, nnx.state(model, nnx.Param, nnx.BatchStat))
    images, labels = tiny_arrays(num=30, seed=1)
    loss, accuracy = numpy_metrics(model, images, labels)
    assert history[-1]["val/loss"] == pytest.approx(loss, abs=1e-6)
    assert history[-1]["val/accuracy"] == pytest.approx(accuracy, abs=1e-6)


def fitted_state(seed, **arguments):
    """What a model of one start ends with; the seed is the trainer's alone."""
    transform = ImageTransform(translate=0.2, flip=True)
    data, model = tiny_data(transform=transform), TinyNet(4, rngs=nnx.Rngs(0))
    trainer = tiny_trainer(seed=seed, data=data, model=model, **arguments)
    trainer.fit()
    return nnx.state(model)


@pytest.fixture(scope="module")
def state_of_seed_0():
    return fitted_state(0)


def test_one_seed_gives_equal_bits_and_another_one_another_order(state_of_seed_0):
    assert tree_equal(fitted_state(0), state_of_seed_0)
    assert not tree_equal(fitted_state(1), state_of_seed_0)


def test_watching_a_run_changes_no_bit_of_it(tmp_path, state_of_seed_0):
    """Log points, validation, saves and a callback that reads the model leave the result alone."""

    class Reader(Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            assert np.isfinite(np.asarray(trainer.model.dense.kernel)).all()

    watched = fitted_state(
        0, log_dir=tmp_path, log_every_n_steps=1,
        callbacks=[Reader(), ModelCheckpoint(every_n_steps=1)],
    )  # fmt: skip
    assert tree_equal(state_of_seed_0, watched)


def test_a_second_fit_is_a_new_run_from_the_present_parameters(tmp_path):
    trainer = tiny_trainer(log_dir=tmp_path, max_epochs=1)
    first = trainer.fit()[-1]
    second = trainer.fit()[0]
    assert trainer.run_dir.name == "version_1"
    assert second["step"] == 4
    assert second["train/loss"] != first["train/loss"]


def test_dropout_is_off_and_running_statistics_are_used_in_evaluation():
    trainer = tiny_trainer()
    trainer.fit()
    assert trainer.validate() == trainer.validate()
    before = jax.tree.map(jnp.copy, nnx.state(trainer.model, nnx.BatchStat))
    trainer.test()
    assert tree_equal(before, nnx.state(trainer.model, nnx.BatchStat))


def test_the_model_keeps_the_mode_in_which_the_caller_left_it():
    model = TinyNet(4, rngs=nnx.Rngs(0))
    model.eval()
    tiny_trainer(model=model).fit()
    assert model.dropout.deterministic
    assert model.bn.use_running_average


def test_arrays_that_the_caller_kept_are_not_deleted_by_training():
    model = TinyNet(4, rngs=nnx.Rngs(0))
    kept = nnx.state(model)
    tiny_trainer(model=model).fit()
    assert all(not leaf.is_deleted() for leaf in jax.tree.leaves(kept))


def test_a_change_to_the_model_between_two_verbs_counts():
    trainer = tiny_trainer()
    trainer.validate()
    trainer.model.dense = nnx.Linear(8, 5, rngs=nnx.Rngs(5))
    assert trainer.predict().shape == (30, 5)


# ---- Predict -------------------------------------------------------------------------------------


def test_predict_gives_one_row_of_probabilities_an_example_in_order():
    trainer = tiny_trainer()
    trainer.fit()
    probabilities = trainer.predict()
    assert probabilities.shape == (30, 4)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    _, labels = tiny_arrays(num=30, seed=1)
    accuracy = (probabilities.argmax(axis=1) == labels).mean()
    assert trainer.test()["test/accuracy"] == pytest.approx(accuracy)


def test_predict_takes_arrays_splits_and_iterables():
    trainer = tiny_trainer()
    images, _ = tiny_arrays(num=30, seed=1)
    whole = trainer.predict()
    np.testing.assert_array_equal(trainer.predict(images[:7]), whole[:7])
    np.testing.assert_array_equal(trainer.predict(trainer.data.test), whole)
    batches = ({"image": images[start : start + 16]} for start in (0, 16))
    np.testing.assert_array_equal(trainer.predict(batches), whole)


def test_predict_batches_yields_the_rows_of_predict():
    trainer = tiny_trainer()
    batches = list(trainer.predict_batches())
    assert [len(rows) for rows in batches] == [16, 14]
    np.testing.assert_array_equal(np.concatenate(batches), trainer.predict())
    assert trainer.num_compilations == {"predict": 1}


def test_other_verbs_are_refused_until_predict_batches_is_closed():
    trainer = tiny_trainer()
    batches = trainer.predict_batches()
    for verb in (trainer.fit, trainer.validate, trainer.predict, trainer.predict_batches):
        with pytest.raises(RuntimeError, match="`predict_batches` of this Trainer is still runn"):
            verb()
    next(batches)
    batches.close()
    assert trainer.predict().shape == (30, 4)


def test_a_task_can_return_fields_of_the_batch_with_the_predictions():
    class WithIds(Classification):
        def predict(self, model, batch):
            return {"id": batch["id"], "probability": super().predict(model, batch)}

    images, labels = tiny_arrays(num=30, seed=1)
    split = {"image": images, "label": labels, "id": np.arange(100, 130)}
    data = DataModule(split, test=split, batch_size=16)
    trainer = Trainer(
        TinyNet(4, rngs=nnx.Rngs(0)), data, task=WithIds(), log_dir=None, progress_bar=False
    )
    (first, second) = trainer.predict_batches()
    assert second["id"].tolist() == [*range(116, 130)]
    np.testing.assert_array_equal(trainer.predict()["probability"][:16], first["probability"])


# ---- Steps of a subclass -------------------------------------------------------------------------


def test_a_subclass_may_replace_the_train_step():
    class SignTrainer(Trainer):
        def train_step(self, model, optimizer, batch):
            outputs = super().train_step(model, optimizer, batch)
            return {**outputs, "loss": outputs["loss"] * 0 + 7}

    trainer = SignTrainer(
        TinyNet(4, rngs=nnx.Rngs(0)), tiny_data(), max_epochs=1, log_dir=None, progress_bar=False
    )
    row = trainer.fit()[0]
    assert row["train/loss"] == pytest.approx(7)
    assert row["val/loss"] != pytest.approx(7)


# ---- Metrics, logs and the run folder ------------------------------------------------------------


def test_log_points_are_every_n_steps_with_the_mean_since_the_one_before(tmp_path):
    trainer = tiny_trainer(log_dir=tmp_path, log_every_n_steps=3, max_epochs=2)
    trainer.fit()
    text = (trainer.run_dir / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    steps = [line["step"] for line in lines if "train/loss_step" in line]
    assert steps == [3, 6]
    epochs = [line["step"] for line in lines if "train/loss" in line]
    assert epochs == [4, 8]


def test_a_learning_rate_in_the_state_is_published():
    optimizer = create_optimizer("sgd", 0.5, schedule="cosine", num_steps=8)
    history = tiny_trainer(optimizer=optimizer).fit()
    schedule = optax.cosine_decay_schedule(0.5, 8)
    expected = [float(schedule(3)), float(schedule(7))]  # of the last step of each epoch
    assert [row["lr"] for row in history] == pytest.approx(expected)
    assert "lr" not in tiny_trainer(optimizer=optax.sgd(0.5)).fit()[0]


def test_a_callbacks_own_metric_goes_into_the_history_and_can_be_monitored():
    class Score(Callback):
        metric_names = ("my/score",)

        def on_validation_end(self, trainer):
            trainer.log({"my/score": -trainer.epoch})

    stopping = EarlyStopping("my/score", mode="max", patience=2)
    trainer = tiny_trainer(callbacks=[Score(), stopping], max_epochs=9)
    assert [row["my/score"] for row in trainer.fit()] == [0, -1, -2]
    assert "my/score" in trainer.stop_reason


def test_the_run_folder_records_what_was_run(tmp_path):
    trainer = tiny_trainer(log_dir=tmp_path, name="sweep/first", max_epochs=1)
    trainer.fit()
    assert trainer.run_dir == tmp_path / "sweep/first/version_0"
    config = yaml.safe_load((trainer.run_dir / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 1
    environment = json.loads((trainer.run_dir / "environment.json").read_text())
    assert environment["packages"]["flax"]
    assert environment["devices"]


def test_log_dir_none_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = tiny_trainer()
    trainer.fit()
    assert trainer.run_dir is None
    assert not any(tmp_path.iterdir())


# ---- Hooks ---------------------------------------------------------------------------------------


def test_training_continues_from_a_model_that_a_hook_changed():
    class Zero(Callback):
        def on_train_epoch_end(self, trainer):
            trainer.model.dense.kernel[...] = jnp.zeros_like(trainer.model.dense.kernel[...])

    trainer = tiny_trainer(callbacks=[Zero()], max_epochs=1)
    trainer.fit()
    assert not np.asarray(trainer.model.dense.kernel).any()


def test_validation_sees_the_weights_that_a_hook_put_in_and_training_those_put_back():
    class EvaluateZeros(Callback):
        def on_validation_start(self, trainer):
            self.kept = jnp.copy(trainer.model.dense.kernel[...])
            trainer.model.dense.kernel[...] = jnp.zeros_like(self.kept)
            trainer.model.dense.bias[...] = jnp.zeros(4)

        def on_validation_end(self, trainer):
            trainer.model.dense.kernel[...] = self.kept

    trainer = tiny_trainer(callbacks=[EvaluateZeros()], max_epochs=1)
    assert trainer.fit()[0]["val/loss"] == pytest.approx(np.log(4))
    assert np.asarray(trainer.model.dense.kernel).any()


def test_a_hook_cannot_start_another_verb():
    class Tests(Callback):
        def on_train_epoch_end(self, trainer):
            trainer.validate()

    with pytest.raises(RuntimeError, match="a hook cannot call"):
        tiny_trainer(callbacks=[Tests()]).fit()


def test_a_step_that_fails_while_it_runs_leaves_a_usable_model():
    class Fails(nnx.Module):
        def __init__(self):
            self.linear = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

        def __call__(self, x):
            def check(value):
                if value.max() > 50:
                    raise RuntimeError("on purpose")
                return value

            return self.linear(jax.pure_callback(check, x, x))

    images = np.zeros((16, 3), np.float32)
    images[12] = 100.0
    model = Fails()
    batches = [(images[i : i + 4], np.zeros(4, np.int32)) for i in range(0, 16, 4)]
    trainer = Trainer(model, (batches, batches), max_epochs=1, log_dir=None, progress_bar=False)
    with pytest.raises(Exception, match="on purpose"):
        trainer.fit()
    assert np.isfinite(model.linear.kernel[...]).all()


# ---- Arguments of other forms ------------------------------------------------------------------


def test_integers_of_numpy_are_integers():
    model = TinyNet(4, rngs=nnx.Rngs(0))
    trainer = tiny_trainer(
        model=model, max_epochs=np.int64(2), seed=np.int32(3), log_every_n_steps=np.int64(1),
        max_steps=np.int64(3), validate_every_n_epochs=np.int64(1),
    )  # fmt: skip
    found = trainer.max_epochs, trainer.seed, trainer.log_every_n_steps, trainer.max_steps
    assert found == (2, 3, 1, 3)
    assert {type(value) for value in found} == {int}
    assert type(trainer.config["trainer"]["max_epochs"]) is int


def test_a_name_may_be_a_path():
    assert tiny_trainer(name=Path("sweep") / "first").name == "sweep/first"


@pytest.mark.parametrize("name", ["data", "task", "placement", "max_epochs", "seed"])
def test_what_a_trainer_was_built_with_cannot_be_replaced(name):
    trainer = tiny_trainer()
    with pytest.raises(AttributeError, match=name):
        setattr(trainer, name, getattr(trainer, name))


def test_a_train_step_can_be_replaced_until_it_is_compiled():
    calls = []

    def train_step(model, optimizer, batch):
        calls.append(len(batch["mask"]))
        return Trainer.train_step(trainer, model, optimizer, batch)

    trainer = tiny_trainer(model=Dense(), max_steps=1)
    trainer.train_step = train_step
    trainer.fit()
    assert set(calls) == {16}


def test_a_fit_that_is_refused_has_no_learning_rates_of_the_one_before():
    trainer = tiny_trainer(
        model=Dense(), max_steps=1, optimizer=create_optimizer("sgd", 0.5, schedule="constant")
    )
    trainer.fit()
    assert trainer.learning_rates() == {"lr": 0.5}
    with pytest.raises(ValueError, match="`accept`"):
        trainer.fit(accept="optimizer")
    assert trainer.learning_rates() == {}
    assert trainer.global_step == 0
