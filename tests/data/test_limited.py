"""Views of data with fewer batches, and runs that use them."""

import jax
import numpy as np
import optax
import pytest
from helpers import RecordingCallback
from parts import Product, Scale, split_of

from nnx_alexnet import DataModule, Trainer
from nnx_alexnet.callbacks import EarlyStopping, ModelCheckpoint
from nnx_alexnet.data import ImageTransform
from nnx_alexnet.data.limited import limited_data

VALUES = [float(n) for n in range(20)]


def data_of(train=None, **arguments):
    train = split_of(*VALUES) if train is None else train
    return DataModule(
        train, split_of(*VALUES[:10]), split_of(*VALUES[:6]), batch_size=2, **arguments
    )


def trainer_of(data, **arguments):
    defaults = {"task": Product(), "optimizer": optax.sgd(0.01), "progress_bar": False}
    return Trainer(Scale(), data, **{**defaults, "log_dir": None, **arguments})


@pytest.mark.parametrize(
    ("limit", "numbers"),
    [
        (2, [2, 2, 2]),
        (100, [10, 5, 3]),
        (0.5, [5, 2, 1]),
        (0.01, [1, 1, 1]),
        (1.0, [10, 5, 3]),
        ({"train": 0.1, "val": 4}, [1, 4, 3]),
    ],
    ids=str,
)
def test_a_limit_is_a_number_or_a_fraction_of_batches(limit, numbers):
    data = limited_data(data_of(), limit_batches=limit)
    splits = (data.train, data.val, data.test)
    assert [split.num_batches for split in splits] == numbers
    assert [len([*split.batches()]) for split in splits] == numbers


def test_a_fraction_that_floats_cannot_hold_is_not_a_batch_too_few():
    data = DataModule((np.zeros((100, 2)), np.zeros(100, np.int32)), batch_size=1)
    assert limited_data(data, limit_batches=0.29).train.num_batches == 29


def test_a_limited_epoch_is_the_start_of_the_whole_one():
    whole, view = data_of().train, limited_data(data_of(), limit_batches=3).train
    for epoch in (0, 1):
        expected = [batch["index"].tolist() for batch in whole.batches(epoch=epoch)][1:3]
        found = [batch["index"].tolist() for batch in view.batches(epoch=epoch, start=1)]
        assert found == expected


@pytest.mark.parametrize("limit", [0, -1, 1.5, 0.0, True, "all", {"train": 0}, {"valid": 2}])
def test_a_limit_out_of_range_is_refused(limit):
    with pytest.raises(ValueError, match="`limit_batches` "):
        limited_data(data_of(), limit_batches=limit)


def test_a_fraction_of_an_iterable_without_a_length_is_refused():
    class Batches:
        def __iter__(self):
            return iter([split_of(1.0, 2.0)] * 4)

    with pytest.raises(ValueError, match="fraction, but `train` is an iterable without a length"):
        limited_data(data_of(Batches()), limit_batches=0.5)
    view = limited_data(data_of(Batches()), limit_batches=3)
    assert view.train.num_batches == len([*view.train.batches()]) == 3
    trainer = trainer_of(view, max_epochs=2)
    assert [row["step"] for row in trainer.fit()] == [3, 6]


def test_a_limited_run_resumes_with_the_same_bits(tmp_path):
    def run(folder, steps, resume="never"):
        trainer = trainer_of(
            data_of(), max_epochs=3, max_steps=steps, limit_batches={"train": 4, "val": 0.4},
            log_dir=folder,
        )  # fmt: skip
        trainer.fit(resume=resume)
        return trainer

    whole = run(tmp_path / "whole", 12)
    run(tmp_path / "cut", 6)
    resumed = run(tmp_path / "cut", 12, "auto")
    assert [row["step"] for row in whole.history] == [4, 8, 12]
    assert resumed.metrics["val/loss"] == whole.metrics["val/loss"]
    np.testing.assert_array_equal(resumed.model.weight[...], whole.model.weight[...])
    other = trainer_of(
        data_of(), max_epochs=4, limit_batches={"train": 5}, log_dir=tmp_path / "cut"
    )
    with pytest.raises(ValueError, match=r"data\.train_batches"):
        other.fit(resume="auto")


def test_predictions_are_not_limited():
    class Predicts(Product):
        def predict(self, model, batch):
            return model(batch["image"])

    trainer = trainer_of(data_of(), limit_batches=1, task=Predicts())
    assert trainer.predict().tolist() == VALUES[:6]


# ---- Overfitting ---------------------------------------------------------------------------------


def test_overfitting_trains_and_validates_on_the_same_batches_in_order():
    data = limited_data(data_of(), overfit_batches=2)
    for epoch in (0, 1):
        seen = [batch["index"].tolist() for batch in data.train.batches(epoch=epoch)]
        assert seen == [[0, 1], [2, 3]]
    trainer = trainer_of(data_of(), overfit_batches=2, max_epochs=1, optimizer=optax.sgd(0.0))
    assert trainer.fit()[0]["val/loss"] == trainer.metrics["train/loss"] == 1.5  # mean of 0 to 3


def test_overfitting_does_not_augment():
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 1), dtype=np.uint8)
    transform = ImageTransform(translate=0.3, flip=True)
    data = DataModule((images, np.arange(8) % 2), batch_size=4, transform=transform)
    batch = next(limited_data(data, overfit_batches=1).train.batches())
    found = limited_data(data, overfit_batches=1).transform(batch, jax.random.key(0))
    np.testing.assert_array_equal(found["image"], transform(batch)["image"])


def test_overfitting_needs_examples_with_an_order():
    with pytest.raises(ValueError, match="`train` is an iterable of batches"):
        limited_data(data_of([split_of(1.0, 2.0)] * 4), overfit_batches=1)
    with pytest.raises(ValueError, match="Pass only one of them"):
        limited_data(data_of(), overfit_batches=1, limit_batches=2)


# ---- A quick trial -------------------------------------------------------------------------------


@pytest.mark.parametrize(("argument", "number"), [(True, 1), (3, 3)])
def test_a_quick_trial_runs_everything_and_writes_nothing(argument, number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = RecordingCallback()
    trainer = trainer_of(
        data_of(), log_dir="logs", fast_dev_run=argument, max_epochs=50, max_steps=1,
        callbacks=[seen, EarlyStopping(), ModelCheckpoint()],
    )  # fmt: skip
    history = trainer.fit()
    assert [row["step"] for row in history] == [trainer.global_step] == [number]
    assert trainer.test().keys() == {"test/loss"}
    assert trainer.callbacks == (seen,)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("argument", [0, -1, 1.0, "yes"])
def test_a_quick_trial_of_no_batches_is_refused(argument):
    with pytest.raises(ValueError, match="`fast_dev_run` "):
        limited_data(data_of(), fast_dev_run=argument)
