"""Micro-batches: which rows they have, and that their gradients add up to those of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import (
    Dense,
    TinyNet,
    collectives,
    tiny_arrays,
    train_program,
    trainer_of,
    tree_allclose,
)
from parts import Product, Scale, batch_of

from nnx_alexnet import DataModule
from nnx_alexnet.training.default_steps import train_step
from nnx_alexnet.training.micro_batches import MicroBatches


@pytest.mark.parametrize(("num", "parts", "size"), [(4, 1, 6), (3, 2, 10), (5, 1, 2)])
def test_each_row_is_in_one_micro_batch_and_returns_to_its_place(num, parts, size):
    batch = {"index": jnp.arange(size), "mask": jnp.ones(size, bool)}
    divided = jax.jit(MicroBatches(num, parts).divided)(batch)
    rows = np.asarray(divided["index"])[np.asarray(divided["mask"])]
    assert sorted(rows.tolist()) == list(range(size))
    assert divided["index"].shape[0] == num
    assert MicroBatches(num, parts).joined(divided["index"], size).tolist() == list(range(size))


def test_each_device_keeps_its_rows():
    index = MicroBatches(2, 2).divided(batch_of(*range(8)))["index"]
    assert index.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]  # the first half is on the first device


def stepped(num, transformation, batch, model=None):
    model = Scale(2.0) if model is None else model
    optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)
    outputs = train_step(Product(), model, optimizer, batch, MicroBatches(num))
    return float(model.weight[...]), outputs


@pytest.mark.parametrize("num", [3, 7, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4))])
def test_a_step_weights_each_example_equally(num):
    """The gradient of weight * x over the unmasked rows is their mean: (1 + 3 + 8) / 3."""
    mask = jnp.array([True, True, True, False, False])
    batch = batch_of(1.0, 3.0, 8.0, 50.0, 100.0) | {"mask": mask}
    weight, outputs = stepped(num, optax.sgd(0.25), batch)
    assert weight == pytest.approx(2.0 - 0.25 * 4.0, rel=1e-6)
    assert outputs["loss"][:3].tolist() == [2.0, 6.0, 16.0]


def test_a_step_takes_the_weighted_mean_of_the_whole_batch():
    """The gradient is (4 * 1 + 1 * 3 + 1 * 8) / (4 + 1 + 1) = 2.5, whatever is together."""

    class Weighted(Product):
        def outputs(self, model, batch):
            weight = jnp.where(batch["index"] == 0, 4.0, 1.0)
            return {**super().outputs(model, batch), "weight": weight}

    model = Scale(2.0)
    optimizer = nnx.Optimizer(model, optax.sgd(0.25), wrt=nnx.Param)
    train_step(Weighted(), model, optimizer, batch_of(1.0, 3.0, 8.0), MicroBatches(2))
    assert float(model.weight[...]) == pytest.approx(2.0 - 0.25 * 2.5, rel=1e-6)


def test_a_line_search_evaluates_the_whole_batch():
    seen = {}

    def update(updates, state, params, *, value, value_fn):
        at_half = jax.tree.map(lambda p: p / 2, params)
        seen.update(value=float(value), half=float(value_fn(at_half)))
        seen["slope"] = float(jax.tree.leaves(jax.grad(value_fn)(params))[0])
        return updates, state

    told = optax.GradientTransformationExtraArgs(lambda params: (), update)
    stepped(2, told, batch_of(1.0, 3.0, 8.0))
    assert seen == pytest.approx({"value": 8.0, "half": 4.0, "slope": 4.0})


def data_of(**arguments):
    """Three batches of 16 and one of 6, which is padded."""
    arguments = {"batch_size": 16, "drop_last": False, **arguments}
    return DataModule(tiny_arrays(num=54), tiny_arrays(num=20, seed=1), **arguments)


def fitted(num, *, model=None, **arguments):
    model = Dense() if model is None else model
    trainer = trainer_of(
        model, data_of(), num_micro_batches=num, optimizer=optax.adam(1e-2), **arguments
    )
    rows = trainer.fit()
    return nnx.state(model), [
        {name: value for name, value in row.items() if not name.startswith("perf/")} for row in rows
    ]


@pytest.fixture(scope="module")
def undivided():
    return fitted(1)


@pytest.mark.parametrize(
    ("num", "arguments"),
    [
        (4, {}),
        (3, {"devices": 2, "shard_state": True}),
        # 16 rows, and 2 that are repeated and masked
        pytest.param(3, {"steps_per_execution": 1}, marks=pytest.mark.slow),
        pytest.param(4, {"devices": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_training_is_that_of_the_undivided_batch(undivided, num, arguments):
    state, rows = fitted(num, **arguments)
    expected, expected_rows = undivided
    assert tree_allclose(state, expected, rtol=1e-4, atol=1e-5)
    assert [row["step"] for row in rows] == [4, 8]
    for row, other in zip(rows, expected_rows, strict=True):
        assert row == pytest.approx(other, rel=1e-4)


def test_batch_norm_is_updated_by_each_micro_batch():
    """Its momentum is 0.9, so n updates leave 0.9 ** n of the initial variance of 1."""

    class Normed(nnx.Module):
        def __init__(self):
            self.weight = nnx.Param(jnp.array(1.0))
            self.bn = nnx.BatchNorm(1, momentum=0.9, rngs=nnx.Rngs(0))
            self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

        def __call__(self, image):
            return self.weight[...] * self.dropout(self.bn(image))[:, 0]

    model = Normed()
    stepped(3, optax.sgd(0.0), batch_of(*[2.0] * 6), model)  # whose variance is 0
    assert float(model.bn.var[0]) == pytest.approx(0.9**3)
    assert float(model.bn.mean[0]) == pytest.approx(2 * (1 - 0.9**3))
    assert int(model.dropout.rngs.count[...]) == 3, "each micro-batch has its own dropout"


@pytest.mark.parametrize("devices", [1, 2])
def test_more_micro_batches_than_examples_are_refused(devices):
    trainer = trainer_of(
        TinyNet(4, rngs=nnx.Rngs(0)), data_of(), devices=devices, num_micro_batches=99
    )
    with pytest.raises(ValueError, match=r"`num_micro_batches` \(=99\) must be at most"):
        trainer.fit()


def test_two_devices_exchange_no_rows():
    program = train_program(
        trainer_of(TinyNet(4, rngs=nnx.Rngs(0)), data_of(), devices=2, num_micro_batches=4)
    )
    assert {kind for kind, _ in collectives(program)} == {"all-reduce"}
