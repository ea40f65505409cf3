"""Metrics of callbacks: which can be logged, which monitored, and what is known before a fit."""

import numpy as np
import optax
import pytest
from clu.metrics import Average, Collection
from flax import nnx
from helpers import trainer_of

from nnx_alexnet import DataModule, Task, Trainer
from nnx_alexnet.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    ThroughputMonitor,
)
from nnx_alexnet.runs.reader import read_metrics

X = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)


def linear_with(*callbacks, epochs=2, **arguments):
    data = DataModule((X, Y), (X, Y), batch_size=16)
    arguments = {"optimizer": optax.sgd(0.1), "max_epochs": epochs, **arguments}
    return trainer_of(nnx.Linear(4, 2, rngs=nnx.Rngs(0)), data, callbacks=callbacks, **arguments)


class LooksAtNames(Callback):
    """Reads the names of the metrics at the first hook of a verb."""

    def setup(self, trainer, stage):
        self.seen = trainer.metric_names


class Logs(Callback):
    """Logs the same at the end of each epoch, or of those of even numbers."""

    def __init__(self, metrics, *, metric_names=(), every=1):
        self.metrics, self.metric_names, self.every = metrics, metric_names, every

    def on_validation_end(self, trainer):
        if trainer.epoch % self.every == 0:
            trainer.log(self.metrics)


# ---- What can be logged -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metrics", "error", "match"),
    [
        ({"step": 0.5}, ValueError, "cannot have the name 'step': `step` and `epoch` are"),
        ({"epoch": 1}, ValueError, "cannot have the name 'epoch'"),
        ({"": 1}, ValueError, "cannot have the name ''"),
        ({" ": 1}, ValueError, "cannot have the name ' '"),
        ({"a\nb": 1}, ValueError, r"cannot have the name 'a\\nb'"),
        ({"\x1b[31m": 1}, ValueError, "a name must consist of printable characters"),
        ({3: 1}, TypeError, "cannot have the name 3; a name must be a str"),
        ({"val/loss": 1}, ValueError, "'val/loss', which the trainer publishes itself"),
        ({"train/accuracy": 1}, ValueError, "'train/accuracy', which the trainer publishes"),
        ({"train/loss_step": 1}, ValueError, "'train/loss_step', which the trainer publishes"),
        ({"x": "0.5"}, TypeError, "'x' has '0.5' as its value"),
        ({"x": None}, TypeError, "'x' has None as its value"),
        ({"x": 1j}, TypeError, "it must be a real number"),
        ({"x": np.ones(3)}, TypeError, r"an array of shape \(3,\) as its value"),
        ({"x": np.ones(1)}, TypeError, r"an array of shape \(1,\)"),
        ({"x": [1.0]}, TypeError, r"'x' has \[1.0\]"),
        ({"x": 10**400}, TypeError, "it must be a real number"),
    ],
)
def test_a_name_or_a_value_that_records_cannot_hold_is_refused(metrics, error, match):
    with pytest.raises(error, match=match):
        linear_with(Logs(metrics)).fit()


def test_numbers_of_all_kinds_are_logged(tmp_path):
    metrics = {
        "a": np.float32(0.5), "b": np.int64(3), "c": True, "d": np.array(2.0), "e": float("nan")
    }  # fmt: skip
    trainer = linear_with(Logs(metrics), log_dir=tmp_path)
    row = trainer.fit()[-1]
    assert [row[name] for name in "abcd"] == [0.5, 3.0, 1.0, 2.0]
    assert np.isnan(row["e"])
    logged = [line for line in read_metrics(trainer.run_dir) if "a" in line]
    assert [(line["step"], line["a"], line["e"]) for line in logged] == [
        (2, 0.5, None),
        (4, 0.5, None),
    ]


def test_a_callback_cannot_declare_a_name_that_records_cannot_hold():
    with pytest.raises(ValueError, match="cannot have the name 'step'"):
        linear_with(Logs({}, metric_names=("step",)))


# ---- What can be monitored ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("monitor", "match"),
    [
        ("train/loss_step", "published at log points, .* 'train/loss' is the mean over an epoch"),
        ("lr", "not published here: the optimizer does not store its learning rate"),
        ("perf/mfu", "not published here: the peak of the device is unknown"),
        ("perf/peak_memory_bytes", "not published here: the device does not report"),
        ("val/acuracy", "did you mean 'val/accuracy'"),
        ("test/loss", "is unknown"),
    ],
)
@pytest.mark.parametrize("kind", [EarlyStopping, ModelCheckpoint])
def test_a_metric_that_no_epoch_ends_with_is_refused(tmp_path, kind, monitor, match):
    with pytest.raises(ValueError, match=rf"`monitor` \(='{monitor}'\) .*{match}"):
        linear_with(kind(monitor), log_dir=tmp_path).fit()
    assert not any(tmp_path.iterdir())


def test_early_stopping_sees_what_a_callback_after_it_in_the_list_publishes(caplog):
    class Publishes(Callback):
        metric_names = ("my/score",)

        def on_train_epoch_end(self, trainer):
            trainer.log({"my/score": 1.0})

    trainer = linear_with(EarlyStopping("my/score", patience=2), Publishes(), epochs=9)
    trainer.fit()
    assert trainer.epoch == 3
    assert "had no value" not in caplog.text


def test_a_metric_of_the_validation_is_refused_without_one():
    trainer = Trainer(
        nnx.Linear(4, 2, rngs=nnx.Rngs(0)), DataModule((X, Y), batch_size=16), log_dir=None,
        callbacks=[EarlyStopping("val/loss")], progress_bar=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="'val/loss'\\) is unknown; did you mean 'train/loss'"):
        trainer.fit()


