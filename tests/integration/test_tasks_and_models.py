"""Tasks, models and data of all kinds are trained on and predict."""

import clu.metrics
import flax.struct
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import TinyNet, tiny_arrays, tree_allclose
from small_runs import tiny_trainer

from nnx_alexnet import Classification, DataModule, Task, Trainer


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


def test_one_hot_and_integer_labels_give_equal_training():
    (images, labels), states = tiny_arrays(num=64), []
    for targets in (labels, np.eye(4, dtype=np.float32)[labels]):
        trainer = tiny_trainer(
            data=DataModule((images, targets), batch_size=16),
            task=Classification(0.1),
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


def test_an_iterable_of_batches_is_trained_on_as_it_is():
    images, labels = tiny_arrays(num=64)
    batches = [(images[i : i + 16], labels[i : i + 16]) for i in range(0, 64, 16)]
    trainer = tiny_trainer(data=(batches, batches), max_epochs=2)
    assert [row["step"] for row in trainer.fit()] == [4, 8]


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


def test_rows_that_the_mask_leaves_out_may_have_any_label():
    mask = np.array([True, True, False, False])
    batch = {"image": np.zeros((4, 3), np.float32), "label": np.array([0, 1, -1, 9]), "mask": mask}
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    data = DataModule([batch, batch], [batch])
    trainer = Trainer(model, data, max_epochs=1, log_dir=None, progress_bar=False)
    assert np.isfinite(trainer.fit()[0]["val/loss"])


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
