"""Models of all kinds train with all defaults on, resume exactly, and have a table of layers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from helpers import At, event_values, press_ctrl_c, tree_allclose, tree_equal
from normed import X, Y, fit

from nnx_alexnet import DataModule, Task, Trainer

SEQUENCES = np.random.default_rng(0).normal(size=(64, 5, 4)).astype(np.float32)


class LinenNet(linen.Module):
    """A norm, a dropout whose rate may be zero, and a mode as an argument."""

    rate: float = 0.5

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = linen.Dropout(self.rate, deterministic=not train)(linen.relu(linen.Dense(8)(x)))
        return linen.Dense(2)(x)


def linen_net(rate=0.5):
    model = nnx.bridge.ToNNX(LinenNet(rate), rngs=nnx.Rngs(0))
    return model.lazy_init(X[:1], train=False)


class WithHead(nnx.Module):
    """Layers, and a classifier of their output."""

    def __init__(self, num_features, **layers):
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.head = nnx.Linear(num_features, 2, rngs=nnx.Rngs(0))


class Recurrent(WithHead):
    def __call__(self, x):
        return self.head(self.rnn(x)[:, -1])


def recurrent(rngs):
    both = (nnx.RNN(nnx.LSTMCell(4, 6, rngs=rngs), rngs=rngs) for _ in range(2))
    return Recurrent(12, rnn=nnx.Bidirectional(*both, rngs=rngs))


class LowRank(WithHead):
    def __call__(self, x):
        return self.head(nnx.relu(self.second(self.first(x))))


def low_rank(rngs):
    base = nnx.Linear(4, 8, rngs=rngs)
    return LowRank(
        8,
        first=nnx.LoRA(4, 2, 8, base_module=base, rngs=rngs),
        second=nnx.LoRALinear(8, 8, lora_rank=2, rngs=rngs),
    )


class Containers(WithHead):
    """Layers in a list and in a dict, one of them twice, and parameters of odd kinds."""

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        angles = jnp.angle(self.parts["phase"] * jnp.exp(1j * x))
        return self.head(angles) * self.parts["scale"] ** self.power


def containers(rngs):
    layer = nnx.Linear(4, 4, rngs=rngs)
    return Containers(
        4,
        layers=nnx.List([layer, nnx.Sequential(lambda x: 2 * x, nnx.tanh), layer]),
        parts=nnx.Dict(scale=nnx.Param(2.0), phase=nnx.Param(jnp.ones(4, jnp.complex64))),
        power=nnx.Variable(jnp.int32(2)),
    )


class Noisy(WithHead):
    """Gets its mode and its random numbers from each call."""

    def __call__(self, x, *, training, rngs):
        return self.head(self.dropout(x, deterministic=not training, rngs=rngs) + rngs.normal((4,)))


class Sows(WithHead):
    def __call__(self, x):
        self.sow(nnx.Intermediate, "inputs", x)
        return self.perturb("logits", self.head(x))


class Stacked(WithHead):
    """Three layers whose parameters are stacked, in a scan that is compiled by itself."""

    @nnx.jit
    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x, layer):
            return nnx.relu(layer(x))

        return self.head(forward(x, self.stack))


def stacked(rngs):
    @nnx.split_rngs(splits=3)
    @nnx.vmap(axis_size=3)
    def make(rngs):
        return nnx.Linear(4, 4, rngs=rngs)

    return Stacked(4, stack=make(rngs))


def normed(rngs):
    return nnx.SpectralNorm(nnx.Linear(4, 2, rngs=rngs), rngs=rngs)


# Name: how to make the model, and a row of its table.
MODELS = {
    "linen": (lambda rngs: linen_net(), "(model) LinenNet float32[16,4] float32[16,2] 66"),
    "recurrent": (recurrent, "rnn/forward_rnn/cell/ii Linear float32[16,4] float32[16,6] 24"),
    "low rank": (low_rank, "first LoRA float32[16,4] float32[16,8] 24"),
    "containers": (containers, "layers/0 Linear float32[16,4] float32[16,4] 20"),
    "random": (lambda rngs: Noisy(4, dropout=nnx.Dropout(0.5)), "dropout Dropout float32[16,4]"),
    "sows": (lambda rngs: Sows(4), "head Linear float32[16,4] float32[16,2] 10"),
    "stacked": (stacked, "stack Linear float32[16,4] float32[16,4] 60"),
    "spectral norm": (normed, "layer_instance Linear float32[16,4] float32[16,2] 10"),
}


def slow_among(names, *slow):
    return [pytest.param(n, marks=[pytest.mark.slow] * (n in slow)) for n in names]


def trainer_of(name, log_dir, **arguments):
    split = (SEQUENCES if name == "recurrent" else X), Y
    model = MODELS[name][0](nnx.Rngs(0))
    data = DataModule(split, split, split, batch_size=16)
    return Trainer(model, data, max_epochs=2, log_dir=log_dir, progress_bar=False, **arguments)


@pytest.mark.filterwarnings(r"ignore:\s*Using 'Module.(sow|perturb):DeprecationWarning")
@pytest.mark.parametrize(
    "name", slow_among(MODELS, "low rank", "recurrent", "spectral norm", "stacked", "containers")
)
def test_a_model_resumes_exactly_and_has_a_table_of_layers(tmp_path, name):
    whole = trainer_of(name, tmp_path / "whole")
    whole.fit()
    assert len(whole.predict()) == 64
    interrupted = trainer_of(name, tmp_path / "cut", callbacks=At(3, press_ctrl_c))
    interrupted.fit()
    assert interrupted.global_step == 3
    resumed = trainer_of(name, tmp_path / "cut")
    resumed.fit(resume="auto")
    assert resumed.global_step == whole.global_step == 8
    assert tree_equal(nnx.state(resumed.model), nnx.state(whole.model))
    assert resumed.history[-1]["val/loss"] == whole.history[-1]["val/loss"]
    assert not jax.tree.leaves(nnx.state(whole.model, nnx.Intermediate))
    ((_, table),) = event_values(whole.run_dir, "model/summary")
    rows = [" ".join(line.split()) for line in table.decode().splitlines()]
    assert any(row.startswith(MODELS[name][1]) for row in rows), table


def test_a_linen_model_takes_the_steps_of_a_loop_in_plain_flax(tmp_path):
    model = linen_net(rate=0.0)
    plain = LinenNet(0.0)
    start = jax.tree.map(np.array, plain_variables(model))
    fit(model, optimizer=optax.adam(0.1), max_epochs=5)

    optimizer = optax.adam(0.1)
    parameters, statistics = start["params"], start["batch_stats"]
    state = optimizer.init(parameters)

    def loss_of(parameters):
        variables = {"params": parameters, "batch_stats": statistics}
        logits, updated = plain.apply(variables, X, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, Y)
        return losses.mean(), updated["batch_stats"]

    for _ in range(5):
        gradients, statistics = jax.grad(loss_of, has_aux=True)(parameters)
        updates, state = optimizer.update(gradients, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
    trained = plain_variables(model)
    for kind, expected in {"params": parameters, "batch_stats": statistics}.items():
        assert tree_allclose(jax.tree.map(np.asarray, trained[kind]), dict(expected), rtol=1e-4)


def plain_variables(model):
    """The variables of a Linen module in its bridge, as Linen has them."""
    states = nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)
    return dict(zip(("params", "batch_stats"), map(nnx.to_pure_dict, states), strict=True))


# ---- `rngs` -------------------------------------------------------------------------------------


class Number(nnx.Module):
    """Returns a random number for each example."""

    def __init__(self):
        self.scale = nnx.Param(1.0)

    def __call__(self, x, rngs):
        return self.scale * rngs.uniform((len(x),))


class Raw(Task):
    def outputs(self, model, batch):
        return {"loss": model(batch["image"])}


def numbers_of(**arguments):
    split = np.zeros((64, 1), np.float32), np.zeros(64, np.int32)
    data = DataModule(split, split, split, batch_size=16)
    arguments = {"task": Raw(), "optimizer": optax.set_to_zero(), **arguments}
    return Trainer(Number(), data, max_epochs=2, log_dir=None, progress_bar=False, **arguments)


@pytest.mark.parametrize("size", [1, 16])
def test_each_step_has_its_own_numbers_whatever_the_size_of_a_dispatch(size):
    def epochs(size):
        history = numbers_of(steps_per_execution=size).fit()
        return [(row["train/loss"], row["val/loss"]) for row in history]

    found = epochs(size)
    assert found == epochs(4)
    assert len({loss for row in found for loss in row}) == 4


def test_each_batch_and_each_pass_has_its_own_numbers():
    trainer = numbers_of()
    first, second = trainer.predict(), trainer.predict()
    assert len({*first, *second}) == 128
    np.testing.assert_array_equal(numbers_of().predict(), first)
    assert not set(first) & set(numbers_of(seed=1).predict())


def test_no_number_of_training_is_one_of_an_evaluation():
    seen: list[float] = []

    class Recorder(Raw):
        def outputs(self, model, batch):
            outputs = super().outputs(model, batch)
            jax.debug.callback(lambda losses: seen.extend(map(float, losses)), outputs["loss"])
            return outputs

    numbers_of(task=Recorder()).fit()
    jax.effects_barrier()
    assert len(seen) == len({*seen}) == 2 * (64 + 64)


# ---- The table of layers of any task ------------------------------------------------------------


class Pairs(nnx.Module):
    def __init__(self):
        self.words = nnx.Embed(10, 4, rngs=nnx.Rngs(0))
        self.numbers = nnx.Linear(3, 4, rngs=nnx.Rngs(0))

    def __call__(self, words, numbers):
        return (self.words(words).mean(axis=1) * self.numbers(numbers)).sum(axis=-1)


class Fits(Task):
    def outputs(self, model, batch):
        error = model(batch["words"], numbers=batch["numbers"]) - batch["target"]
        return {"loss": jnp.square(error)}

    def predict(self, model, batch):
        return model(batch["words"], batch["numbers"])


def test_the_table_has_the_shapes_of_the_tasks_own_call():
    rng = np.random.default_rng(0)
    split = {
        "words": rng.integers(0, 10, (32, 7), dtype=np.int32),
        "numbers": rng.normal(size=(32, 3)).astype(np.float32),
        "target": rng.normal(size=32).astype(np.float32),
    }
    trainer = Trainer(
        Pairs(), DataModule(split, batch_size=8), task=Fits(), log_dir=None, progress_bar=False
    )
    assert trainer.summary(width=90).splitlines() == [
        "layer    type    input         output          parameters  statistics",
        "words    Embed   int32[8,7]    float32[8,7,4]  40 (160 B)",
        "numbers  Linear  float32[8,3]  float32[8,4]     16 (64 B)",
        "Total: 56 parameters (224 B) and 0 batch statistics (0 B), 56 in all (224 B).",
    ]


def test_the_width_of_the_table_is_limited():
    with pytest.raises(ValueError, match=r"`width` \(=20\) must be at least 60"):
        numbers_of().summary(width=20)
