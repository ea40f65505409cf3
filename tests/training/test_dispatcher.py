"""Several steps in one dispatch, and data that stay on the device: faster, and nothing else."""

import logging
import math
import threading
import time

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from helpers import TinyNet, tiny_arrays, tree_equal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from nnx_alexnet import Classification, DataModule, Trainer, create_optimizer
from nnx_alexnet.callbacks import (
    BETWEEN_DISPATCHES,
    Callback,
    CallbackList,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
    TensorBoard,
)
from nnx_alexnet.data import ImageTransform
from nnx_alexnet.devices.named_arrays import named_leaves
from nnx_alexnet.devices.sharding import Placement
from nnx_alexnet.training import batch_groups as loop
from nnx_alexnet.training.steps_per_dispatch import Pushback, choose_steps

OPTIMIZED = True


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


def quiet():
    """A TensorBoard without pictures, whose programs take longer to compile than a step."""
    return TensorBoard(images=False, histograms=False, texts=False)


def fitted(steps, *, data=None, callbacks=(), **arguments):
    trainer = Trainer(
        DenseNet(4, rngs=nnx.Rngs(0)),
        data_of() if data is None else data,
        optimizer=create_optimizer(schedule="cosine", num_steps=18, warmup_steps=2),
        steps_per_execution=steps,
        callbacks=[*callbacks, quiet()],
        **{"max_epochs": 2, "log_dir": None, "progress_bar": False, **arguments},
    )
    return trainer, trainer.fit()


def untimed(history):
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in history]


@pytest.fixture(scope="module")
def step_by_step():
    """A run of one step in each dispatch, and its history."""
    return fitted(1, data=data_of(num=70, drop_last=False, keep_on_device=False))


@pytest.mark.parametrize("steps", [2, pytest.param(5, marks=pytest.mark.slow), 64])
@pytest.mark.parametrize("keep_on_device", [True, False])
def test_any_number_of_steps_a_dispatch_ends_with_the_same_bits(
    step_by_step, steps, keep_on_device
):
    """Dropout, BatchNorm, augmentation, Adam and a schedule included; a ragged batch too."""
    one, history = step_by_step
    data = data_of(num=70, drop_last=False, keep_on_device=keep_on_device)
    many, other_history = fitted(steps, data=data)
    assert tree_equal(nnx.state(one.model), nnx.state(many.model))
    assert untimed(history) == untimed(other_history)
    assert many.num_compilations == {"train": 2, "evaluate": 1}  # 8 and 6 examples


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
        steps_per_execution=3, max_epochs=2, progress_bar=False, callbacks=[quiet()],
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
    assert not trainer.data_is_on_device
    assert not trainer._fit_loop.dispatcher.is_busy


# ---- Batches of several sizes ------------------------------------------------------------------


class Coupled(Classification):
    """A loss in which the examples of a batch are coupled: padding anywhere would change it."""

    def outputs(self, model, batch):
        outputs = super().outputs(model, batch)
        logits = outputs["logits"]
        spread = jnp.square(logits - logits.mean(axis=0)).sum(axis=1)
        return {**outputs, "loss": outputs["loss"] + 0.1 * spread + 0.01 * len(logits)}


