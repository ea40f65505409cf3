"""The Trainer through its public names, with a tiny model on tiny images."""

import json
import signal

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import yaml
from flax import nnx
from helpers import RecordingCallback, TinyNet, tiny_arrays, tree_allclose, tree_equal

from nnx_alexnet import Classification, DataModule, Task, Trainer, create_optimizer
from nnx_alexnet.callbacks import Callback, EarlyStopping, ModelCheckpoint
from nnx_alexnet.data import ImageTransform


def tiny_data(*, num=64, num_val=30, batch_size=16, **arguments):
    train, val = tiny_arrays(num=num), tiny_arrays(num=num_val, seed=1)
    return DataModule(train, val, val, batch_size=batch_size, **arguments)


def tiny_trainer(*, data=None, model=None, seed=0, **arguments):
    model = TinyNet(4, rngs=nnx.Rngs(seed)) if model is None else model
    defaults = {"log_dir": None, "progress_bar": False, "max_epochs": 2, "seed": seed}
    return Trainer(model, tiny_data() if data is None else data, **{**defaults, **arguments})


def numpy_metrics(model, images, labels):
    """Loss and accuracy of a model in evaluation mode over all of a split at once, in float64."""
    twin = nnx.merge(*nnx.split(model))
    twin.eval()
    logits = np.asarray(twin(jnp.asarray(images, jnp.float32) / 255), np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    losses = -log_probabilities[np.arange(len(labels)), labels]
    return losses.mean(), (logits.argmax(axis=1) == labels).mean()


# ---- What fit does ----------------------------------------------------------------------------


def test_the_defaults_are_enough_to_train_and_leave_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train, val = tiny_arrays(num=64), tiny_arrays(num=64, seed=1)
    trainer = Trainer(TinyNet(4, rngs=nnx.Rngs(0)), (train, val))
    history = trainer.fit()
    assert [row["epoch"] for row in history] == list(range(10))
    assert trainer.run_dir == tmp_path / "logs/tinynet/version_0"
    assert {path.name.split(".tfevents")[0] for path in trainer.run_dir.iterdir()} == {
        ".lock", "checkpoints", "config.yaml", "environment.json", "events.out", "metrics.jsonl"
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


def test_history_has_a_row_an_evaluation_with_train_and_val_metrics():
    history = tiny_trainer(max_epochs=3).fit()
    assert [(row["epoch"], row["step"]) for row in history] == [(0, 4), (1, 8), (2, 12)]
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr"} <= set(history[0])


def test_without_a_validation_split_history_has_a_row_an_epoch():
    data = DataModule(tiny_arrays(num=32), batch_size=16)
    history = tiny_trainer(data=data).fit()
    assert [row["step"] for row in history] == [2, 4]
    assert not any(name.startswith("val/") for name in history[0])


@pytest.mark.parametrize(("every", "steps"), [(1, [4, 8, 12]), (2, [8, 12]), (5, [12])])
def test_validation_is_every_n_epochs_and_at_the_last_one(every, steps):
    history = tiny_trainer(max_epochs=3, validate_every_n_epochs=every).fit()
    assert [row["step"] for row in history] == steps


def test_train_metrics_of_an_epoch_are_the_mean_over_its_examples():
    """With a rate of zero the model stays, so the epoch's mean is that of one pass."""

    class Plain(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(64, 4, rngs=rngs)

        def __call__(self, image):
            return self.dense(image.reshape(len(image), -1))

    model, (images, labels) = Plain(nnx.Rngs(0)), tiny_arrays(num=64)
    data = DataModule((images, labels), batch_size=16)
    trainer = tiny_trainer(
        model=model, data=data, optimizer=optax.sgd(0.0), max_epochs=1, log_every_n_steps=3
    )
    row = trainer.fit()[0]
    loss, accuracy = numpy_metrics(model, images, labels)
    assert row["train/loss"] == pytest.approx(loss, abs=1e-6)
    assert row["train/accuracy"] == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize("num", [1, 15, 16, 17, 30, 47])
def test_metrics_are_exact_on_a_ragged_split_with_one_compilation(num):
    images, labels = tiny_arrays(num=num, seed=3)
    data = DataModule(tiny_arrays(num=32), (images, labels), batch_size=16)
    trainer = tiny_trainer(data=data, max_epochs=1)
    trainer.fit()
    metrics = trainer.validate()
    loss, accuracy = numpy_metrics(trainer.model, images, labels)
    assert metrics["val/loss"] == pytest.approx(loss, abs=1e-6)
    assert metrics["val/accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert trainer.num_compilations == {"train": 1, "evaluate": 1}


def test_each_step_compiles_once_per_size_for_all_verbs_with_ragged_batches_and_a_schedule():
    optimizer = create_optimizer(schedule="cosine", num_steps=8, warmup_steps=2, clip_norm=1.0)
    data = tiny_data(num=70, num_val=33, drop_last=False)
    trainer = tiny_trainer(data=data, optimizer=optimizer, log_every_n_steps=3)
    trainer.fit()
    trainer.validate()
    trainer.test()
    trainer.predict()
    trainer.fit()
    # Batches of 16 examples and of 6 in training; a measurement pads the smaller one.
    assert trainer.num_compilations == {"train": 2, "evaluate": 1, "predict": 1}


def test_the_ragged_last_train_batch_is_dropped_or_trained_on_as_the_data_says():
    dropped = tiny_trainer(data=tiny_data(num=40), max_epochs=1)
    kept = tiny_trainer(data=tiny_data(num=40, drop_last=False), max_epochs=1)
    assert (dropped.fit()[0]["step"], kept.fit()[0]["step"]) == (2, 3)


def test_a_masked_row_changes_no_gradient():
    """A batch of 8 kept rows and 8 masked ones moves a model as the 8 rows alone do."""
    images, labels = tiny_arrays(num=16)
    flat = images[:, 0, 0, :].astype(np.float32)
    parameters = []
    for size in (8, 16):
        model = nnx.Linear(1, 4, rngs=nnx.Rngs(0))
        batch = {"image": flat[:size], "label": labels[:size], "mask": np.arange(size) < 8}
        tiny_trainer(
            model=model, data=DataModule([batch]), max_epochs=1, optimizer=optax.sgd(0.1)
        ).fit()
        parameters.append(np.asarray(model.kernel))
    np.testing.assert_array_equal(parameters[0], parameters[1])


def fitted_state(seed, **arguments):
    transform = ImageTransform(translate=0.2, flip=True)
    trainer = tiny_trainer(seed=seed, data=tiny_data(transform=transform), **arguments)
    trainer.fit()
    return nnx.state(trainer.model)


def test_one_seed_gives_equal_bits_and_another_seed_another_model():
    assert tree_equal(fitted_state(0), fitted_state(0))
    assert not tree_equal(fitted_state(0), fitted_state(1))


def test_the_trainers_seed_alone_changes_order_and_augmentation():
    def state(seed):
        trainer = tiny_trainer(model=TinyNet(4, rngs=nnx.Rngs(0)), seed=seed)
        trainer.fit()
        return nnx.state(trainer.model, nnx.Param)

    assert not tree_equal(state(0), state(1))


def test_watching_a_run_changes_no_bit_of_it(tmp_path):
    """Log points, validation, saves and a callback that reads the model leave the result alone."""

    class Reader(Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            assert np.isfinite(np.asarray(trainer.model.dense.kernel)).all()

    watched = fitted_state(
        0, log_dir=tmp_path, log_every_n_steps=1,
        callbacks=[Reader(), ModelCheckpoint(every_n_steps=1)],
    )  # fmt: skip
    assert tree_equal(fitted_state(0), watched)


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "steps"), [(2, None, 8), (None, 5, 5), (1, 9, 4)]
)
def test_the_run_ends_at_whichever_limit_comes_first(max_epochs, max_steps, steps):
    trainer = tiny_trainer(max_epochs=max_epochs, max_steps=max_steps)
    trainer.fit()
    assert trainer.global_step == steps


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


# ---- Predict ----------------------------------------------------------------------------------


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


def test_predict_takes_images():
    trainer = tiny_trainer()
    images, _ = tiny_arrays(num=30, seed=1)
    np.testing.assert_array_equal(trainer.predict(images[:7]), trainer.predict()[:7])


# ---- Other tasks, steps and data --------------------------------------------------------------


class Autoencoder(nnx.Module):
    def __init__(self, rngs):
        self.encode = nnx.Linear(64, 8, rngs=rngs)
        self.decode = nnx.Linear(8, 64, rngs=rngs)

    def __call__(self, image):
        code = nnx.relu(self.encode(image.reshape(len(image), -1)))
        return self.decode(code).reshape(image.shape)


@flax.struct.dataclass
class Errors(clu.metrics.Collection):
    loss: clu.metrics.Average.from_output("loss")
    absolute_error: clu.metrics.Average.from_output("absolute_error")


class Reconstruction(Task):
    metrics = Errors

    def outputs(self, model, batch):
        error = model(batch["image"]) - batch["image"]
        return {
            "loss": jnp.square(error).mean(axis=(1, 2, 3)),
            "absolute_error": jnp.abs(error).mean(axis=(1, 2, 3)),
        }


def test_a_task_of_ones_own_trains_an_autoencoder_with_its_own_metrics():
    model = Autoencoder(nnx.Rngs(0))
    trainer = tiny_trainer(
        model=model, task=Reconstruction(), max_epochs=40, optimizer=optax.adam(1e-2)
    )
    history = trainer.fit()
    assert history[-1]["val/loss"] < 0.5 * history[0]["val/loss"]
    assert history[-1]["val/absolute_error"] > 0
    images, _ = tiny_arrays(num=30, seed=1)
    squared = np.square(trainer.predict() - images / 255)
    assert trainer.test()["test/loss"] == pytest.approx(squared.mean(), rel=1e-5)


class Regression(Task):
    def outputs(self, model, batch):
        return {"loss": jnp.square(model(batch["image"])[:, 0] - batch["label"])}


def test_a_regression_learns_from_float_targets():
    inputs = np.random.default_rng(0).normal(size=(256, 3)).astype(np.float32)
    targets = (inputs @ np.array([1.0, -2.0, 0.5])).astype(np.float32)
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    trainer = tiny_trainer(
        model=model, data=DataModule((inputs, targets), batch_size=32), task=Regression(),
        optimizer=optax.sgd(0.1), max_epochs=20,
    )  # fmt: skip
    trainer.fit()
    np.testing.assert_allclose(np.asarray(model.kernel)[:, 0], [1, -2, 0.5], atol=1e-3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_hot_and_integer_labels_give_equal_training(smoothing):
    (images, labels), states = tiny_arrays(num=64), []
    for targets in (labels, np.eye(4, dtype=np.float32)[labels]):
        trainer = tiny_trainer(
            data=DataModule((images, targets), batch_size=16),
            task=Classification(smoothing),
            optimizer=optax.sgd(0.1),  # Adam blows a rounding error in a zero gradient up
        )
        trainer.fit()
        states.append(nnx.state(trainer.model))
    assert tree_allclose(*states)


def test_top_5_accuracy_appears_with_more_than_ten_classes():
    images, labels = tiny_arrays(num=30, num_classes=11)
    data = DataModule((images, labels), (images, labels), batch_size=10)
    row = tiny_trainer(model=TinyNet(11, rngs=nnx.Rngs(0)), data=data).fit()[-1]
    assert row["val/accuracy"] <= row["val/top_5_accuracy"] <= 1


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


def test_an_iterable_of_batches_is_trained_on_as_it_is():
    images, labels = tiny_arrays(num=64)
    batches = [(images[i : i + 16], labels[i : i + 16]) for i in range(0, 64, 16)]
    trainer = tiny_trainer(data=(batches, batches), max_epochs=2)
    assert [row["step"] for row in trainer.fit()] == [4, 8]


def test_shared_parameters_stay_shared():
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(4, 4, rngs=rngs)
            self.second = self.first

        def __call__(self, x):
            return self.second(nnx.relu(self.first(x)))

    model = Tied(nnx.Rngs(0))
    images = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    data = DataModule((images, np.arange(32) % 4), batch_size=16)
    tiny_trainer(model=model, data=data).fit()
    assert model.first.kernel is model.second.kernel


# ---- Metrics, logs and the run folder ---------------------------------------------------------


def test_log_points_are_every_n_steps_with_the_mean_since_the_one_before(tmp_path):
    trainer = tiny_trainer(log_dir=tmp_path, log_every_n_steps=3, max_epochs=2)
    trainer.fit()
    text = (trainer.run_dir / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    steps = [line["step"] for line in lines if "train/loss_step" in line]
    assert steps == [3, 6]
    epochs = [line["step"] for line in lines if "train/loss" in line]
    assert epochs == [4, 8]


def test_the_learning_rate_is_published_where_the_optimizer_says_it():
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


def test_the_run_folder_says_what_was_run(tmp_path):
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


# ---- Callbacks --------------------------------------------------------------------------------


def test_a_hook_may_change_the_model_and_training_goes_on_from_there():
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


def test_batch_hooks_run_at_multiples_of_the_period():
    class Every3(Callback):
        every_n_steps = 3

        def on_fit_start(self, trainer):
            self.starts, self.ends = [], []

        def on_train_batch_start(self, trainer, batch, batch_index):
            self.starts.append(trainer.global_step)

        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            self.ends.append(trainer.global_step)

    callback = Every3()
    tiny_trainer(callbacks=[callback]).fit()
    assert (callback.starts, callback.ends) == ([2, 5], [3, 6])


def test_a_callback_that_stops_closes_the_epoch_as_a_whole_one():
    class StopAt5(Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            if trainer.global_step == 5:
                trainer.stop("five is enough")

    recorder = RecordingCallback()
    trainer = tiny_trainer(callbacks=[StopAt5(), recorder])
    assert [row["step"] for row in trainer.fit()] == [4, 5]
    assert trainer.stop_reason == "five is enough"
    assert recorder.calls[-3:] == ["on_train_end", "on_fit_end", "teardown"]


def test_an_exception_reaches_the_caller_after_every_callback_was_told():
    class Fails(Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            if trainer.global_step == 3:
                raise RuntimeError("the callback's own")

        def teardown(self, trainer, stage):
            if stage == "fit":
                raise RuntimeError("a second one, which must not hide the first")

    recorder = RecordingCallback()
    model = TinyNet(4, rngs=nnx.Rngs(0))
    trainer = tiny_trainer(model=model, callbacks=[Fails(), recorder])
    with pytest.raises(RuntimeError, match="the callback's own"):
        trainer.fit()
    assert recorder.calls[-2:] == ["on_exception", "teardown"]
    assert model(jnp.zeros((1, 8, 8, 1))).shape == (1, 4)  # usable after any way out
    assert trainer.predict().shape == (30, 4)


# ---- Ctrl-C -----------------------------------------------------------------------------------


class InterruptAt(Callback):
    def __init__(self, step, hook="on_train_batch_end"):
        self.step, self.hook = step, hook

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        if self.hook == "on_train_batch_end" and trainer.global_step == self.step:
            signal.raise_signal(signal.SIGINT)

    def on_validation_batch_end(self, trainer, outputs, batch, batch_index):
        if self.hook == "on_validation_batch_end" and trainer.global_step == self.step:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_finishes_the_step_saves_it_and_returns(tmp_path):
    saver, recorder = ModelCheckpoint(), RecordingCallback()
    trainer = tiny_trainer(log_dir=tmp_path, callbacks=[InterruptAt(6), saver, recorder])
    handler = signal.getsignal(signal.SIGINT)
    history = trainer.fit()
    assert trainer.interrupted
    assert trainer.global_step == 6
    assert saver.last_path.name == "6"
    assert [row["step"] for row in history] == [4]
    assert recorder.calls[-3:] == ["on_train_end", "on_fit_end", "teardown"]
    assert np.isfinite(trainer.predict()).all()
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_in_validation_leaves_it_and_publishes_no_half_metrics():
    interrupt = InterruptAt(4, "on_validation_batch_end")
    trainer = tiny_trainer(callbacks=[interrupt])
    history = trainer.fit()
    assert trainer.interrupted
    assert (trainer.global_step, trainer.epoch, trainer.step_in_epoch) == (4, 0, 4)
    assert history == [], "the epoch is open until it was validated"
    interrupt.step = -1
    assert "val/loss" in trainer.validate()


def test_a_second_ctrl_c_raises_and_the_model_stays_usable():
    class Twice(Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    model = TinyNet(4, rngs=nnx.Rngs(0))
    with pytest.raises(KeyboardInterrupt):
        tiny_trainer(model=model, callbacks=[Twice()]).fit()
    assert model(jnp.zeros((1, 8, 8, 1))).shape == (1, 4)


# ---- What hooks, iterables and failing steps may not do -----------------------------------------


def test_stopping_before_the_first_step_of_an_epoch_is_no_error_of_the_data():
    class Stop(Callback):
        def on_train_epoch_start(self, trainer):
            if trainer.epoch == 1:
                trainer.stop("enough")

    trainer = tiny_trainer(callbacks=[Stop()])
    assert [row["step"] for row in trainer.fit()] == [4]
    assert trainer.epoch == 1


def test_the_last_epoch_is_validated_also_when_a_callback_makes_it_the_last_at_its_end():
    class Stop(Callback):
        def on_train_epoch_end(self, trainer):
            trainer.stop("enough")

    trainer = tiny_trainer(callbacks=[Stop()], validate_every_n_epochs=4)
    (row,) = trainer.fit()
    assert "val/loss" in row
    assert "train/loss" in row


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


def test_an_iterable_may_fill_one_buffer_again_and_again():
    def batches(copies):
        class Batches:
            def __iter__(self):
                # Aligned so that a device could take the memory as it is.
                raw = np.zeros(4 * 4 * 8 + 64, np.uint8)
                start = -raw.ctypes.data % 64
                image = raw[start : start + 4 * 4 * 8].view(np.float32).reshape(4, 8)
                rng = np.random.default_rng(0)
                for _ in range(20):
                    image[:] = rng.normal(size=image.shape)
                    label = (image[:, 0] > 0).astype(np.int32)
                    yield (image.copy() if copies else image), label

        return Batches()

    losses = []
    for copies in (True, False):
        model = nnx.Linear(8, 2, rngs=nnx.Rngs(0))
        data = DataModule(batches(copies), drop_last=False)
        trainer = Trainer(model, data, max_epochs=2, log_dir=None, progress_bar=False)
        losses.append([row["train/loss"] for row in trainer.fit()])
    assert losses[0] == losses[1]


def test_what_a_hook_changed_for_a_validation_is_changed_back_when_a_signal_cuts_it_short():
    class Zeros(Callback):
        def on_validation_start(self, trainer):
            self.kept = jax.tree.map(jnp.copy, nnx.state(trainer.model, nnx.Param))
            nnx.update(trainer.model, jax.tree.map(jnp.zeros_like, self.kept))

        def on_validation_end(self, trainer):
            nnx.update(trainer.model, self.kept)

    trainer = tiny_trainer(callbacks=[Zeros(), InterruptAt(4, "on_validation_batch_end")])
    trainer.fit()
    assert trainer.interrupted
    assert np.abs(trainer.model.dense.kernel[...]).max() > 0


def test_rows_that_the_mask_leaves_out_may_have_any_label():
    mask = np.array([True, True, False, False])
    batch = {"image": np.zeros((4, 3), np.float32), "label": np.array([0, 1, -1, 9]), "mask": mask}
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    data = DataModule([batch, batch], [batch])
    trainer = Trainer(model, data, max_epochs=1, log_dir=None, progress_bar=False)
    assert np.isfinite(trainer.fit()[0]["val/loss"])


def test_ctrl_c_during_the_last_save_does_not_spoil_what_comes_after(tmp_path):
    trainer = tiny_trainer(log_dir=tmp_path)
    trainer.fit()
    # As a signal does while `fit` waits for the last save.
    trainer._parts.requests.interrupt(signal.SIGINT)
    assert "val/loss" in trainer.validate()


def test_after_ctrl_c_the_other_verbs_are_whole():
    trainer = tiny_trainer(callbacks=[InterruptAt(2)])
    trainer.fit()
    assert trainer.interrupted
    assert set(trainer.validate()) == {"val/loss", "val/accuracy"}
    assert trainer.predict().shape == (30, 4)


def test_a_variable_may_hold_a_python_number():
    class Counting(nnx.Module):
        def __init__(self):
            self.dense = nnx.Linear(64, 4, rngs=nnx.Rngs(0))
            self.count, self.scale = nnx.Variable(0), nnx.BatchStat(1.5)

        def __call__(self, image):
            return self.dense(image.reshape(len(image), -1)) * self.scale

    trainer = tiny_trainer(model=Counting())
    trainer.fit()
    assert trainer.num_compilations["train"] == 1
    assert float(trainer.model.scale[...]) == 1.5
