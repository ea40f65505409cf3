"""Several steps in one dispatch, and data that stay on the device: faster, and nothing else."""

import math

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import TinyNet, tiny_arrays, tree_equal
from hypothesis import given, settings
from hypothesis import strategies as st

from nnx_alexnet import Classification, DataModule, Trainer, create_optimizer
from nnx_alexnet.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, ProgressBar
from nnx_alexnet.callbacks.base import BETWEEN_DISPATCHES, CallbackList
from nnx_alexnet.data import ImageTransform
from nnx_alexnet.dispatch import choose_steps
from nnx_alexnet.placement import Placement


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


class Steps(Callback):
    """Keeps at which steps its hooks were called, and what they were given."""

    def __init__(self, every_n_steps=None):
        self.every_n_steps = every_n_steps
        self.starts, self.ends, self.indices, self.losses = [], [], [], []

    def on_train_batch_start(self, trainer, batch, batch_index):
        self.starts.append((trainer.global_step + 1, batch_index))

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        self.ends.append((trainer.global_step, batch_index))
        self.indices.append(batch["index"].tolist())
        self.losses.append(float(outputs["loss"]))
        assert batch["image"].shape[0] == len(batch["label"]) == len(batch["mask"])


def data_of(num=72, batch_size=8, **arguments):
    transform = ImageTransform(12, translate=0.2, flip=True)
    return DataModule(
        tiny_arrays(num=num), tiny_arrays(num=20, seed=1),
        batch_size=batch_size, transform=transform, **arguments,
    )  # fmt: skip


def fitted(steps, *, data=None, callbacks=(), **arguments):
    trainer = Trainer(
        DenseNet(4, rngs=nnx.Rngs(0)),
        data_of() if data is None else data,
        optimizer=create_optimizer(schedule="cosine", num_steps=18, warmup_steps=2),
        steps_per_execution=steps,
        callbacks=callbacks,
        **{"max_epochs": 2, "log_dir": None, "progress_bar": False, **arguments},
    )
    return trainer, trainer.fit()


def untimed(history):
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in history]


@pytest.mark.parametrize("steps", [2, 5, 64])
@pytest.mark.parametrize("keep_on_device", [True, False])
def test_any_number_of_steps_a_dispatch_ends_with_the_same_bits(steps, keep_on_device):
    """Dropout, BatchNorm, augmentation, Adam and a schedule included; a ragged batch too."""
    one, history = fitted(1, data=data_of(num=70, drop_last=False, keep_on_device=False))
    data = data_of(num=70, drop_last=False, keep_on_device=keep_on_device)
    many, other_history = fitted(steps, data=data)
    assert tree_equal(nnx.state(one.model), nnx.state(many.model))
    assert untimed(history) == untimed(other_history)
    assert many.num_compilations == {"train": 1, "evaluate": 1}


def test_a_list_of_batches_is_grouped_too_and_ends_with_the_same_bits():
    images, labels = tiny_arrays(num=72, size=12)
    batches = [(images[i : i + 8], labels[i : i + 8]) for i in range(0, 72, 8)]
    one, _ = fitted(1, data=DataModule(batches))
    many, _ = fitted(4, data=DataModule(batches))
    assert one.global_step == many.global_step == 18
    assert tree_equal(nnx.state(one.model), nnx.state(many.model))


@settings(max_examples=60, deadline=None)
@given(
    periods=st.lists(st.integers(1, 9), max_size=3),
    most=st.integers(1, 20),
    begin=st.integers(0, 30),
)
def test_a_dispatch_never_passes_a_step_at_which_a_hook_is_due(periods, most, begin):
    """By counting: whatever the periods, every multiple is seen, before and after its step."""
    callbacks = [Steps(period) for period in periods]
    hooks = CallbackList([*callbacks, ProgressBar()])
    started, ended, step = [], [], begin
    while step < begin + 40:
        limit = hooks.next_train_batch(step)
        stop = min(step + most, begin + 40, math.inf if limit is None else limit)
        assert stop > step
        started.append(step + 1)
        ended.append(stop)
        step = stop
    for callback in callbacks:
        period = callback.every_n_steps
        due = [n for n in range(begin + 1, begin + 41) if n % period == 0]
        assert set(due) <= set(started)
        assert set(due) <= set(ended)