class NormNet(nnx.Module):
    """BatchNorm before anything else, whose statistics are those of the batches."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.bn = nnx.BatchNorm(6, momentum=0.7, rngs=rngs)
        self.dense = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, image):
        return self.dense(self.bn(image))


def tabular(num=40, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(1.0, 2.0, (num, 6)).astype(np.float32)
    return images, rng.integers(0, 4, num).astype(np.int32)


def plain_loop(batches, task, rate=0.05):
    """Flax and optax alone, with each batch as it is: the model, and the loss over all examples."""
    model = NormNet()
    optimizer = nnx.Optimizer(model, optax.sgd(rate), wrt=nnx.Param)
    total = count = 0

    def loss_of(model, batch):
        losses = task.outputs(model, batch)["loss"]
        return losses.mean(), losses

    for images, labels in batches:
        batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
        model.train()
        (_, losses), gradients = nnx.value_and_grad(loss_of, has_aux=True)(model, batch)
        optimizer.update(model, gradients)
        total, count = total + float(losses.sum()), count + len(labels)
    return nnx.state(model), total / count


def as_steps(state):
    return {name: np.asarray(leaf, np.float64) for name, leaf in named_leaves(state).items()}


def fitted_norm(data, *, epochs=1, rate=0.05, callbacks=(), **arguments):
    trainer = Trainer(
        NormNet(), data, optimizer=optax.sgd(rate), callbacks=[*callbacks, quiet()],
        **{"max_epochs": epochs, "log_dir": None, "progress_bar": False, **arguments},
    )  # fmt: skip
    return trainer, trainer.fit()


class Batches(Callback):
    """Keeps the images of each train batch, and how many examples were counted."""

    def __init__(self):
        self.batches, self.epochs = [], []

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        assert batch["mask"].all()
        self.batches.append((batch["image"], batch["label"]))

    def on_train_epoch_end(self, trainer):
        self.epochs.append(trainer.num_examples)


def cut(arrays, sizes):
    ends = np.cumsum(sizes)
    return [tuple(a[end - n : end] for a in arrays) for n, end in zip(sizes, ends, strict=True)]


@pytest.mark.parametrize(
    ("form", "steps"),
    [
        ("arrays", 1),
        ("on the device", "auto"),
        ("dataset", "auto"),
        ("list", 1),
        ("loader", "auto"),
    ],
)
def test_a_ragged_epoch_equals_a_plain_loop_without_any_padding(form, steps):
    """BatchNorm's statistics, the parameters and the loss, though the examples are coupled."""
    arrays, seen = tabular(num=43), Batches()
    kept = {"keep_on_device": form == "on the device"}
    options = {"batch_size": 16, "drop_last": False}
    data = {
        "arrays": lambda: DataModule(arrays, **options, **kept),
        "on the device": lambda: DataModule(arrays, **options, **kept),
        "dataset": lambda: DataModule([*zip(*arrays, strict=True)], **options),
        "list": lambda: DataModule(cut(arrays, [16, 16, 11])),
        "loader": lambda: DataModule(
            DataLoader(TensorDataset(*map(torch.from_numpy, arrays)), batch_size=16)
        ),
    }[form]()
    trainer, history = fitted_norm(
        data, task=Coupled(), callbacks=[seen], epochs=2, steps_per_execution=steps
    )
    assert [len(labels) for _, labels in seen.batches] == [16, 16, 11] * 2
    assert seen.epochs == [43, 43]
    state, loss = plain_loop(seen.batches, Coupled())
    found, expected = as_steps(nnx.state(trainer.model)), as_steps(state)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
    assert np.mean([row["train/loss"] for row in history]) == pytest.approx(loss, rel=1e-5)
    assert trainer.num_compilations["train"] == 2


@pytest.mark.parametrize(
    ("sizes", "steps"),
    [
        ([4, 16, 16, 16], "auto"),  # the first one small
        ([16, 8, 8, 16, 5], "auto"),
        ([8, 8, 8, 24, 24], 3),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [([16, 16, 3], 3), ([16, 8, 8, 16, 5], 1), ([1, 1, 30], "auto")]
        ),
    ],
    ids=str,
)
def test_an_iterable_of_batches_of_any_sizes_equals_a_plain_loop(sizes, steps):
    batches, seen = cut(tabular(num=sum(sizes)), sizes), Steps(every_n_steps=2)
    trainer, history = fitted_norm(
        DataModule(batches), task=Coupled(), epochs=2, steps_per_execution=steps,
        callbacks=[seen], log_every_n_steps=3,
    )  # fmt: skip
    state, loss = plain_loop(batches * 2, Coupled())
    found, expected = as_steps(nnx.state(trainer.model)), as_steps(state)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=2e-4, atol=2e-5, err_msg=name)
    assert np.mean([row["train/loss"] for row in history]) == pytest.approx(loss, rel=1e-5)
    assert trainer.num_compilations["train"] == len({*sizes})
    assert trainer.global_step == 2 * len(sizes)
    assert trainer.steps_per_epoch == len(sizes)
    assert (trainer.epoch, trainer.step_in_epoch) == (2, 0)
    starts = np.cumsum([0, *sizes])
    in_epoch = [list(range(starts[n], starts[n + 1])) for n in range(len(sizes))]
    assert seen.ends == [(n, (n - 1) % len(sizes)) for n in range(2, 2 * len(sizes) + 1, 2)]
    assert seen.indices == [in_epoch[index] for _, index in seen.ends]


@pytest.mark.parametrize("steps", [1, 64])
def test_rows_that_a_mask_leaves_out_reach_no_statistic_and_no_step(steps):
    images, labels = tabular(num=24)
    images[20:] = labels[20:] = 10**6  # padding of a user's own, in the last batch
    masks = np.ones((3, 8), bool)
    masks[2, 4:] = False
    nothing = {"image": images[:8] + np.nan, "label": labels[:8], "mask": np.zeros(8, bool)}
    padded = [
        nothing,
        *({"image": i, "label": y, "mask": m}
          for (i, y), m in zip(cut((images, labels), [8, 8, 8]), masks, strict=True)),
        nothing,
    ]  # fmt: skip
    trainer, history = fitted_norm(
        DataModule(padded), task=Coupled(), epochs=2, steps_per_execution=steps
    )
    other, expected = fitted_norm(
        DataModule(cut((images, labels), [8, 8, 4])), task=Coupled(), epochs=2,
        steps_per_execution=steps,
    )  # fmt: skip
    assert tree_equal(nnx.state(trainer.model), nnx.state(other.model))
    assert untimed(history) == untimed(expected)
    assert trainer.global_step == other.global_step == 6
    assert trainer.steps_per_epoch == 3


