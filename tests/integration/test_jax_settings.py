"""Trains in the modes of JAX that are meant to find errors, and with what others set up."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import tiny_arrays

from nnx_alexnet import DataModule, Task, Trainer, create_optimizer, load_checkpoint
from nnx_alexnet.callbacks import EarlyStopping, TensorBoard
from nnx_alexnet.data import ImageTransform
from nnx_alexnet.devices.named_arrays import describe_leaf, named_leaves


class Net(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(64, 4, rngs=rngs)

    def __call__(self, image):
        return self.head(self.dropout(self.norm(image.reshape(len(image), -1))))


def run(log_dir, model):
    """All verbs, with all that looks at a run; returns the history and the predictions."""
    splits = (tiny_arrays(num=64), tiny_arrays(num=30, seed=1), tiny_arrays(num=30, seed=2))
    transform = ImageTransform(translate=0.2, flip=True)
    trainer = Trainer(
        model, DataModule(*splits, batch_size=16, transform=transform),
        optimizer=create_optimizer(schedule="cosine", num_steps=8), max_epochs=2,
        callbacks=[EarlyStopping(), TensorBoard(gradients=True)], log_dir=log_dir,
        log_every_n_steps=2, progress_bar=False,
    )  # fmt: skip
    history = trainer.fit()
    trainer.validate()
    trainer.test()
    load_checkpoint(trainer.run_dir, model)
    return history, trainer.predict()


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return run(tmp_path_factory.mktemp("usual"), Net())


@contextlib.contextmanager
def setting(name, value):
    """As `jax.config.update` at the head of a script, which holds for all threads."""
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


STRICT = [
    ("jax_debug_nans", True),
    ("jax_numpy_dtype_promotion", "strict"),
    ("jax_transfer_guard", "disallow"),
]
OTHERS = [
    ("jax_debug_infs", True),
    ("jax_numpy_rank_promotion", "raise"),
    ("jax_check_tracer_leaks", True),
    ("jax_legacy_prng_key", "error"),
    ("jax_debug_key_reuse", True),
    ("jax_disable_jit", True),
]


def check(tmp_path, usual, name, value, warnings, *, exactly=True):
    model = Net()  # its weights are drawn as JAX is
    with setting(name, value):
        history, predictions = run(tmp_path, model)
    assert "could not draw" not in warnings.text
    if exactly:
        assert history[-1]["val/loss"] == usual[0][-1]["val/loss"]
        np.testing.assert_array_equal(predictions, usual[1])
    else:
        np.testing.assert_allclose(predictions, usual[1], rtol=1e-4)


@pytest.mark.parametrize(("name", "value"), STRICT)
def test_a_strict_mode_changes_nothing(tmp_path, usual, name, value, warnings):
    check(tmp_path, usual, name, value, warnings)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), OTHERS)
def test_another_strict_mode_changes_nothing(tmp_path, usual, name, value, warnings):
    check(tmp_path, usual, name, value, warnings, exactly=name != "jax_disable_jit")


@pytest.mark.slow
def test_it_trains_with_64_bits(tmp_path, warnings):
    model = Net()
    with setting("jax_enable_x64", True):  # which draws other numbers
        history, predictions = run(tmp_path, model)
    assert "could not draw" not in warnings.text
    assert history[-1]["train/loss"] < history[0]["train/loss"]
    np.testing.assert_allclose(predictions.sum(axis=1), 1, rtol=1e-5)


# ---- Parameters of other kinds ------------------------------------------------------------------


class Complex(nnx.Module):
    def __init__(self):
        self.weight = nnx.Param(jnp.array([1 + 1j, 1 - 1j], jnp.complex64))

    def __call__(self, x):
        return x @ self.weight[...]


class Squared(Task):
    def outputs(self, model, batch):
        error = model(batch["image"]) - batch["label"].astype(jnp.complex64)
        return {"loss": jnp.square(jnp.abs(error))}


def test_complex_parameters_descend_and_are_saved(tmp_path):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(64, 2)).astype(np.float32)
    targets = (inputs @ np.array([0.5, -2.0])).astype(np.float32)
    model = Complex()
    trainer = Trainer(
        model, DataModule((inputs, targets), batch_size=32), task=Squared(),
        optimizer=optax.sgd(0.1), max_epochs=40, log_dir=tmp_path, progress_bar=False,
    )  # fmt: skip
    trainer.fit()
    np.testing.assert_allclose(model.weight[...], [0.5, -2.0], atol=1e-3)
    fresh = Complex()
    load_checkpoint(trainer.run_dir, fresh, which="last")
    np.testing.assert_array_equal(fresh.weight[...], model.weight[...])


def test_the_rate_is_real_for_complex_parameters(tmp_path):
    inputs = np.ones((64, 2), np.float32)
    trainer = Trainer(
        Complex(), DataModule((inputs, inputs[:, 0]), batch_size=32), task=Squared(),
        max_epochs=1, log_dir=tmp_path, progress_bar=False,
    )  # fmt: skip
    assert trainer.fit()[0]["lr"] == pytest.approx(1e-3)
    again = Trainer(
        Complex(), DataModule((inputs, inputs[:, 0]), batch_size=32), task=Squared(),
        max_epochs=2, log_dir=tmp_path, progress_bar=False,
    )  # fmt: skip
    assert [row["epoch"] for row in again.fit(resume="auto")] == [0, 1]


class Named(nnx.Module):
    """Keys that would have one path if they were only joined."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.layers = nnx.Dict({
            "a": nnx.Dict({"b": nnx.Linear(4, 4, rngs=rngs)}), "a/b": nnx.Linear(4, 4, rngs=rngs),
            "a.b": nnx.Linear(4, 4, rngs=rngs), "%2F é": nnx.Linear(4, 2, rngs=rngs),
        })  # fmt: skip
        self.pair = nnx.Variable((jnp.ones(2), {"x": jnp.zeros(3)}))

    def __call__(self, x):
        for layer in (self.layers["a"]["b"], self.layers["a/b"], self.layers["a.b"]):
            x = layer(x)
        return self.layers["%2F é"](x)