def test_hooks_are_called_at_their_steps_with_their_own_batches():
    each, third = Steps(), Steps(every_n_steps=3)
    fitted(1, callbacks=[each])
    trainer, _ = fitted(64, callbacks=[third], max_steps=17)
    assert [step for step, _ in third.starts] == [3, 6, 9, 12, 15]
    assert third.ends == [(3, 2), (6, 5), (9, 8), (12, 2), (15, 5)]
    assert third.indices == [each.indices[step - 1] for step, _ in third.ends]
    assert third.losses == [each.losses[step - 1] for step, _ in third.ends]
    assert trainer.global_step == 17


def test_a_callback_that_states_no_period_sees_each_step():
    callback = Steps()
    fitted(64, callbacks=[callback])
    assert [step for step, _ in callback.ends] == list(range(1, 19))


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


def test_a_run_that_is_stopped_within_a_group_goes_on_to_the_same_bits(tmp_path):
    whole, history = fitted(64)
    fitted(7, log_dir=tmp_path, max_steps=11)
    trainer = Trainer(
        DenseNet(4, rngs=nnx.Rngs(0)), data_of(keep_on_device=False), log_dir=tmp_path,
        optimizer=create_optimizer(schedule="cosine", num_steps=18, warmup_steps=2),
        steps_per_execution=3, max_epochs=2, progress_bar=False,
    )  # fmt: skip
    resumed = trainer.fit(resume="auto")
    assert trainer.global_step == 18
    assert tree_equal(nnx.state(whole.model), nnx.state(trainer.model))
    assert resumed[-1]["val/loss"] == history[-1]["val/loss"]


def test_a_loss_that_is_not_finite_within_a_group_names_its_step_and_examples():
    images, labels = tiny_arrays(num=64, size=12)
    images = images.astype(np.float32)
    images[13] = np.nan
    seen = Steps()
    data = DataModule((images, labels), batch_size=8)
    with pytest.raises(FloatingPointError) as single:
        fitted(1, data=data, callbacks=[seen], max_epochs=1)
    with pytest.raises(FloatingPointError) as many:
        fitted(64, data=data, max_epochs=1)
    step = next(n for n, index in enumerate(seen.indices, start=1) if 13 in index)
    assert str(many.value).startswith(f"Step {step} had a loss of nan")
    assert "its `image` is not finite for [13]" in str(many.value)
    assert str(many.value) == str(single.value)


def test_early_stopping_in_a_batch_hook_stops_at_that_step():
    class Stop(Callback):
        every_n_steps = 6

        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            trainer.stop("enough")

    trainer, _ = fitted(64, callbacks=[Stop()], max_epochs=9)
    assert (trainer.global_step, trainer.stop_reason) == (6, "enough")