@pytest.mark.parametrize(
    ("max_steps", "steps"),
    [(2, 4), (3, 4), *(pytest.param(n, s, marks=pytest.mark.slow) for n, s in [(5, 1), (6, 4)])],
)
def test_a_ragged_run_that_was_stopped_anywhere_goes_on_to_the_same_bits(
    tmp_path, max_steps, steps
):
    """Also between the full batches and the smaller one, and right after that."""

    def data():
        return DataModule(tabular(num=43), tabular(num=9, seed=1), batch_size=16, drop_last=False)

    whole, history = fitted_norm(data(), epochs=3, steps_per_execution=steps)
    options = {"epochs": 3, "log_dir": tmp_path, "steps_per_execution": steps}
    fitted_norm(data(), max_steps=max_steps, **options)
    trainer = Trainer(
        NormNet(), data(), optimizer=optax.sgd(0.05), max_epochs=3, log_dir=tmp_path,
        steps_per_execution=3, progress_bar=False, callbacks=[quiet()],
    )  # fmt: skip
    resumed = trainer.fit(resume="auto")
    assert trainer.global_step == whole.global_step == 9
    assert tree_equal(nnx.state(whole.model), nnx.state(trainer.model))
    for name in ("val/loss", "train/loss"):
        assert resumed[-1][name] == history[-1][name]


@pytest.mark.parametrize(
    ("form", "max_steps", "epoch", "step_in_epoch"),
    [
        ("list", 2, 0, 2),
        ("list", 3, 1, 0),
        ("claims too few", 2, 0, 2),
        ("claims too few", 3, 1, 0),
        ("claims too many", 4, 1, 1),
        ("claims too many", 6, 2, 0),  # it was counted in the first epoch
        ("claims nothing", 3, 0, 3),  # nothing says that the pass was at its end
        ("claims nothing", 6, 2, 0),
    ],
)
def test_an_epoch_that_max_steps_ends_is_whole_if_no_batch_is_left(
    form, max_steps, epoch, step_in_epoch, warnings
):
    batches = cut(tabular(num=40), [16, 16, 8])

    class Iterable:
        def __iter__(self):
            return iter(batches)

        def __len__(self):
            return {"claims too few": 2, "claims too many": 5}[form]

    trainer, _ = fitted_norm(
        DataModule(batches if form == "list" else Iterable()), epochs=5, max_steps=max_steps
    )
    assert trainer.global_step == max_steps
    assert (trainer.epoch, trainer.step_in_epoch) == (epoch, step_in_epoch)


def test_the_sizes_of_an_iterables_batches_are_reported_once(warnings):
    warnings.set_level(logging.INFO, logger="nnx_alexnet")
    fitted_norm(DataModule(cut(tabular(num=40), [16, 8, 16])), epochs=3)
    said = [r.getMessage() for r in warnings.records]
    assert (
        said.count(
            "The batches of `train` have 2 sizes (16, 8); the train step was compiled for each."
        )
        == 1
    )
    warnings.clear()
    fitted_norm(DataModule(cut(tabular(num=40), [16, 16, 8])[:2]), epochs=2)
    fitted_norm(DataModule(tabular(num=40), batch_size=16, drop_last=False), epochs=2)
    assert not any("sizes" in r.getMessage() for r in warnings.records)


def test_more_sizes_than_anybody_means_are_a_warning(warnings, monkeypatch):
    monkeypatch.setattr(loop, "_MANY_SIZES", 2)
    trainer, _ = fitted_norm(DataModule(cut(tabular(num=10), [1, 2, 3, 4])), epochs=2)
    said = [r.getMessage() for r in warnings.records if r.levelname == "WARNING"]
    assert len(said) == 1
    assert said[0].startswith("`train` has given batches of 3 sizes so far (1, 2, ...)")
    assert trainer.num_compilations["train"] == 4


def test_a_second_fit_compiles_no_size_again():
    trainer, _ = fitted_norm(DataModule(cut(tabular(num=40), [16, 8, 16])), epochs=2)
    trainer.fit()
    assert trainer.num_compilations["train"] == 2


