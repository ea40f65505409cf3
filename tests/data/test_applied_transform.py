"""The application of a transform to a batch."""

from dataclasses import dataclass, field

import jax
import numpy as np
import pytest

from nnx_alexnet.data import transformed_batch
from nnx_alexnet.data.applied_transform import example_structs, remembered_spec
from nnx_alexnet.data.batching import example_batch
from nnx_alexnet.data.examples import named_fields


def batch():
    return {
        "x": {"left": np.arange(6.0).reshape(2, 3), "right": np.ones((2, 1))},
        "mask": np.array([True, False]),
        "index": np.array([4, 5]),
    }


def test_keys_may_be_added_and_dropped_but_mask_and_index_stay():
    def transform(batch, key):
        return {"sum": batch["x"]["left"].sum(1), "index": batch["index"] + 1, "mask": None}

    result = transformed_batch(transform, batch())
    assert sorted(result) == ["index", "mask", "sum"]
    assert result["sum"].tolist() == [3.0, 12.0]
    assert (result["index"].tolist(), result["mask"].tolist()) == ([4, 5], [True, False])


def test_a_batch_of_a_user_needs_no_mask_and_no_index():
    assert transformed_batch(lambda batch, key: batch, {"x": np.ones(3)}).keys() == {"x"}


@dataclass(frozen=True)
class Widened:
    """Repeats each row of `x`, and notes the shapes that it was called with."""

    factor: int
    calls: list = field(default_factory=list, compare=False)

    def __call__(self, batch, key):
        self.calls.append(batch["x"].shape)
        return {"x": batch["x"].repeat(self.factor, axis=1)}


def test_equal_transforms_of_equal_examples_are_traced_once():
    narrow, wide = ({"x": jax.ShapeDtypeStruct((size,), "float32")} for size in (3, 5))
    transform = Widened(2)
    assert [remembered_spec(transform, spec)["x"].shape for spec in (narrow, wide, narrow)] == [
        (6,), (10,), (6,),
    ]  # fmt: skip
    assert transform.calls == [(2, 3), (2, 5)]
    assert remembered_spec(Widened(3), narrow)["x"].shape == (9,)
    again = Widened(3)
    assert remembered_spec(again, narrow)["x"].shape == (9,)
    assert again.calls == []


def test_the_key_reaches_the_transform():
    keys = []
    for key in (None, jax.random.key(0)):
        transformed_batch(lambda batch, key: keys.append(key) or batch, batch(), key)
        assert keys[-1] is key


def test_changes_of_a_transform_do_not_reach_the_batch():
    def transform(batch, key):
        batch["x"]["left"] = batch["x"].pop("right")
        batch["new"] = batch.pop("x")
        return batch

    given = batch()
    assert transformed_batch(transform, given)["new"]["left"].shape == (2, 1)
    jax.tree.map(np.testing.assert_array_equal, given, batch())


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda batch, key: None, "`transform` returns None; it must return the batch"),
        (lambda batch, key: [batch["index"]], r"returns \['int64\[2\]'\]; it must return the"),
        (lambda batch, key: {}, "returns a batch without arrays; it received the keys 'x'"),
        (lambda batch, key: {"mask": batch["mask"], "x": {}}, "without arrays"),
        (lambda batch, key: {"x": batch["x"]["left"].T}, r"`x` of shape \(3, 2\) for a batch of 2"),
        (lambda batch, key: {"y": {"z": 1.0}}, r"returns `y/z` of shape \(\)"),
    ],
)
def test_other_results_are_rejected(transform, message):
    with pytest.raises(ValueError, match=message):
        transformed_batch(transform, batch())


def test_shapes_of_an_example_and_of_a_batch_convert_to_each_other():
    spec = example_structs(batch())
    assert {path: struct.shape for path, struct in named_fields(spec).items()} == {
        "x/left": (3,), "x/right": (1,)
    }  # fmt: skip
    structs = example_batch(spec, 7)
    assert structs["x"]["left"].shape == (7, 3)
    assert structs["mask"] == jax.ShapeDtypeStruct((7,), np.bool_)
    assert structs["index"] == jax.ShapeDtypeStruct((7,), np.int32)
    assert example_structs(structs) == spec
