"""Batches of several sizes are trained on as a plain loop does, without any padding."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from helpers import tree_equal
from small_runs import Steps
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from nnx_alexnet import Classification, DataModule, Trainer
from nnx_alexnet.callbacks import Callback, TensorBoard
from nnx_alexnet.devices.named_arrays import named_leaves

# Without pictures, whose programs take longer to compile than a step.
QUIET = TensorBoard(images=False, histograms=False, texts=False)


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
        NormNet(), data, optimizer=optax.sgd(rate), callbacks=[*callbacks, QUIET],
        **{"max_epochs": epochs, "log_dir": None, "progress_bar": False, **arguments},
    )  # fmt: skip
    return trainer, trainer.fit()


def untimed(history):
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in history]


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
        pytest.param("dataset", "auto", marks=pytest.mark.slow),
        pytest.param("list", 1, marks=pytest.mark.slow),
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
        ([4, 8, 8, 4, 8, 8], 3),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ([4, 16, 16, 16], "auto"),  # the first one small
                ([16, 8, 8, 16, 5], "auto"),
                ([16, 16, 3], 3),
                ([16, 8, 8, 16, 5], 1),
                ([1, 1, 30], "auto"),
                ([8, 8, 8, 24, 24], 3),
            ]
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


@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.slow), 64])
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
    [(2, 4), *(pytest.param(n, s, marks=pytest.mark.slow) for n, s in [(3, 4), (5, 1), (6, 4)])],
)
@pytest.mark.optimized
def test_a_ragged_run_resumed_anywhere_ends_with_the_same_bits(tmp_path, max_steps, steps):
    """Also between the full batches and the smaller one, and right after that."""

    def data():
        return DataModule(tabular(num=43), tabular(num=9, seed=1), batch_size=16, drop_last=False)

    whole, history = fitted_norm(data(), epochs=3, steps_per_execution=steps)
    options = {"epochs": 3, "log_dir": tmp_path, "steps_per_execution": steps}
    fitted_norm(data(), max_steps=max_steps, **options)
    trainer = Trainer(
        NormNet(), data(), optimizer=optax.sgd(0.05), max_epochs=3, log_dir=tmp_path,
        steps_per_execution=3, progress_bar=False, callbacks=[QUIET],
    )  # fmt: skip
    resumed = trainer.fit(resume="auto")
    assert trainer.global_step == whole.global_step == 9
    assert tree_equal(nnx.state(whole.model), nnx.state(trainer.model))
    for name in ("val/loss", "train/loss"):
        assert resumed[-1][name] == history[-1][name]


@pytest.mark.parametrize(
    ("form", "max_steps", "epoch", "step_in_epoch"),
    [
        ("claims too few", 3, 1, 0),
        ("claims too many", 6, 2, 0),  # it was counted in the first epoch
        ("claims nothing", 3, 0, 3),  # nothing tells that the pass was at its end
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

    trainer, _ = fitted_norm(DataModule(Iterable()), epochs=5, max_steps=max_steps)
    assert trainer.global_step == max_steps
    assert (trainer.epoch, trainer.step_in_epoch) == (epoch, step_in_epoch)


def test_a_second_fit_compiles_no_size_again():
    trainer, _ = fitted_norm(DataModule(cut(tabular(num=40), [16, 8, 16])), epochs=2)
    trainer.fit()
    assert trainer.num_compilations["train"] == 2


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
