"""Layers that the user froze stay frozen, and a `__call__` that asks for the mode is told it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from nnx_alexnet import DataModule, Task, Trainer
from nnx_alexnet.models.modes import define, frozen_layers, tell_mode

X = np.random.default_rng(0).normal(3, 1, size=(64, 4)).astype(np.float32)
Y = (X[:, 0] > 3).astype(np.int32)


def fit(model, **arguments):
    arguments = {"max_epochs": 2, "log_dir": None, "progress_bar": False, **arguments}
    trainer = Trainer(model, DataModule((X, Y), (X, Y), batch_size=64), **arguments)
    return trainer, trainer.fit()


def moments(num_steps, momentum=0.9):
    """BatchNorm's running mean and variance after so many steps on all of X."""
    mean, var = np.zeros(4), np.ones(4)
    for _ in range(num_steps):
        mean = momentum * mean + (1 - momentum) * X.mean(axis=0)
        var = momentum * var + (1 - momentum) * X.var(axis=0)
    return mean, var


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


def test_the_model_keeps_its_modes():
    model = Net(frozen_norm=True)
    define(model)
    assert (model.norm.use_running_average, model.dropout.deterministic) == (True, False)


def told(name, *, training_value, default):
    """A model whose `__call__` has an argument of this name for its mode."""

    class Told(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
            self.head = nnx.Linear(4, 2, rngs=rngs)

        def forward(self, x, value):
            is_training = value if training_value else not value
            return self.head(self.norm(x, use_running_average=not is_training))

    namespace: dict = {}
    sign = f"{name}={default}" if default is not None else name
    exec(f"def __call__(self, x, {sign}): return self.forward(x, {name})", namespace)
    Told.__call__ = namespace["__call__"]
    return Told()


@pytest.mark.parametrize(
    ("name", "training_value", "default"),
    [
        ("train", True, False), ("train", True, True), ("train", True, None),
        ("training", True, False), ("is_training", True, False), ("is_train", True, False),
        ("train_mode", True, False), ("eval", False, True), ("is_eval", False, True),
        ("train", True, 0), ("train", True, np.False_),
        ("deterministic", False, True), ("use_running_average", False, True),
        ("inference", False, True),
    ],
)  # fmt: skip
def test_an_argument_for_the_mode_gets_its_value(name, training_value, default):
    model = told(name, training_value=training_value, default=default)
    tell_mode(model, training=True)
    model(X)
    np.testing.assert_allclose(model.norm.mean[...], moments(num_steps=1)[0], rtol=1e-5)
    before = np.array(model.norm.mean[...])
    other = told(name, training_value=training_value, default=default)
    tell_mode(other, training=False)
    other(X)
    np.testing.assert_array_equal(other.norm.mean[...], np.zeros(4))
    model(X, **{name: not training_value})  # what the caller gives comes first
    np.testing.assert_array_equal(model.norm.mean[...], before)


def test_fit_and_validate_pass_the_mode_to_the_model():
    model = told("train", training_value=True, default=False)
    trainer, history = fit(model, optimizer=optax.set_to_zero())
    mean, var = moments(num_steps=2)
    np.testing.assert_allclose(model.norm.mean[...], mean, rtol=1e-5)
    normed = (X - mean) / np.sqrt(var + 1e-5)
    logits = normed @ np.array(model.head.kernel[...])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, Y)
    assert trainer.validate()["val/loss"] == pytest.approx(float(losses.mean()), rel=1e-4)
    assert history[-1]["val/loss"] == pytest.approx(float(losses.mean()), rel=1e-4)


def test_a_custom_task_need_not_pass_the_mode():
    class Mine(Task):
        def outputs(self, model, batch):
            logits = model(batch["image"])
            labels = batch["label"]
            return {"loss": optax.softmax_cross_entropy_with_integer_labels(logits, labels)}

    model = told("train", training_value=True, default=False)
    fit(model, task=Mine(), max_epochs=1)
    np.testing.assert_allclose(model.norm.mean[...], moments(num_steps=1)[0], rtol=1e-5)


class Inner(nnx.Module):
    """Is told its mode by an argument, which the model around it forgets."""

    def __init__(self):
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=nnx.Rngs(0))

    def __call__(self, x, train=False):
        return self.norm(x, use_running_average=not train)


@pytest.mark.parametrize("kind", ["forgotten", "passed on", "frozen"])
def test_statistics_that_are_never_updated_are_reported(warnings, kind):
    class Outer(nnx.Module):
        def __init__(self):
            self.inner, self.head = Inner(), nnx.Linear(4, 2, rngs=nnx.Rngs(0))

        def __call__(self, x, train=False):
            return self.head(self.inner(x, train) if kind == "passed on" else self.inner(x))

    model = Outer()
    if kind == "frozen":
        model.inner.eval()
    fit(model)
    text = "The statistics of inner/norm are not updated in training, although"
    assert (text in warnings.text) == (kind == "forgotten")
    assert bool(model.inner.norm.mean[...].any()) == (kind == "passed on")


def test_arguments_with_other_meanings_are_not_set():
    class Other(nnx.Module):
        def __call__(self, x, train=0.5, deterministic="yes", *, inference=3):
            return train, deterministic, inference

    model = Other()
    tell_mode(model, training=True)
    assert type(model) is Other
    assert model(None) == (0.5, "yes", 3)


def test_a_model_with_a_mode_argument_keeps_its_class():
    model = told("train", training_value=True, default=False)
    model_class = type(model)
    tell_mode(model, training=True)
    assert isinstance(model, model_class)
    assert type(model).__name__ == model_class.__name__
    definition, state = nnx.split(model)
    assert isinstance(nnx.merge(definition, state), model_class)


def test_an_unknown_required_argument_is_refused_by_name(tmp_path):
    class Asks(nnx.Module):
        def __init__(self):
            self.head = nnx.Linear(4, 2, rngs=nnx.Rngs(0))

        def __call__(self, x, context):
            return self.head(x) + context

    with pytest.raises(ValueError, match=r"do not fit together.*TypeError.*'context'"):
        fit(Asks(), log_dir=tmp_path)
    assert not any(tmp_path.iterdir())


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return linen.Dense(2)(linen.Dropout(0.5, deterministic=not train)(x))


def test_a_linen_model_updates_its_statistics():
    model = nnx.bridge.ToNNX(LinenNet(), rngs=nnx.Rngs(0))
    model.lazy_init(X[:1], train=False)
    _, history = fit(model)
    mean = model.BatchNorm_0["mean"][...]
    np.testing.assert_allclose(mean, moments(num_steps=2)[0], rtol=1e-5)
    assert history[-1]["val/loss"] < history[0]["val/loss"]


def test_a_linen_model_accepts_arguments_of_its_bridge():
    model = nnx.bridge.ToNNX(LinenNet(), rngs=nnx.Rngs(0))
    model.lazy_init(X[:1], train=False)
    before = model.BatchNorm_0["mean"][...]
    tell_mode(model, training=True)
    assert model(X[:4], mutable=["batch_stats"]).shape == (4, 2)
    assert (model.BatchNorm_0["mean"][...] != before).all()


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
    with pytest.raises(ValueError, match=r"adds `hidden/bias`, .*call it once, model\(images\)"):
        fit(model, log_dir=tmp_path)
    assert not any(tmp_path.iterdir())
    model(X)
    _, history = fit(model)
    assert history[-1]["train/loss"] < history[0]["train/loss"]


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