def test_the_compilation_of_another_size_is_no_part_of_the_speed(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    class Slow(Trainer):
        def _dispatch(self, group, key):
            before = self._steps.traces["train"]
            results = super()._dispatch(group, key)
            jax.block_until_ready(results)
            clock[0] += 1.0 if self._steps.traces["train"] == before else 1000.0
            return results

    data = DataModule(cut(tabular(num=80), [16, 16, 16, 16, 8, 8]))
    trainer = Slow(
        NormNet(), data, max_epochs=1, log_dir=None, progress_bar=False, steps_per_execution=1
    )
    trainer.fit()
    assert trainer.num_compilations["train"] == 2
    # From the end of the first step on: four steps of a second each, and one that was compiled.
    assert trainer.metrics["perf/images_per_second"] == pytest.approx((80 - 16) / 4)


def test_an_evaluation_takes_batches_larger_than_its_first_one():
    arrays = tabular(num=40)
    splits = [cut(arrays, sizes) for sizes in ([4, 20, 1, 15], [20, 20])]
    found = []
    for split in splits:
        trainer, history = fitted_norm(DataModule([arrays], split, split))
        found.append([history[0]["val/loss"], history[0]["val/accuracy"], *trainer.test().values()])
        np.testing.assert_allclose(trainer.predict(), trainer.predict(arrays[0]), atol=1e-6)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


def test_a_sampler_that_is_resumed_gives_the_order_of_its_epoch(tmp_path):
    """Each epoch begins with `set_epoch`, so that a run that was stopped after one goes on."""
    arrays = tuple(map(torch.from_numpy, tabular(num=40)))

    def data():
        dataset = TensorDataset(*arrays)
        sampler = DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=True, seed=3)
        return DataModule(DataLoader(dataset, batch_size=16, sampler=sampler))

    seen, resumed = Batches(), Batches()
    whole, _ = fitted_norm(data(), epochs=4, callbacks=[seen])
    orders = [np.concatenate([y for _, y in seen.batches[i : i + 3]]) for i in range(0, 12, 3)]
    assert len({order.tobytes() for order in orders}) == 4
    fitted_norm(data(), epochs=2, log_dir=tmp_path)
    trainer = Trainer(
        NormNet(), data(), optimizer=optax.sgd(0.05), max_epochs=4, log_dir=tmp_path,
        callbacks=[resumed], progress_bar=False,
    )  # fmt: skip
    trainer.fit(resume="auto")
    for (image, _), (other, _) in zip(resumed.batches, seen.batches[6:], strict=True):
        np.testing.assert_array_equal(image, other)
    assert tree_equal(nnx.state(whole.model), nnx.state(trainer.model))


def test_two_trainers_in_two_threads_end_as_each_does_alone():
    """Their datasets draw from the global generators, which both trainers seed."""

    class Random:
        def __len__(self):
            return 24

        def __getitem__(self, index):
            noise = np.random.normal(size=6)
            time.sleep(1e-4)
            return np.float32(noise + np.random.normal(size=6)), index % 4

    def train(seed, found):
        trainer, history = fitted_norm(DataModule(Random(), batch_size=8), epochs=3, seed=seed)
        found[seed] = nnx.state(trainer.model), untimed(history)

    alone, together = {}, {}
    for seed in (1, 2):
        train(seed, alone)
    threads = [threading.Thread(target=train, args=(seed, together)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        assert tree_equal(together[seed][0], alone[seed][0])
        assert together[seed][1] == alone[seed][1]


def test_an_epoch_of_very_many_dispatches_does_not_pile_up():
    """The batches that a dispatch leaves are given back, at the same cost each time."""
    items = Pushback(iter(range(400_000)))
    total = 0
    while (first := next(items, None)) is not None:
        items.push([first])
        items.push([])
        total += next(items)
    assert total == sum(range(400_000))


def test_what_is_given_back_comes_next_in_its_order():
    items = Pushback([1, 2, 3, 4])
    first, second = next(items), next(items)
    items.push([second])
    items.push([first])
    assert [*items] == [1, 2, 3, 4]
    items.push([9])
    assert [*items] == [9]


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
    monkeypatch.setattr("nnx_alexnet.data.data_module.device_memory", lambda: 4 * size - 1)
    assert data.on_device(sharding) is None
    assert data_of(keep_on_device=True).on_device(sharding) is not None


def test_labels_outside_the_classes_are_refused_before_the_first_step_of_resident_data():
    images, labels = tiny_arrays(num=64, size=12)
    with pytest.raises(ValueError, match="labels from 0 to 9"):
        fitted(4, data=DataModule((images, np.where(labels == 3, 9, labels)), batch_size=8))