@pytest.mark.parametrize(
    ("monitor", "others"),
    [
        ("lr", [LearningRateMonitor(0.1)]),
        ("perf/training_share", [ThroughputMonitor()]),
        ("val/mine", [Logs({"val/mine": 1}, metric_names=("val/mine",))]),
        ("perf/images_per_second", []),
        ("train/accuracy", []),
    ],
)
def test_a_metric_that_epochs_end_with_can_be_monitored(monitor, others):
    stopping = EarlyStopping(monitor, mode="max", patience=9)
    linear_with(*others, stopping, epochs=3).fit()
    assert stopping.best is not None


def test_an_injected_rate_can_be_monitored():
    stopping = EarlyStopping("lr", patience=9)
    linear_with(stopping, optimizer=optax.inject_hyperparams(optax.sgd)(0.1)).fit()
    assert stopping.best == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("every", "text"),
    [(1, None), (2, "at the end of 1 of 3 epochs"), (9, "at the end of 2 of 3 epochs")],
)
@pytest.mark.parametrize("kind", [EarlyStopping, ModelCheckpoint])
def test_a_metric_that_is_missing_now_and_then_is_warned_of_at_the_end(
    tmp_path, warnings, kind, every, text
):
    logs = Logs({"my/score": 1}, metric_names=("my/score",), every=every)
    linear_with(logs, kind("my/score"), log_dir=tmp_path, epochs=3).fit()
    said = [line for line in warnings.messages if "my/score" in line]
    if text is None:
        assert said == []
    else:
        assert len(said) == 1
        assert f"`monitor` (='my/score') of {kind.__name__} had no value {text}" in said[0]


def test_an_epoch_without_a_validation_owes_no_metric_of_it(warnings):
    linear_with(EarlyStopping(), epochs=3, validate_every_n_epochs=2).fit()
    assert warnings.messages == []


# ---- What is known before a fit -----------------------------------------------------------------


def test_every_public_property_can_be_read_before_a_fit():
    trainer = linear_with(EarlyStopping())
    public = [
        name
        for each in type(trainer).__mro__
        for name, value in vars(each).items()
        if isinstance(value, property) and not name.startswith("_")
    ]
    values = {name: getattr(trainer, name) for name in public}
    assert values["num_examples"] == 0
    assert values["steps_per_epoch"] == 2
    assert values["data_is_on_device"] is False
    assert {"train/loss", "val/accuracy", "train/loss_step"} <= values["metric_names"]
    assert values["metric_names"] - values["epoch_metric_names"] == {
        "train/loss_step", "train/accuracy_step"
    }  # fmt: skip


def test_hooks_of_other_verbs_can_read_the_names_too():
    looks = LooksAtNames()
    trainer = linear_with(looks)
    trainer.predict(X)
    after_prediction, looks.seen = looks.seen, None
    trainer.validate()
    assert after_prediction == looks.seen == trainer.metric_names


def test_the_names_known_before_a_fit_are_those_that_it_publishes():
    trainer = linear_with(optimizer=optax.inject_hyperparams(optax.sgd)(0.1), epochs=3)
    names = trainer.epoch_metric_names
    assert "lr" in names
    published = {name for row in trainer.fit() for name in row} - {"step", "epoch"}
    assert published == names


def test_properties_before_a_fit_tell_what_does_not_fit():
    trainer = Trainer(
        nnx.Linear(9, 2, rngs=nnx.Rngs(0)), DataModule((X, Y), batch_size=16), log_dir=None
    )
    with pytest.raises(ValueError, match="do not fit together"):
        trainer.metric_names  # noqa: B018


def test_a_collection_may_name_a_metric_step():
    """Its metrics are `train/step` and `val/step`, which no record has of its own."""

    class Mine(Task):
        metrics = Collection.create(step=Average.from_output("loss"))

        def outputs(self, model, batch):
            return {"loss": model(batch["image"])[:, 0]}

    row = linear_with(task=Mine(), epochs=1).fit()[0]
    assert row["step"] == 2
    assert row["val/step"] == row["val/loss"]


# ---- What the history holds ---------------------------------------------------------------------


class LogsSteps(Callback):
    """Logs the step before and after each step of the first two epochs."""

    def on_train_batch_start(self, trainer, batch, batch_index):
        if trainer.epoch < 2:
            trainer.log({"my/before": trainer.global_step})

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        if trainer.epoch < 2:
            trainer.log({"my/after": trainer.global_step})


def test_the_history_has_the_last_value_of_each_epoch_that_batch_hooks_log():
    history = linear_with(LogsSteps(), epochs=3).fit()
    rows = [{name: row[name] for name in row if name.startswith("my/")} for row in history]
    assert rows == [{"my/before": 1, "my/after": 2}, {"my/before": 3, "my/after": 4}, {}]


def test_a_resumed_epoch_keeps_what_batch_hooks_logged_before(tmp_path):
    class LogsAndFails(Callback):
        """Logs at the first step of each epoch; may fail after the first step of the second."""

        def __init__(self, *, fails):
            self.fails = fails

        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            if batch_index == 0:
                trainer.log({"my/first": trainer.global_step})
            if self.fails and trainer.global_step == 3:
                raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        linear_with(LogsAndFails(fails=True), log_dir=tmp_path).fit()
    history = linear_with(LogsAndFails(fails=False), log_dir=tmp_path).fit(resume="auto")
    assert [row["my/first"] for row in history] == [1, 3]
