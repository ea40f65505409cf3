"""Metrics are those of one NumPy pass over a whole split, and the steps compile once."""

import numpy as np
import optax
import pytest
from flax import nnx
from helpers import Dense, tiny_arrays
from small_runs import numpy_metrics, tiny_data, tiny_trainer

from nnx_alexnet import DataModule, create_optimizer


def test_train_metrics_of_an_epoch_are_the_mean_over_its_examples():
    """With a rate of zero the model stays, so the epoch's mean is that of one pass."""
    model, (images, labels) = Dense(), tiny_arrays(num=64)
    data = DataModule((images, labels), batch_size=16)
    trainer = tiny_trainer(
        model=model, data=data, optimizer=optax.sgd(0.0), max_epochs=1, log_every_n_steps=3
    )
    row = trainer.fit()[0]
    loss, accuracy = numpy_metrics(model, images, labels)
    assert row["train/loss"] == pytest.approx(loss, abs=1e-6)
    assert row["train/accuracy"] == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize(
    "num", [1, 17, 47, *(pytest.param(n, marks=pytest.mark.slow) for n in (15, 16, 30))]
)
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