def test_keys_with_separators_have_paths_of_their_own_and_are_saved(tmp_path):
    model, fresh = Named(), Named()
    assert [name for name in named_leaves(model) if name.endswith("kernel")] == [
        "layers/%252F é/kernel", "layers/a/b/kernel", "layers/a%2Eb/kernel", "layers/a%2Fb/kernel"
    ]  # fmt: skip
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    split = (x, (x[:, 0] > 0).astype(np.int32))
    trainer = Trainer(model, (split, split), max_epochs=1, log_dir=tmp_path, progress_bar=False)
    trainer.fit()
    load_checkpoint(trainer.run_dir, fresh)
    for name, leaf in named_leaves(model).items():
        np.testing.assert_array_equal(leaf, named_leaves(fresh)[name], err_msg=name)


@pytest.mark.parametrize(
    ("leaf", "text"),
    [
        (1.5, "float32[]"), (3, "int32[]"), (True, "bool[]"), (1j, "complex64[]"),
        (np.float64(2), "float32[]"), (np.arange(4), "int32[4]"), (np.ones(2), "float32[2]"),
        (jnp.ones(2, jnp.bfloat16), "bfloat16[2]"), (jax.random.key(0), "uint32[2]"),
    ],
)  # fmt: skip
def test_a_leaf_is_described_as_a_step_takes_it(leaf, text):
    assert describe_leaf(leaf) == text


class Constants(nnx.Module):
    def __init__(self):
        self.head = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
        self.mean, self.order = np.array([0.1, 0.2, 0.3, 0.4]), np.arange(4)
        self.scale, self.count = nnx.Param(1.0), nnx.Variable(3)

    def __call__(self, x):
        return self.head((x - self.mean)[:, self.order]) * self.scale[...]


def test_a_checkpoint_of_numpy_constants_and_python_numbers_loads_into_a_fresh_model(tmp_path):
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    split = (x, (x[:, 0] > 0).astype(np.int32))
    model, fresh = Constants(), Constants()
    trainer = Trainer(model, (split, split), max_epochs=1, log_dir=tmp_path, progress_bar=False)
    trainer.fit()
    load_checkpoint(trainer.run_dir, fresh)
    np.testing.assert_array_equal(fresh(x), model(x))
    assert float(fresh.scale[...]) == float(model.scale[...]) != 1.0


def test_a_checkpoint_is_loaded_where_explicit_transfers_are_disallowed(tmp_path):
    trainer = Trainer(
        Complex(), DataModule((np.ones((8, 2), np.float32), np.ones(8, np.float32)), batch_size=8),
        task=Squared(), max_epochs=1, log_dir=tmp_path, progress_bar=False,
    )  # fmt: skip
    trainer.fit()
    fresh = Complex()
    with jax.transfer_guard("disallow_explicit"):
        assert load_checkpoint(trainer.run_dir, fresh)["global_step"] == 1
