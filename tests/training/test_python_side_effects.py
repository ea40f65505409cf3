"""Effects of Python code in a traced step, which happen once per compilation."""

import random

import numpy as np
import pytest
from flax import nnx
from helpers import linear_trainer

from nnx_alexnet import Classification
from nnx_alexnet.training import python_side_effects


class Noisy(nnx.Module):
    """A model with attributes that are not arrays."""

    def __init__(self, **attributes):
        self.layer = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
        for name, value in attributes.items():
            setattr(self, name, value)


class WithGlobalNoise(Noisy):
    def __call__(self, x):
        return self.layer(x + np.random.normal(size=x.shape).astype(np.float32))


class WithOwnGenerator(Noisy):
    def __call__(self, x):
        return self.layer(x) * self.generator.random()


class WithCoin(Noisy):
    def __call__(self, x):
        return self.layer(x if random.random() < 0.5 else -x)


class WithCounter(Noisy):
    def __call__(self, x):
        self.calls += 1
        return self.layer(x) * min(1, self.calls / 10)


class WithTemperature(Noisy):
    def __call__(self, x):
        self.temperature *= 0.99
        return self.layer(x) / self.temperature


class WithSize(Noisy):
    def __call__(self, x):
        self.size = x.shape[0]
        self.is_called = True
        return self.layer(x)


@pytest.mark.parametrize(
    "model",
    [
        WithGlobalNoise(),
        WithOwnGenerator(generator=np.random.default_rng(0)),
        WithOwnGenerator(generator=random.Random(0)),
        WithCoin(),
    ],
)
@pytest.mark.parametrize("method", ["fit", "validate"])
def test_a_model_must_not_draw_random_numbers_outside_jax(tmp_path, model, method):
    trainer = linear_trainer(model=model, log_dir=tmp_path)
    with pytest.raises(ValueError, match=r"random numbers that JAX .*model.rngs.noise"):
        getattr(trainer, method)()
    assert not any(tmp_path.iterdir())


def test_a_model_may_store_the_size_of_its_batch(caplog):
    assert linear_trainer(model=WithSize(size=0, is_called=False)).fit()
    assert not [line for line in caplog.messages if "while a step was traced" in line]


class Changing(Classification):
    """Calls `change` in every forward pass."""

    def __init__(self, change, **attributes):
        super().__init__()
        self.change = change
        vars(self).update(attributes)

    def outputs(self, model, batch):
        self.change(self, batch)
        return super().outputs(model, batch)


def count(task, batch):
    task.step += 1


def count_in_a_dict(task, batch):
    task.counts["step"] += 1


def draw(task, batch):
    np.random.permutation(4)


def test_a_task_must_not_draw_random_numbers_outside_jax(tmp_path):
    with pytest.raises(ValueError, match="draws random numbers that JAX does not see"):
        linear_trainer(Changing(draw), log_dir=tmp_path).fit()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "task", "text"),
    [
        (WithCounter(calls=0), None, "`calls` of the model changed while a step was traced"),
        (WithTemperature(temperature=1.0), None, "`temperature` of the model changed while"),
        (WithSize(), Changing(count, step=0), "`step` of Changing changed while a step was traced"),
        (WithSize(), Changing(count_in_a_dict, counts={"step": 3}), "`counts` of Changing changed"),
    ],
)
def test_a_counter_in_python_is_reported_once(caplog, model, task, text):
    python_side_effects._report.cache_clear()
    for _ in range(2):
        assert linear_trainer(task, model=model).fit()
    (line,) = [line for line in caplog.messages if text in line]
    assert "nnx.Variable" in line


def test_a_task_may_cache_a_result():
    def cache(task, batch):
        task.cached = np.ones(2)

    assert linear_trainer(Changing(cache, names={1: "a", "b": 2})).fit()
