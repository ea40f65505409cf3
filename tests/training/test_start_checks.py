"""The errors for a model, data and a task that do not fit together, with what works instead."""

import flax.linen
import pytest
from flax import nnx

from nnx_alexnet.task import Classification
from nnx_alexnet.training.start_checks import check_types, explain

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
    text = explain(KeyError("target"), ["label", "image"])
    assert text.startswith("there is no 'target'. A batch has the keys image, label;")


def test_a_key_error_of_something_else_keeps_its_type():
    assert explain(KeyError("image"), ["image"]) == "KeyError: 'image'"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("three channels"), "three channels"),
        (RuntimeError("three channels"), "RuntimeError: three channels"),
    ],
)
def test_other_errors_are_named_by_their_type_unless_they_are_about_values(error, text):
    assert explain(error, []) == text


def test_an_error_of_flax_gets_a_hint():
    error = flax.errors.ScopeCollectionNotFound("params", "kernel", "/Dense_0")
    assert "lazy_init(images[:1])" in explain(error, [])
