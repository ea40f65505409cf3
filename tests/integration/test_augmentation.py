"""A run with several kinds of augmentation is the same however it is divided and resumed."""

import numpy as np
import optax
import pytest
from flax import nnx
from helpers import Dense, tiny_arrays, trainer_of, tree_equal

from nnx_alexnet import DataModule
from nnx_alexnet.augmentation import ColorJitter, CutMix, RandomErasing, TrivialAugment
from nnx_alexnet.callbacks import Callback, ModelCheckpoint
from nnx_alexnet.data import ImageTransform

AUGMENTED = [
    ImageTransform(12, resized_crop=(0.3, 1.0), mean=0.5, std=0.25),
    TrivialAugment(),
    ColorJitter(),
    RandomErasing(),
    CutMix(),
]


def run_of(transform=AUGMENTED, **arguments):
    data = DataModule(
        tiny_arrays(num=64), tiny_arrays(num=20, seed=1), batch_size=16, transform=transform
    )
    arguments = {"max_epochs": 2, "optimizer": optax.adam(1e-3)} | arguments
    return trainer_of(Dense(12), data, **arguments)


@pytest.fixture(scope="module")
def whole():
    trainer = run_of(steps_per_execution=1)
    return trainer, trainer.fit()


@pytest.mark.slow
def test_steps_per_dispatch_change_nothing(whole):
    trainer = run_of(steps_per_execution=4)
    trainer.fit()
    assert tree_equal(nnx.state(trainer.model), nnx.state(whole[0].model))


@pytest.mark.slow
def test_two_devices_compute_the_same(whole):
    trainer = run_of(devices=2)
    history = trainer.fit()
    for name in ("train/loss", "val/loss"):
        assert history[-1][name] == pytest.approx(whole[1][-1][name], rel=1e-4)


class Stop(Callback):
    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        if trainer.global_step == 5:
            raise RuntimeError("stopped here")


def test_resumed_run_is_that_of_one_piece(whole, tmp_path):
    arguments = {"log_dir": tmp_path, "steps_per_execution": 1}
    first = run_of(callbacks=[ModelCheckpoint(every_n_steps=3), Stop()], **arguments)
    with pytest.raises(RuntimeError, match="stopped here"):
        first.fit()
    assert first.global_step < 8
    second = run_of(callbacks=[ModelCheckpoint(every_n_steps=3)], **arguments)
    second.fit(resume="auto")
    assert second.global_step == 8
    assert tree_equal(nnx.state(second.model), nnx.state(whole[0].model))


def test_augmentation_changes_training_but_not_validation(whole):
    plain = run_of(AUGMENTED[0]).fit()[0]
    assert not np.isclose(plain["train/loss"], whole[1][0]["train/loss"])
    trainer = whole[0]
    twin = run_of(ImageTransform(12, mean=0.5, std=0.25))
    nnx.update(twin.model, nnx.state(trainer.model))
    assert twin.validate() == trainer.validate()