def test_a_trainers_own_train_step_is_what_the_loop_takes():
    class Frozen(Trainer):
        def train_step(self, model, optimizer, batch):
            return self.task.outputs(model, batch)

    model = DenseNet(4, rngs=nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    trainer = Frozen(
        model, data_of(), steps_per_execution=4, max_epochs=1, log_dir=None, progress_bar=False
    )
    trainer.fit()
    assert trainer.global_step == 9
    assert tree_equal(before, nnx.state(model, nnx.Param))


class Dispatches(Callback):
    """Counts them."""

    count = 0
    batch_period = BETWEEN_DISPATCHES

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        self.count += 1


def test_several_steps_are_one_dispatch_by_itself():
    seen = Dispatches()
    trainer, _ = fitted("auto", callbacks=[seen])
    assert (trainer.global_step, seen.count) == (18, 2)


def test_an_epoch_that_is_one_dispatch_has_a_speed_once_it_is_compiled():
    _, history = fitted("auto", max_epochs=3)
    speeds = [row.get("perf/images_per_second") for row in history]
    assert speeds[0] is None
    assert all(speed > 0 for speed in speeds[1:])


def test_convolutions_on_a_cpu_are_not_looped_over():
    seen = Dispatches()
    trainer = Trainer(
        TinyNet(4, rngs=nnx.Rngs(0)), data_of(), callbacks=[seen], steps_per_execution=64,
        max_epochs=1, log_dir=None, progress_bar=False,
    )  # fmt: skip
    trainer.fit()
    assert (trainer.global_step, seen.count) == (9, 9)


def test_batches_that_the_host_sends_are_grouped_as_memory_allows():
    assert choose_steps("auto", batch_bytes=0) == 64
    assert choose_steps("auto", batch_bytes=2**24) == 4
    assert choose_steps("auto", batch_bytes=2**40) == 1
    assert choose_steps(7, batch_bytes=2**40) == 7
    assert choose_steps("auto", batch_bytes=0, step_flops=4e9) == 5


@pytest.mark.parametrize("steps", [1, 64])
def test_a_start_hook_that_stops_or_saves_does_so_at_its_step(steps, tmp_path):
    class Ask(Callback):
        every_n_steps = 4

        def on_train_batch_start(self, trainer, batch, batch_index):
            trainer.request_checkpoint()
            if trainer.global_step + 1 == 12:
                trainer.stop("enough")

    saver = ModelCheckpoint(every_n_epochs=None, keep_latest=20)
    trainer, _ = fitted(steps, callbacks=[Ask(), saver], log_dir=tmp_path, log_every_n_steps=5)
    assert trainer.global_step == 12
    saved = {int(path.name) for path in (trainer.run_dir / "checkpoints").glob("[0-9]*")}
    assert saved == {4, 8, 12}


@pytest.mark.parametrize("steps", [1, 64])
def test_a_monitor_publishes_the_rate_of_its_very_step(steps):
    class Rates(Callback):
        seen: tuple = ()

        def on_log(self, trainer, metrics, step):
            if set(metrics) == {"lr"}:
                self.seen += ((step, round(metrics["lr"])),)

    rates = Rates()
    trainer = Trainer(
        DenseNet(4, rngs=nnx.Rngs(0)), data_of(), max_epochs=1, log_dir=None, progress_bar=False,
        optimizer=optax.inject_hyperparams(optax.sgd)(lambda step: 1.0 * step),
        callbacks=[rates, LearningRateMonitor(every_n_steps=3)], steps_per_execution=steps,
        check_finite=False,
    )  # fmt: skip
    trainer.fit()
    assert rates.seen == ((3, 2), (6, 5), (9, 8))


def test_a_metric_whose_empty_value_has_another_dtype_can_be_looped_over():
    @flax.struct.dataclass
    class Total(clu.metrics.Metric):
        total: jax.Array

        @classmethod
        def empty(cls):
            return cls(total=jnp.zeros((), jnp.int32))

        @classmethod
        def from_model_output(cls, loss, mask, **_):
            return cls(total=jnp.where(mask, loss, 0.0).sum())

        def merge(self, other):
            return type(self)(total=self.total + other.total)

        def compute(self):
            return self.total

    class Counted(Classification):
        def collection(self, outputs):
            return clu.metrics.Collection.create(total=Total)

    _, history = fitted(64, task=Counted())
    assert history[-1]["train/total"] > 0


def test_the_device_lets_the_data_go_after_an_error():
    class Fail(Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            raise RuntimeError("mine")

    trainer = Trainer(
        DenseNet(4, rngs=nnx.Rngs(0)), data_of(), callbacks=[Fail()], log_dir=None,
        progress_bar=False,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="mine"):
        trainer.fit()
    assert not trainer._train_data
    assert not trainer._in_flight


# ---- Bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "many"])
def test_a_wrong_number_of_steps_a_dispatch_is_refused(steps):
    with pytest.raises(ValueError, match="`steps_per_execution`"):
        Trainer(DenseNet(4, rngs=nnx.Rngs(0)), data_of(), steps_per_execution=steps)


def test_keeping_data_on_the_device_that_are_no_arrays_is_refused():
    batches = [tiny_arrays(num=8)]
    with pytest.raises(ValueError, match=r"`keep_on_device` \(=True\) needs a train split of arr"):
        DataModule(batches, keep_on_device=True)
    with pytest.raises(ValueError, match=r"`keep_on_device` \(='yes'\)"):
        DataModule(tiny_arrays(num=8), batch_size=4, keep_on_device="yes")


def test_arrays_that_take_much_of_the_device_are_sent_batch_by_batch(monkeypatch):
    data = data_of()
    sharding = Placement().replicated
    assert data.on_device(sharding) is not None
    size = sum(array.nbytes for array in data.train.arrays().values())
    monkeypatch.setattr("nnx_alexnet.data.module.device_memory", lambda: 4 * size - 1)
    assert data.on_device(sharding) is None
    assert data_of(keep_on_device=True).on_device(sharding) is not None


def test_labels_outside_the_classes_are_refused_before_the_first_step_of_resident_data():
    images, labels = tiny_arrays(num=64, size=12)
    with pytest.raises(ValueError, match="labels from 0 to 9"):
        fitted(4, data=DataModule((images, np.where(labels == 3, 9, labels)), batch_size=8))
