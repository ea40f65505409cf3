"""Validations within an epoch, by `validate_every_n_steps`, and of several sets."""

import signal

import numpy as np
import optax
import pytest
from parts import Product, Scale, split_of

from nnx_alexnet import DataModule, Trainer
from nnx_alexnet.callbacks import Callback, EarlyStopping, ModelCheckpoint

RATE, VALUES = 0.01, [float(n) for n in range(20)]


class Seen(Callback):
    """Notes what is published, and the digest of what a resumed run starts from."""

    def __init__(self):
        self.rows = []

    def on_log(self, trainer, metrics, step):
        if "val/loss" in metrics:
            self.rows.append((step, metrics["val/loss"]))


class Interrupt(Callback):
    """Sends Ctrl-C in the validation of a step, or after that of it."""

    def __init__(self, step, hook):
        self.step, self.hook = step, hook

    def _act(self, trainer, hook):
        if trainer.global_step == self.step and hook == self.hook:
            signal.raise_signal(signal.SIGINT)

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        self._act(trainer, "before")

    def on_validation_batch_end(self, trainer, outputs, batch, batch_index):
        self._act(trainer, "during")

    def on_validation_end(self, trainer):
        self._act(trainer, "after")


def trainer_of(*callbacks, train=None, **arguments):
    data = DataModule(
        split_of(*VALUES) if train is None else train, split_of(1.0, 2.0, 3.0), batch_size=2
    )
    defaults = {"max_epochs": 2, "log_dir": None, "progress_bar": False}
    return Trainer(
        Scale(), data, task=Product(), optimizer=optax.sgd(RATE), callbacks=callbacks,
        **{**defaults, "validate_every_n_steps": 4, **arguments},
    )  # fmt: skip


@pytest.mark.parametrize("steps_per_execution", [1, 3, pytest.param(64, marks=pytest.mark.slow)])
def test_validations_are_at_multiples_of_the_global_step(steps_per_execution):
    seen = Seen()
    trainer = trainer_of(seen, steps_per_execution=steps_per_execution)
    history = trainer.fit()
    assert [row["step"] for row in history] == [4, 8, 10, 12, 16, 20]  # 10 and 20 end an epoch
    assert [row["epoch"] for row in history] == [0, 0, 0, 1, 1, 1]
    assert ["train/loss" in row for row in history] == [False, False, True] * 2
    assert [(row["step"], row["val/loss"]) for row in history] == seen.rows
    # By hand: the weight starts at 1, and each step subtracts the rate times a mean of values.
    weight, losses = 1.0, {}
    for epoch in (0, 1):
        for batch in trainer.data.train.batches(epoch=epoch):
            weight -= RATE * batch["image"].mean()
            losses[len(losses) + 1] = 2.0 * weight  # the mean of 1, 2 and 3
    np.testing.assert_allclose(
        [row["val/loss"] for row in history], [losses[row["step"]] for row in history], rtol=1e-4
    )
    assert trainer.num_compilations["train"] == 1


def test_validations_within_an_epoch_need_a_validation_split():
    trainer = Trainer(
        Scale(1.0), DataModule(split_of(*VALUES), batch_size=2), task=Product(), log_dir=None,
        validate_every_n_steps=2, progress_bar=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"`validate_every_n_steps` \(=2\) needs a validation"):
        trainer.fit()


def test_a_validation_at_the_last_step_of_an_epoch_happens_once():
    seen = Seen()
    trainer_of(seen, validate_every_n_steps=5).fit()
    assert [step for step, _ in seen.rows] == [5, 10, 15, 20]


def test_an_iterable_without_a_length_is_validated_once_at_its_end():
    class Batches:
        def __iter__(self):
            return iter([split_of(1.0, 2.0)] * 4)

    seen = Seen()
    trainer_of(seen, train=Batches(), validate_every_n_steps=2).fit()
    assert [step for step, _ in seen.rows] == [2, 4, 6, 8]


def test_training_is_the_same_with_and_without_validations():
    weights = []
    for period in (None, 3):
        trainer = trainer_of(validate_every_n_steps=period)
        trainer.fit()
        weights.append([float(trainer.model.weight[...]), trainer.metrics["train/loss"]])
    assert weights[0] == weights[1]


def test_early_stopping_reacts_within_an_epoch():
    stopping = EarlyStopping("val/loss", mode="max", patience=2)  # the loss only falls
    trainer = trainer_of(stopping, max_epochs=9)
    history = trainer.fit()
    assert (trainer.global_step, stopping.stopped_step, stopping.num_bad_checks) == (10, 10, 2)
    stopping = EarlyStopping("val/loss", mode="max", patience=1)
    trainer = trainer_of(stopping, max_epochs=9)
    history = trainer.fit()
    assert [row["step"] for row in history] == [4, 8] == [4, trainer.global_step]
    assert {"train/loss", "val/loss"} <= history[-1].keys(), "one row for the last step"
    assert stopping.num_bad_checks == 1


