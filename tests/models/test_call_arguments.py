"""The arguments that a model's `__call__` gets: the mode and `rngs`; Linen modules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from normed import X, Y, fit, moments

from nnx_alexnet import Classification, Task
from nnx_alexnet.models.call_arguments import (
    drop_rngs,
    linen_modes,
    missing_arguments,
    pass_arguments,
    takes_rngs,
)
from nnx_alexnet.training.default_steps import train_step


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
    pass_arguments(model, training=True)
    model(X)
    np.testing.assert_allclose(model.norm.mean[...], moments(num_steps=1)[0], rtol=1e-5)
    before = np.array(model.norm.mean[...])
    other = told(name, training_value=training_value, default=default)
    pass_arguments(other, training=False)
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
    pass_arguments(model, training=True)
    assert type(model) is Other
    assert model(None) == (0.5, "yes", 3)


def test_a_model_with_a_mode_argument_keeps_its_class():
    model = told("train", training_value=True, default=False)
    model_class = type(model)
    pass_arguments(model, training=True)
    assert isinstance(model, model_class)
    assert type(model).__name__ == model_class.__name__
    definition, state = nnx.split(model)
    assert isinstance(nnx.merge(definition, state), model_class)


# ---- Random numbers -----------------------------------------------------------------------------


class Draws(nnx.Module):
    """Returns numbers from two streams of its argument."""

    def __call__(self, x, *, rngs=None):
        return None if rngs is None else (float(rngs.dropout.normal()), float(rngs.noise.normal()))


def drawn(seed, *, calls=1):
    model = Draws()
    pass_arguments(model, training=True, key=jax.random.key(seed))
    return [model(X) for _ in range(calls)]


def test_each_call_gets_its_own_random_numbers_and_the_key_repeats_them():
    numbers = [number for seed in (0, 1) for call in drawn(seed, calls=2) for number in call]
    assert len(set(numbers)) == 8
    assert drawn(0, calls=2) == drawn(0, calls=2)


def test_random_numbers_that_are_given_take_precedence():
    model = Draws()
    pass_arguments(model, training=False, key=jax.random.key(0))
    assert model(X, rngs=None) is None
    assert model(X, rngs=nnx.Rngs(5)) == Draws()(X, rngs=nnx.Rngs(5))


def test_without_a_key_nothing_is_passed():
    model = Draws()
    pass_arguments(model, training=True)
    assert type(model) is Draws
    assert model(X) is None


def test_random_numbers_are_no_part_of_the_state():
    model = Draws()
    pass_arguments(model, training=True, key=jax.random.key(0))
    model(X)
    assert len(nnx.to_flat_state(nnx.state(model))) == 2  # a key and its count
    drop_rngs(model)
    drop_rngs(model)
    assert len(nnx.to_flat_state(nnx.state(model))) == 0
    assert model(X) is None


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (nnx.Rngs, nnx.Rngs), (nnx.RngStream, nnx.RngStream), ("nnx.RngStream", nnx.RngStream),
        (nnx.Rngs | nnx.RngStream, nnx.Rngs), (nnx.RngStream | None, nnx.RngStream),
        ("Rngs | None", nnx.Rngs), (None, nnx.Rngs),
    ],
)  # fmt: skip
def test_the_annotation_chooses_the_type(annotation, expected):
    class Typed(nnx.Module):
        def __call__(self, x, rngs):
            return type(rngs)

    Typed.__call__.__annotations__["rngs"] = annotation
    model = Typed()
    pass_arguments(model, training=True, key=jax.random.key(0))
    assert model(X) is expected


def positional(self, x, rngs, /):
    return x


def keywords(self, x, **rngs):
    return x


@pytest.mark.parametrize("call", [positional, keywords, None])
def test_a_model_without_a_named_argument_gets_no_random_numbers(call):
    model = type("Model", (nnx.Module,), {} if call is None else {"__call__": call})()
    assert not takes_rngs(model)
    pass_arguments(model, training=True, key=jax.random.key(0))
    assert len(nnx.to_flat_state(nnx.state(model))) == 0


def test_a_line_search_evaluates_the_loss_with_the_noise_of_its_step():
    class Noisy(nnx.Module):
        def __init__(self):
            self.head = nnx.Linear(4, 2, rngs=nnx.Rngs(0))

        def __call__(self, x, rngs):
            return self.head(x + rngs.normal(x.shape))

    def update(updates, state, params, *, value, value_fn, **_):
        return jax.tree.map(jnp.zeros_like, updates), (value, value_fn(params), value_fn(params))

    zeros = (jnp.zeros(()),) * 3
    recorder = optax.GradientTransformationExtraArgs(lambda _: zeros, update)
    model = Noisy()
    optimizer = nnx.Optimizer(model, recorder, wrt=nnx.Param)
    pass_arguments(model, training=True, key=jax.random.key(0))
    batch = {"image": X, "label": Y, "mask": np.ones(64, bool)}
    train_step(Classification(), model, optimizer, batch)
    value, first, second = optimizer.opt_state
    assert float(value) == float(first) == float(second) > 0


# ---- Arguments that the trainer does not know ---------------------------------------------------


def call_error(model, *arguments, **named):
    with pytest.raises(TypeError) as raised:
        model(*arguments, **named)
    return missing_arguments(model, raised.value)


def test_a_missing_argument_is_reported_with_what_the_trainer_passes():
    class Asks(nnx.Module):
        def __call__(self, x, context, *, scale):
            return x

    text = call_error(Asks(), X, scale=1)
    assert text.startswith("`Asks.__call__` requires the argument `context`, which the trainer")
    assert "passes only the mode, such as `train` or `deterministic`, and `rngs`" in text
    assert "model(..., context=context) in its outputs(self, model, batch)" in text
    assert "requires the argument `scale`" in call_error(Asks(), X, X)

    class AsksTwo(Asks):
        def __call__(self, context, other):
            return context

    assert "requires the arguments `context`, `other`, which" in call_error(AsksTwo())


def test_a_missing_argument_of_a_layer_is_an_error_of_the_model():
    class Layer(nnx.Module):
        def __call__(self, x, context):
            return x

    class Model(nnx.Module):
        def __init__(self):
            self.layer = Layer()

        def __call__(self, x):
            return self.layer(x)

    assert call_error(Model(), X) is None


def test_a_required_argument_is_refused_before_anything_is_written(tmp_path):
    class Asks(nnx.Module):
        def __init__(self):
            self.head = nnx.Linear(4, 2, rngs=nnx.Rngs(0))

        def __call__(self, x, context):
            return self.head(x) + context

    with pytest.raises(ValueError, match="requires the argument `context`, which the trainer"):
        fit(Asks(), log_dir=tmp_path)
    assert not any(tmp_path.iterdir())


# ---- Linen modules ------------------------------------------------------------------------------


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
    pass_arguments(model, training=True)
    assert model(X[:4], mutable=["batch_stats"]).shape == (4, 2)
    assert (model.BatchNorm_0["mean"][...] != before).all()


def test_a_linen_module_within_a_model_updates_its_statistics():
    class Outer(nnx.Module):
        def __init__(self):
            self.inner = nnx.bridge.ToNNX(LinenNet(), rngs=nnx.Rngs(0))
            self.inner.lazy_init(X[:1], train=False)

        def __call__(self, x, train):
            return self.inner(x, train=train)

    model = Outer()
    fit(model)
    mean = model.inner.BatchNorm_0["mean"][...]
    np.testing.assert_allclose(mean, moments(num_steps=2)[0], rtol=1e-5)


class LinenCounter(linen.Module):
    """Counts its calls in training in a collection of its own, and sows."""

    @linen.compact
    def __call__(self, x, train=False):
        count = self.variable("counters", "count", lambda: jnp.zeros((), jnp.int32))
        if train:
            count.value += 1
        self.sow("intermediates", "inputs", x)
        return linen.Dense(2)(x)


def test_a_linen_module_updates_any_collection_and_sows_nothing():
    model = nnx.bridge.ToNNX(LinenCounter(), rngs=nnx.Rngs(0)).lazy_init(X[:1])
    names = [path for path, _ in nnx.to_flat_state(nnx.state(model))]
    fit(model)
    assert int(model.count[...]) == 2
    assert [path for path, _ in nnx.to_flat_state(nnx.state(model))] == names


def test_a_linen_module_whose_bridge_has_no_random_numbers_gets_them():
    model = nnx.bridge.ToNNX(linen.Dropout(0.5, deterministic=False), rngs=nnx.Rngs(0))
    assert not takes_rngs(model)
    model.to_nnx__rngs = None
    assert takes_rngs(model)
    pass_arguments(model, training=True, key=jax.random.key(0))
    first, second = model(np.ones(64)), model(np.ones(64))
    assert set(np.unique(first)) == {0, 2}
    assert (first != second).any()


def test_the_fields_for_the_mode_of_a_linen_module():
    dropout = nnx.bridge.ToNNX(linen.Dropout(0.5, deterministic=False))
    assert linen_modes(dropout) == {"deterministic": True}
    assert linen_modes(nnx.bridge.ToNNX(linen.Dropout(0.5))) == {}
    assert linen_modes(nnx.Dropout(0.5, deterministic=True)) == {}
    pass_arguments(dropout, training=False)
    assert linen_modes(dropout) == {"deterministic": False}
    assert dropout(X) is not None  # needs no random numbers
