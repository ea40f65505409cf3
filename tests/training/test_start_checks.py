"""The errors for a model, data and a task that do not fit together, with what works instead."""

import flax.errors
import flax.linen
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nnx_alexnet.task import Classification
from nnx_alexnet.training.start_checks import check_parameters, check_types, explain

MODEL = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
DATA = (None, None)


@pytest.mark.parametrize("task", [None, Classification()])
def test_a_module_and_a_task_or_none_pass(task):
    check_types(MODEL, DATA, task)


@pytest.mark.parametrize(
    ("model", "data", "remedy"),
    [
        (DATA, MODEL, r"The model comes first: Trainer\(model, data\)"),
        (nnx.Linear, DATA, r"Pass an instance: Linear\(\.\.\., rngs=nnx\.Rngs\(0\)\)"),
        (flax.linen.Dense(2), DATA, r"nnx\.bridge\.ToNNX\(module, rngs=nnx\.Rngs\(0\)\)"),
        ("alexnet", DATA, r"`model` \(='alexnet'\) must be an nnx\.Module\.$"),
    ],
    ids=["swapped", "class", "linen", "text"],
)
def test_what_is_no_module_is_refused_with_what_would_work(model, data, remedy):
    with pytest.raises(TypeError, match=f"`model` .*must be an nnx.Module|{remedy}") as raised:
        check_types(model, data, None)
    raised.match("must be an nnx.Module")
    raised.match(remedy)


def test_the_class_of_a_task_is_refused_with_its_instance():
    with pytest.raises(TypeError, match=r"must be an instance .* Pass an instance: Classificat"):
        check_types(MODEL, DATA, Classification)


def test_something_else_is_no_task():
    with pytest.raises(TypeError, match=r"`task` \(='classify'\) must be an instance of a `Task`"):
        check_types(MODEL, DATA, "classify")


def test_a_key_that_a_batch_lacks_is_reported_with_those_that_it_has():
    text = explain(KeyError("target"), ["label", "image"], MODEL)
    assert text.startswith(
        "the task reads 'target', which the batch does not have; its keys are image, label."
    )


def test_a_key_error_of_something_else_keeps_its_type():
    assert explain(KeyError("image"), ["image"], MODEL) == "KeyError: 'image'"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("three channels"), "three channels"),
        (RuntimeError("three channels"), "RuntimeError: three channels"),
    ],
)
def test_other_errors_are_named_by_their_type_unless_they_are_about_values(error, text):
    assert explain(error, [], MODEL) == text


def test_a_linen_module_that_changes_in_evaluation_gets_a_hint():
    error = flax.errors.ModifyScopeVariableError("batch_stats", "mean", "/BatchNorm_0")
    assert "let its mode be a field or an argument" in explain(error, [], MODEL)


class Outer(nnx.Module):
    def __init__(self):
        self.inner = nnx.bridge.ToNNX(flax.linen.Dense(2), rngs=nnx.Rngs(0))
        self.head = nnx.Linear(2, 2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.head(self.inner(x))


@pytest.mark.parametrize(
    ("model", "name"), [(Outer(), "`inner`"), (Outer().inner, "the model itself")]
)
def test_linen_modules_without_variables_are_reported_by_path(model, name):
    inputs = np.ones((1, 2), np.float32)
    with pytest.raises(flax.errors.ScopeCollectionNotFound) as raised:
        model(inputs)
    text = explain(raised.value, [], model)
    assert f"without variables in nnx.bridge.ToNNX: {name}. Call lazy_init(inputs[:1])" in text
    nnx.bridge.lazy_init(model, inputs)
    assert explain(raised.value, [], model).startswith("ScopeCollectionNotFound")


def test_an_argument_that_the_trainer_does_not_pass_is_reported():
    class Asks(nnx.Module):
        def __call__(self, x, context):
            return x

    with pytest.raises(TypeError) as raised:
        Asks()(None)
    assert "requires the argument `context`" in explain(raised.value, [], Asks())


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_])
def test_a_parameter_without_a_gradient_is_refused_by_name(dtype):
    model = nnx.Sequential(MODEL)
    check_parameters(model)
    model.table = nnx.Param(jnp.ones(2, dtype))
    with pytest.raises(ValueError, match=r"a parameter `table` of dtype .*, which has no gradient"):
        check_parameters(model)


def test_parameters_may_be_complex_or_have_16_bits():
    model = nnx.Sequential(MODEL)
    model.phase = nnx.Param(jnp.ones(2, jnp.complex64))
    model.scale = nnx.Param(jnp.ones((), jnp.bfloat16))
    model.count = nnx.Variable(jnp.int32(0))
    check_parameters(model)
