"""Several steps in one dispatch, and data that stay on the device: faster, and nothing else."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from helpers import Dense, tiny_arrays, trainer_of, tree_equal
from small_runs import Steps

from nnx_alexnet import DataModule, Trainer, create_optimizer
from nnx_alexnet.callbacks import (
    BETWEEN_DISPATCHES,
    Callback,
    LearningRateMonitor,
    ModelCheckpoint,
    TensorBoard,
)
from nnx_alexnet.data import ImageTransform


class DenseNet(nnx.Module):
    """All kinds of state, and no convolution: those are not looped over on a CPU."""

    def __init__(self, num_classes, *, rngs):
        self.dense1 = nnx.Linear(144, 16, rngs=rngs)
        self.bn = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.dense2 = nnx.Linear(16, num_classes, rngs=rngs)

    def __call__(self, image):
        x = nnx.relu(self.bn(self.dense1(image.reshape(len(image), -1))))
        return self.dense2(self.dropout(x))


class Dispatches(Callback):
    """Counts them."""

    count = 0
    batch_period = BETWEEN_DISPATCHES

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        self.count += 1


def data_of(**arguments):
    """Nine batches in an epoch, of which the last one has six examples."""
    return DataModule(
        tiny_arrays(num=70), tiny_arrays(num=20, seed=1), batch_size=8, drop_last=False,
        transform=ImageTransform(12, translate=0.2, flip=True), **arguments,
    )  # fmt: skip


def dense_trainer(steps, *, data=None, callbacks=(), **arguments):
    return trainer_of(
        DenseNet(4, rngs=nnx.Rngs(0)),
        data_of() if data is None else data,
        optimizer=create_optimizer(schedule="cosine", num_steps=18, warmup_steps=2),
        steps_per_execution=steps,
        callbacks=[*callbacks, TensorBoard(images=False, histograms=False, texts=False)],
        **arguments,
    )


def fitted(steps, **arguments):
    trainer = dense_trainer(steps, **arguments)
    return trainer, trainer.fit()


def untimed(history):
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in history]


@pytest.fixture(scope="module")
def step_by_step():
    """A run of one step in each dispatch, its history, and what its hooks were given."""
    steps = Steps()
    return *fitted(1, callbacks=[steps], data=data_of(keep_on_device=False)), steps


@pytest.mark.optimized
@pytest.mark.parametrize(
    ("steps", "keep_on_device"),
    [
        (64, True), (5, False),
        *(pytest.param(*case, marks=pytest.mark.slow)
          for case in [(2, True), (2, False), (5, True), (64, False)]),
    ],
)  # fmt: skip
def test_any_number_of_steps_a_dispatch_ends_with_the_same_bits(
    step_by_step, steps, keep_on_device
):
    """Dropout, BatchNorm, augmentation, Adam and a schedule included; a ragged batch too."""
    one, history, _ = step_by_step
    many, other_history = fitted(steps, data=data_of(keep_on_device=keep_on_device))
    assert tree_equal(nnx.state(one.model), nnx.state(many.model))
    assert untimed(history) == untimed(other_history)
    assert many.num_compilations == {"train": 2, "evaluate": 1}  # 8 and 6 examples


@pytest.mark.optimized
@pytest.mark.slow
def test_a_list_of_batches_is_grouped_too_and_ends_with_the_same_bits():
    images, labels = tiny_arrays(num=72, size=12)
    batches = [(images[i : i + 8], labels[i : i + 8]) for i in range(0, 72, 8)]
    one, _ = fitted(1, data=DataModule(batches))
    many, _ = fitted(4, data=DataModule(batches))
    assert one.global_step == many.global_step == 18
    assert tree_equal(nnx.state(one.model), nnx.state(many.model))


@pytest.mark.optimized
def test_hooks_are_called_at_their_steps_with_their_own_batches(step_by_step):
    *_, each = step_by_step
    third = Steps(every_n_steps=3)
    trainer, _ = fitted(64, callbacks=[third], max_steps=17)
    assert [step for step, _ in each.ends] == list(range(1, 19))
    assert [step for step, _ in third.starts] == [3, 6, 9, 12, 15]
    assert third.ends == [(3, 2), (6, 5), (9, 8), (12, 2), (15, 5)]
    assert third.indices == [each.indices[step - 1] for step, _ in third.ends]
    assert third.losses == [each.losses[step - 1] for step, _ in third.ends]
    assert trainer.global_step == 17


@pytest.mark.optimized
def test_a_run_that_is_stopped_within_a_group_ends_with_the_same_bits(step_by_step, tmp_path):
    whole, history, _ = step_by_step
    fitted(64, log_dir=tmp_path, max_steps=11)
    trainer = dense_trainer(5, data=data_of(keep_on_device=False), log_dir=tmp_path)
    resumed = trainer.fit(resume="auto")
    assert trainer.global_step == 18
    assert tree_equal(nnx.state(whole.model), nnx.state(trainer.model))
    assert resumed[-1]["val/loss"] == history[-1]["val/loss"]


def test_log_points_and_saves_are_at_their_steps(tmp_path):
    class Log(Callback):
        steps: tuple = ()

        def on_log(self, trainer, metrics, step):
            if "train/loss_step" in metrics:
                self.steps += (step,)

    log = Log()
    saver = ModelCheckpoint(every_n_steps=4, every_n_epochs=None, keep_latest=20)
    trainer, _ = fitted(
        64, callbacks=[log, saver], log_dir=tmp_path, log_every_n_steps=5, max_epochs=2
    )
    assert log.steps == (5, 10, 15)
    saved = {int(path.name) for path in (trainer.run_dir / "checkpoints").glob("[0-9]*")}
    assert saved == {4, 8, 12, 16, 18}


def test_an_epoch_is_two_dispatches_by_itself_and_has_a_speed_once_compiled():
    seen = Dispatches()
    trainer, history = fitted("auto", callbacks=[seen], max_epochs=3)
    assert (trainer.global_step, seen.count) == (27, 6), "the smaller batch is one of its own"
    assert all(row["perf/images_per_second"] > 0 for row in history[1:])


def test_a_train_step_of_a_subclass_is_what_the_loop_takes():
    class Frozen(Trainer):
        def train_step(self, model, optimizer, batch):
            return self.task.outputs(model, batch)

    model = Dense()
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    data = DataModule(tiny_arrays(num=32), batch_size=8)
    trainer = Frozen(
        model, data, steps_per_execution=4, max_epochs=1, log_dir=None, progress_bar=False
    )  # fmt: skip
    trainer.fit()
    assert trainer.global_step == 4
    assert tree_equal(before, nnx.state(model, nnx.Param))


def test_a_monitor_publishes_the_rate_of_its_very_step():
    class Rates(Callback):
        seen: tuple = ()

        def on_log(self, trainer, metrics, step):
            if set(metrics) == {"lr"}:
                self.seen += ((step, round(metrics["lr"])),)

    rates = Rates()
    trainer = Trainer(
        Dense(), DataModule(tiny_arrays(num=72), batch_size=8), max_epochs=1, log_dir=None,
        optimizer=optax.inject_hyperparams(optax.sgd)(lambda step: 1.0 * step),
        callbacks=[rates, LearningRateMonitor(every_n_steps=3)], steps_per_execution=64,
        check_finite=False, progress_bar=False,
    )  # fmt: skip
    trainer.fit()
    assert rates.seen == ((3, 2), (6, 5), (9, 8))
