"""Names of arrays, and their copies on host and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nnx_alexnet.devices.named_arrays import (
    as_struct,
    describe_leaf,
    is_key,
    model_state,
    named_leaves,
    on_device,
    on_host,
    placed,
    usual_promotion,
)
from nnx_alexnet.devices.sharding import Placement


class Parts(nnx.Module):
    """A module whose parts have any keys."""

    def __init__(self, **parts):
        self.parts = nnx.Dict({key: nnx.Param(jnp.float32(value)) for key, value in parts.items()})


def test_names_are_paths_in_the_order_of_the_leaves():
    model = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 1, rngs=nnx.Rngs(1)))
    found = named_leaves(model)
    assert list(found) == [
        "layers/0/bias", "layers/0/kernel", "layers/1/bias", "layers/1/kernel"
    ]  # fmt: skip
    for leaf, expected in zip(found.values(), jax.tree.leaves(nnx.state(model)), strict=True):
        np.testing.assert_array_equal(leaf, expected)


def test_separators_within_a_name_are_escaped():
    found = named_leaves(Parts(**{"a/b": 1, "a.b": 2, "a%2Fb": 3, "": 4}))
    by_name = {name: float(leaf) for name, leaf in found.items()}
    assert by_name == {"parts/a%2Fb": 1, "parts/a%2Eb": 2, "parts/a%252Fb": 3, "parts/%": 4}


@jax.tree_util.register_pytree_with_keys_class
class Pair:
    """Two arrays under the keys 1 and "1"."""

    def __init__(self, first, second):
        self.both = first, second

    def tree_flatten_with_keys(self):
        keys = jax.tree_util.DictKey(1), jax.tree_util.DictKey("1")
        return tuple(zip(keys, self.both, strict=True)), None

    @classmethod
    def tree_unflatten(cls, _, both):
        return cls(*both)


def test_keys_with_the_same_text_are_refused():
    state = nnx.State({"w": nnx.Param(Pair(jnp.zeros(2), jnp.ones(1)))})
    with pytest.raises(ValueError, match="Two arrays of a module have the path 'w/1'"):
        named_leaves(state)


def test_intermediates_are_not_part_of_the_state():
    model = Parts(a=1)
    model.seen = nnx.Intermediate(jnp.ones(3))
    assert list(named_leaves(model_state(model))) == ["parts/a"]


def test_leaves_are_described_as_jax_holds_them():
    assert as_struct(np.zeros((2, 3))) == jax.ShapeDtypeStruct((2, 3), jnp.float32)
    assert describe_leaf(np.zeros((2, 3))) == "float32[2, 3]"
    assert describe_leaf(jax.random.key(0)) == "uint32[2]"


def test_only_prng_keys_are_keys():
    assert is_key(jax.random.key(0))
    assert not is_key(jax.random.key_data(jax.random.key(0)))
    assert not is_key(1.5)


def test_a_copy_on_the_host_survives_donation():
    leaf = jnp.arange(4.0)
    copy = on_host(leaf)
    jax.jit(lambda x: x + 1, donate_argnums=0)(leaf)
    np.testing.assert_array_equal(copy, [0, 1, 2, 3])


@pytest.mark.parametrize(
    "leaf", [jnp.arange(3.0), jax.random.key(7), jax.random.split(jax.random.key(1), 2)]
)
def test_leaves_survive_the_way_to_the_host_and_back(leaf):
    back = on_device(on_host(leaf), leaf)
    assert back.dtype == leaf.dtype
    assert back.sharding == leaf.sharding
    np.testing.assert_array_equal(on_host(back), on_host(leaf))


def test_a_placed_copy_has_the_sharding_and_its_own_memory():
    sharding = Placement(4).batch
    values = np.arange(8)
    copy = placed(values, sharding)
    values[:] = 0
    assert copy.sharding == sharding
    np.testing.assert_array_equal(copy, np.arange(8))


def test_promotion_is_the_default_inside_and_the_users_outside():
    with jax.numpy_dtype_promotion("strict"):
        with usual_promotion():
            assert float(jnp.float32(0.5) ** jnp.int32(2)) == 0.25
        with pytest.raises(jax.dtypes.TypePromotionError):
            jnp.float32(0.5) + jnp.int32(2)