def test_a_checkpoint_is_ranked_by_a_validation_within_an_epoch(tmp_path):
    saver = ModelCheckpoint("val/loss", mode="max", save_top_k=2)
    trainer = trainer_of(saver, log_dir=tmp_path, max_epochs=1)
    trainer.fit()
    assert saver.best_path.name == "4"
    assert saver.best_value == trainer.history[0]["val/loss"]


@pytest.mark.parametrize(
    ("when", "step"),
    [
        ("after", 8),
        ("during", 20),
        pytest.param("before", 8, marks=pytest.mark.slow),
        pytest.param("during", 8, marks=pytest.mark.slow),
    ],
)
def test_a_run_interrupted_around_a_validation_resumes_exactly(when, step, tmp_path):
    def run(name, *callbacks, resume="never"):
        stopping = EarlyStopping("val/loss", mode="max", patience=99)
        trainer = trainer_of(stopping, *callbacks, log_dir=tmp_path, name=name)
        trainer.fit(resume=resume)
        lines = (trainer.run_dir / "metrics.jsonl").read_text().splitlines()
        rows = [
            {name: value for name, value in row.items() if not name.startswith("perf/")}
            for row in trainer.history
        ]
        return trainer, rows, sum("val/loss" in line for line in lines), stopping.num_bad_checks

    whole = run("whole")
    cut, *_ = run("cut", Interrupt(step, when))
    assert cut.interrupted
    assert cut.global_step == step
    again = run("cut", resume="auto")
    assert again[1:] == whole[1:]
    assert again[0].model.weight[...] == whole[0].model.weight[...]


SETS = {"clean": split_of(1.0, 2.0, 3.0), "shifted": split_of(10.0, 20.0)}


class Order(Callback):
    def __init__(self):
        self.seen = []

    def on_validation_start(self, trainer):
        self.seen.append("start")

    def on_validation_batch_end(self, trainer, outputs, batch, batch_index):
        self.seen.append((trainer.evaluated_split, batch_index))

    def on_validation_end(self, trainer):
        self.seen.append(("end", trainer.evaluated_split, trainer.metrics["val/shifted/loss"]))


def trainer_of_sets(*callbacks, **arguments):
    data = DataModule(split_of(*VALUES), SETS, batch_size=2)
    arguments = {"log_dir": None, "max_epochs": 2, "progress_bar": False, **arguments}
    return Trainer(
        Scale(), data, task=Product(), optimizer=optax.sgd(RATE), callbacks=callbacks, **arguments
    )


def test_each_set_has_metrics_between_one_start_and_one_end():
    order = Order()
    trainer = trainer_of_sets(order)
    row = trainer.fit()[0]
    weight = 1.0 - RATE * sum(
        batch["image"].mean() for batch in trainer.data.train.batches(epoch=0)
    )
    np.testing.assert_allclose(row["val/clean/loss"], 2.0 * weight, rtol=1e-4)
    np.testing.assert_allclose(row["val/shifted/loss"], 15.0 * weight, rtol=1e-4)
    assert "val/loss" not in row
    assert order.seen[:5] == [
        "start", ("val/clean", 0), ("val/clean", 1), ("val/shifted", 0),
        ("end", None, row["val/shifted/loss"]),
    ]  # fmt: skip
    measured = trainer.validate()
    assert measured == {name: trainer.history[-1][name] for name in measured}
    assert [*measured] == ["val/clean/loss", "val/shifted/loss"]
    with pytest.raises(ValueError, match="publishes itself"):
        trainer.log({"val/shifted/loss": 1.0})


def test_the_first_set_ranks_checkpoints_and_any_set_can_be_monitored(tmp_path):
    saver, stopping = ModelCheckpoint(), EarlyStopping("val/shifted/loss", threshold=-1e9)
    trainer = trainer_of_sets(saver, stopping, log_dir=tmp_path)
    trainer.fit()
    assert saver.ranked_by == "val/clean/loss"
    assert saver.best_value == trainer.history[-1]["val/clean/loss"]
    assert stopping.best == trainer.history[-1]["val/shifted/loss"]
    with pytest.raises(ValueError, match="val/clean/loss"):
        trainer_of_sets(EarlyStopping("val/loss")).fit()


def test_a_run_with_sets_interrupted_between_them_resumes_exactly(tmp_path):
    class InterruptSecond(Callback):
        def on_validation_batch_end(self, trainer, outputs, batch, batch_index):
            if trainer.evaluated_split == "val/shifted" and trainer.epoch == 0:
                signal.raise_signal(signal.SIGINT)

    def run(*callbacks, name="cut", resume="never"):
        trainer = trainer_of_sets(*callbacks, log_dir=tmp_path, name=name)
        trainer.fit(resume=resume)
        return trainer, [
            {name: value for name, value in row.items() if not name.startswith("perf/")}
            for row in trainer.history
        ]

    whole, rows = run(name="whole")
    cut, none = run(InterruptSecond())
    assert cut.interrupted
    assert none == []
    again, resumed = run(resume="auto")
    assert resumed == rows
    assert again.model.weight[...] == whole.model.weight[...]
    SETS["shifted"], before = split_of(10.0, 21.0), SETS["shifted"]
    try:
        with pytest.raises(ValueError, match="val/shifted"):
            run(resume="auto")
    finally:
        SETS["shifted"] = before
