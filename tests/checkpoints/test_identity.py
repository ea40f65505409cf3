"""What describes a run."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from helpers import TinyNet

from nnx_alexnet import Classification, create_optimizer
from nnx_alexnet.checkpoints import identity
from nnx_alexnet.checkpoints.identity import (
    describe_module,
    describe_optimizer,
    flatten,
    identify,
    plain_attributes,
)


def identity_of(model, task, **arguments):
    defaults = {
        "metrics": [], "data": {}, "samples": {}, "programs": {}, "seed": 0, "config": {}
    }  # fmt: skip
    return identify(model, {}, {}, task=task, **{**defaults, **arguments})


def test_flags_of_xla_that_change_no_number_are_left_out(monkeypatch):
    def flags(text):
        monkeypatch.setenv("XLA_FLAGS", text)
        return identity._settings()["XLA_FLAGS"]

    assert flags("--xla_force_host_platform_device_count=4 --xla_dump_to=x") == ""
    assert flags("--xla_cpu_enable_fast_math=true --xla_dump_to=x").endswith("math=true")


class Named:
    """A class whose `name` is not text and whose `dtype` is not a dtype."""

    name = property(lambda self: "name")
    dtype = None


def test_attributes_that_are_classes_or_nan_are_equal_in_each_process():
    model, task = nnx.Linear(2, 3, rngs=nnx.Rngs(0)), Classification()
    model.layer_class, model.kind, model.dtype = Named, jnp.bfloat16, np.dtype("int8")
    task.ignored = float("nan")
    first, second = (identity_of(model, task) for _ in range(2))
    assert first == second
    assert first["task"]["ignored"] == "NaN"
    kept = {name: first["model"][name] for name in ("layer_class", "kind", "dtype")}
    assert kept == {"layer_class": "Named", "kind": "bfloat16", "dtype": "int8"}


def test_where_the_data_are_is_not_part_of_the_identity():
    config = {"data": {"name": "folder", "root": "/a", "num_workers": 2}, "log_dir": "logs"}
    found = identity_of(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), Classification(), config=config)
    assert found["config"] == {"data.name": "folder"}


def test_injected_hyperparameters_are_compared_by_value():
    leaves = {
        "optimizer/hyperparams/learning_rate": jnp.float32(0.5),
        "optimizer/count": jnp.int32(0),
    }
    constants = {"model/scale": np.ones(2, np.float32)}
    model, task = nnx.Linear(2, 3, rngs=nnx.Rngs(0)), Classification()
    found = identify(
        model, leaves, constants, task=task, metrics=["loss"], data={},
        samples={"train": None}, programs={}, seed=0, config={},
    )  # fmt: skip
    assert found["hyperparams"] == {"optimizer/hyperparams/learning_rate": 0.5}
    assert found["arrays"]["optimizer/count"] == "int32[]"
    assert len(found["constants"]["model/scale"]) == 16
    assert found["samples"] == {"train": None}


def test_a_module_is_described_down_to_its_parts_but_not_by_its_mode():
    model = TinyNet(4, rngs=nnx.Rngs(0))
    found = describe_module(model)
    assert found["class"] == "TinyNet"
    assert (found["dropout.rate"], found["bn.momentum"], found["dense.out_features"]) == (
        0.1,
        0.9,
        4,
    )
    model.eval()
    assert describe_module(model) == found


def test_only_public_attributes_that_json_can_represent_are_plain():
    task = Classification(label_smoothing=0.1)
    task._secret, task.function, task.pair = 1, len, (1, jnp.float32)
    found = plain_attributes(task)
    assert found["label_smoothing"] == 0.1
    assert found["pair"] == [1, "float32"]
    assert not {"_secret", "function"} & found.keys()
    assert flatten({"a": {"b": 1}, "c": 2}) == {"a.b": 1, "c": 2}


def test_optimizers_with_equal_arguments_have_equal_descriptions():
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    first, second = (create_optimizer(schedule="cosine", num_steps=9) for _ in range(2))
    other = create_optimizer(schedule="cosine", num_steps=10)
    assert describe_optimizer(first, model) == describe_optimizer(second, model)
    assert describe_optimizer(first, model) != describe_optimizer(other, model)
    assert 9.0 in describe_optimizer(other, model)["optimizer_constants"]  # steps after warm-up
