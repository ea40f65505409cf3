"""Tests which parameters decay, and which pattern matches a parameter."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from nnx_alexnet.optimizers import decayed, label_by_path, layer_factors


class Net(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv1, self.conv10 = (nnx.Conv(1, 2, (2, 2), rngs=rngs) for _ in range(2))
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 4, rngs=rngs)
        self.table = nnx.Param(jnp.ones((3, 2)))
        self.factor = nnx.Param(jnp.ones(()))


def parameters():
    return nnx.state(nnx.eval_shape(Net), nnx.Param)


def named(tree):
    leaves = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(tree))[0]
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


def test_biases_and_norms_do_not_decay_whatever_their_number_of_axes():
    found = named(decayed(parameters()))
    assert found.pop("attention/query/bias") is False  # [heads, features]
    assert {name for name, decays in found.items() if decays} == {
        "conv1/kernel", "conv10/kernel", "table", "attention/query/kernel",
        "attention/key/kernel", "attention/value/kernel", "attention/out/kernel",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["conv1"], {"conv1/bias", "conv1/kernel"}),
        (["conv1/kernel"], {"conv1/kernel"}),
        (["conv*"], {"conv1/bias", "conv1/kernel", "conv10/bias", "conv10/kernel"}),
        (["norm", "*/bias"], {"norm/bias", "norm/scale"}),
    ],
)
def test_a_pattern_matches_whole_parts_of_paths(patterns, expected):
    found = named(label_by_path(patterns)(parameters()))
    assert {name for name, label in found.items() if label == patterns[0]} == expected
    assert found["table"] == "rest"


def test_a_pattern_that_an_earlier_one_hides_is_refused():
    with pytest.raises(ValueError, match=r"`patterns` \(='conv1'\) matches no .* earlier"):
        label_by_path(["conv*", "conv1"])(parameters())


def test_factors_fall_by_layer():
    assert layer_factors(["a", "b", "c"], 0.5) == {"a": 0.25, "b": 0.5, "c": 1}
    with pytest.raises(ValueError, match=r"`decay` \(=1.5\)"):
        layer_factors(["a"], 1.5)
    with pytest.raises(ValueError, match=r"`layers` .* each layer once"):
        layer_factors(["a", "a"], 0.5)
