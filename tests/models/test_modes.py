"""Layers that the user froze stay frozen; what a call leaves behind; noise in evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from normed import X, Y, fit, moments

from nnx_alexnet import DataModule, Task, Trainer
from nnx_alexnet.models.modes import define, frozen_layers


class Net(nnx.Module):
    """A norm and a dropout, each of which may be frozen."""

    def __init__(self, *, frozen_norm=False, frozen_dropout=False):
        rngs = nnx.Rngs(0)
        self.norm = nnx.BatchNorm(4, momentum=0.9, use_running_average=frozen_norm, rngs=rngs)
        self.dropout = nnx.Dropout(0.9, deterministic=frozen_dropout, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(self.norm(x)))


def test_a_layer_built_as_frozen_stays_frozen_in_training(warnings):
    model = Net(frozen_norm=True, frozen_dropout=True)
    logits = model(X)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()
    _, history = fit(model, optimizer=optax.set_to_zero())
    assert history[0]["train/loss"] == pytest.approx(float(expected), abs=1e-6)
    np.testing.assert_array_equal(model.norm.mean[...], np.zeros(4))
    assert "All layers with a mode (dropout, norm) are in evaluation mode" in warnings.text


def test_one_frozen_layer_does_not_freeze_others(warnings):
    warnings.set_level("INFO", logger="nnx_alexnet")
    model = Net()
    model.dropout.eval()
    fit(model, optimizer=optax.set_to_zero())
    mean, var = moments(num_steps=2)
    np.testing.assert_allclose(model.norm.mean[...], mean, rtol=1e-5)
    np.testing.assert_allclose(model.norm.var[...], var, rtol=1e-5)
    assert "Frozen in evaluation mode, as they were before fit(): dropout." in warnings.text


def test_a_layer_unfrozen_between_two_fits_is_trained_in_the_second():
    model = Net(frozen_norm=True)
    trainer, _ = fit(model, max_epochs=1)
    np.testing.assert_array_equal(model.norm.mean[...], np.zeros(4))
    model.train()
    trainer.fit()
    np.testing.assert_allclose(model.norm.mean[...], moments(num_steps=1)[0], rtol=1e-5)


def test_frozen_layers_returns_paths_and_whether_they_are_all():
    assert frozen_layers(Net()) == ([], False)
    assert frozen_layers(Net(frozen_norm=True)) == (["norm"], False)
    assert frozen_layers(Net(frozen_norm=True, frozen_dropout=True)) == (["dropout", "norm"], True)
    assert frozen_layers(nnx.Linear(2, 2, rngs=nnx.Rngs(0))) == ([], False)


@pytest.mark.parametrize("freezes", ["eval", "attribute", "argument"])
def test_layers_in_containers_stay_frozen(freezes):
    is_frozen = freezes == "argument"
    norm = nnx.BatchNorm(4, momentum=0.9, use_running_average=is_frozen, rngs=nnx.Rngs(0))
    blocks = nnx.List([nnx.Sequential(norm), nnx.BatchNorm(4, momentum=0.9, rngs=nnx.Rngs(0))])
    model = nnx.Sequential(lambda x: x, *blocks, nnx.Linear(4, 2, rngs=nnx.Rngs(0)))
    if freezes == "eval":
        model.layers[1].eval()
    elif freezes == "attribute":
        norm.use_running_average = True
    assert frozen_layers(model) == (["layers/1/layers/0"], False)
    fit(model, optimizer=optax.set_to_zero())
    np.testing.assert_array_equal(norm.mean[...], np.zeros(4))
    np.testing.assert_allclose(model.layers[2].mean[...], moments(num_steps=2)[0], rtol=1e-4)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_field_of_a_linen_module_may_be_its_mode(warnings, is_frozen):
    warnings.set_level("INFO", logger="nnx_alexnet")
    norm = linen.BatchNorm(use_running_average=is_frozen, momentum=0.9)
    bridge = nnx.bridge.ToNNX(norm, rngs=nnx.Rngs(0)).lazy_init(X[:1])
    model = nnx.Sequential(bridge, nnx.Linear(4, 2, rngs=nnx.Rngs(0)))
    assert frozen_layers(model) == (["layers/0"] * is_frozen, is_frozen)
    fit(model)
    expected = np.zeros(4) if is_frozen else moments(num_steps=2)[0]
    np.testing.assert_allclose(bridge.mean[...], expected, rtol=1e-5)
    assert bridge.to_nnx__module is norm
    assert ("(layers/0) are in evaluation mode" in warnings.text) == is_frozen


def test_the_model_keeps_its_modes():
    model = Net(frozen_norm=True)
    define(model)
    assert (model.norm.use_running_average, model.dropout.deterministic) == (True, False)


# ---- What a call leaves behind ----------------------------------------------------------------


class Sows(nnx.Module):
    def __init__(self):
        self.head = nnx.Linear(4, 2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        hidden = self.head(x)
        self.sow(nnx.Intermediate, "hidden", hidden)
        return hidden


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
@pytest.mark.parametrize("called_before", [False, True])
def test_intermediates_are_left_out_of_the_state(tmp_path, called_before):
    model, plain = Sows(), nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    if called_before:
        model(X)
    _, history = fit(model, log_dir=tmp_path)
    _, expected = fit(plain)
    assert history[-1]["train/loss"] == expected[-1]["train/loss"]
    np.testing.assert_array_equal(model.head.kernel[...], plain.kernel[...])


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_a_task_can_read_sown_values():
    class Penalised(Task):
        def outputs(self, model, batch):
            logits = model(batch["image"])
            (hidden,) = nnx.pop(model, nnx.Intermediate)["hidden"].get_value()
            return {"loss": jnp.square(hidden).mean(axis=-1) + 0 * logits.sum(axis=-1)}

    model = Sows()
    expected = float(jnp.square(model.head(X)).mean())
    _, history = fit(model, task=Penalised(), optimizer=optax.set_to_zero())
    assert history[0]["train/loss"] == pytest.approx(expected, rel=1e-6)


class Lazy(nnx.Module):
    """Makes a layer when it is called for the first time."""

    def __init__(self):
        self.head = nnx.Linear(4, 2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        if not hasattr(self, "hidden"):
            self.hidden = nnx.Linear(4, 4, rngs=nnx.Rngs(1))
        return self.head(self.hidden(x))


def test_layers_created_by_the_first_call_are_refused_before_it(tmp_path):
    model = Lazy()
    with pytest.raises(ValueError, match=r"adds `hidden/bias`, .*call it once on an example batch"):
        fit(model, log_dir=tmp_path)
    assert not any(tmp_path.iterdir())
    model(X)
    _, history = fit(model)
    assert history[-1]["train/loss"] < history[0]["train/loss"]


@pytest.mark.parametrize("kind", ["layer", "list", "variable"])
def test_a_call_that_adds_variables_in_training_is_refused_by_name(kind):
    class LazyInTraining(nnx.Module):
        def __init__(self):
            self.head, self.layers = nnx.Linear(4, 2, rngs=nnx.Rngs(0)), nnx.List([])

        def __call__(self, x, train):
            if train and kind == "layer":
                self.made = nnx.Linear(4, 4, rngs=nnx.Rngs(1))
                x = self.made(x)
            elif train and kind == "list":
                self.layers.append(nnx.Linear(4, 4, rngs=nnx.Rngs(1)))
                x = self.layers[-1](x)
            elif train:
                self.made = nnx.Cache(x)
            return self.head(x)

    name = {"layer": "made/bias", "list": "layers/0/bias", "variable": "made"}[kind]
    with pytest.raises(ValueError, match=f"adds or removes variables .* It adds `{name}`"):
        fit(LazyInTraining())


class Counts(nnx.Module):
    def __init__(self, count):
        self.head = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
        self.count = nnx.Variable(count)

    def __call__(self, x):
        self.count.set_value(self.count.get_value() + 0.5)
        return self.head(x)


def test_a_variable_must_keep_its_dtype(tmp_path):
    with pytest.raises(ValueError, match=r"`count` of int32\[\] that becomes float32\[\]"):
        fit(Counts(0), log_dir=tmp_path)
    assert not any(tmp_path.iterdir())
    model = Counts(0.0)
    fit(model)
    assert float(model.count[...]) == 1.0  # two train steps; evaluation leaves it alone


def test_a_variable_that_is_not_an_array_is_refused_by_name():
    class Named(nnx.Module):
        def __init__(self):
            self.head = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
            self.name = nnx.Variable("encoder")

        def __call__(self, x):
            return self.head(x)

    with pytest.raises(ValueError, match="variable `name` that holds 'encoder', which is not an"):
        fit(Named())


# ---- Noise in evaluation ------------------------------------------------------------------------


class Samples(nnx.Module):
    """Adds noise whose source is one of those that models have."""

    def __init__(self, source):
        self.head = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
        self.source = source
        if source == "rngs":
            self.rngs = nnx.Rngs(0, noise=1)
        elif source == "stream":
            self.stream = nnx.Rngs(noise=1).noise
        elif source == "dropout":
            self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(1))
        elif source == "key":
            self.key = nnx.Variable(jax.random.key(1))
        elif source == "count":
            self.count = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        x = self.head(x)
        if self.source == "rngs":
            return x + jax.random.normal(self.rngs.noise(), x.shape)
        if self.source == "stream":
            return x + jax.random.normal(self.stream(), x.shape)
        if self.source == "dropout":
            return self.dropout(x, deterministic=False)
        if self.source == "key":
            self.key[...], key = jax.random.split(self.key[...])
            return x + jax.random.normal(key, x.shape)
        self.count[...] = self.count[...] + 1
        return x + jax.random.normal(jax.random.key(self.count[...]), x.shape)


class Raw(Task):
    def outputs(self, model, batch):
        return {"loss": model(batch["image"]).mean(axis=-1)}


SOURCES = ["rngs", "stream", "dropout", "key", "count"]


@functools.cache
def predicted(source, *, calls=1):
    """What calls of predict give for equal rows, by call and batch."""
    data = DataModule((X, Y), batch_size=16)
    trainer = Trainer(Samples(source), data, task=Raw(), log_dir=None, progress_bar=False)
    rows = [trainer.predict(np.ones((48, 4), np.float32)) for _ in range(calls)]
    return [np.split(each, 3) for each in rows]


@pytest.mark.parametrize("source", SOURCES)
def test_each_batch_has_its_own_noise_and_the_seed_repeats_it(source):
    (batches,) = predicted(source)
    assert not np.array_equal(batches[0], batches[1])
    assert not np.array_equal(batches[1], batches[2])
    predicted.cache_clear()
    np.testing.assert_array_equal(predicted(source)[0], batches)


@pytest.mark.parametrize("source", ["rngs", "dropout", "key"])
def test_each_call_has_its_own_noise(source):
    first, second = predicted(source, calls=2)
    assert not np.array_equal(first[0], second[0])


def test_noise_is_the_same_for_any_number_of_devices_and_batch_by_batch():
    rows = np.ones((20, 4), np.float32)

    def passes(devices):
        data = DataModule((X, Y), batch_size=6)  # padded to 8 on 4 devices
        trainer = Trainer(
            Samples("rngs"), data, task=Raw(), devices=devices, log_dir=None, progress_bar=False
        )
        first = np.concatenate(list(trainer.predict_batches(rows)))
        return first, trainer.predict(rows)

    alone, second = passes(1)
    assert not np.isclose(alone, second).any()
    for devices in (2, 4):
        for found, expected in zip(passes(devices), (alone, second), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_noise_in_validation_does_not_affect_training():
    def losses(validate_every_n_epochs):
        trainer = Trainer(
            Samples("dropout"), DataModule((X, Y), (X, Y), batch_size=16), max_epochs=4,
            optimizer=optax.set_to_zero(), validate_every_n_epochs=validate_every_n_epochs,
            log_dir=None, progress_bar=False,
        )  # fmt: skip
        return trainer.fit()

    each, last = losses(1), losses(4)
    assert each[-1]["train/loss"] == last[-1]["train/loss"]
    assert each[-1]["val/loss"] == last[-1]["val/loss"]  # a function of the step
    assert len({row["val/loss"] for row in each}) == 4


def test_a_model_without_random_numbers_carries_no_keys():
    trainer, _ = fit(Net())
    assert trainer._arrays.steps._functions.carried == {"evaluate": []}
