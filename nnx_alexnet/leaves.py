"""The arrays of a module by name, and their copies on the host."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def named_leaves(state: Any) -> dict[str, Any]:
    """Returns the leaves of a module or its state by their path, slashes between.

    Args:
        state: a module, or a state of one.

    Returns:
        Names to leaves, in the order of `jax.tree.leaves`.
    """
    state = state if isinstance(state, nnx.State) else nnx.state(state)
    leaves, structure = jax.tree.flatten(state)
    numbered = nnx.to_pure_dict(jax.tree.unflatten(structure, range(len(leaves))))
    paths = {
        number: "/".join(str(key.key) for key in path)
        for path, number in jax.tree_util.tree_flatten_with_path(numbered)[0]
    }
    assert len(set(paths.values())) == len(leaves), "two leaves have one path"
    return {paths[number]: leaf for number, leaf in enumerate(leaves)}


def is_key(leaf: Any) -> bool:
    """Whether a leaf holds PRNG keys, which NumPy cannot."""
    dtype = getattr(leaf, "dtype", None)  # a Python number has none
    return dtype is not None and bool(jnp.issubdtype(dtype, jax.dtypes.prng_key))


def describe_leaf(leaf: Any) -> str:
    """Returns dtype and shape of a leaf as its copy on the host has them."""
    about = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
    return f"{about.dtype}{[*about.shape]}"


def on_host(leaf: jax.Array) -> np.ndarray[Any, Any]:
    """Returns a copy that stays as it is when the leaf is donated; of a key, its words."""
    return np.array(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def on_device(array: np.ndarray[Any, Any], like: Any) -> jax.Array:
    """Returns the leaf that `on_host` copied, where and of the kind that `like` is."""
    sharding = getattr(like, "sharding", None)
    put = jax.device_put(array, may_alias=False) if sharding is None else placed(array, sharding)
    return wrapped(put, like) if is_key(like) else put


def wrapped(words: jax.Array, like: Any) -> jax.Array:
    """Returns PRNG keys of the kind of `like`, from their words."""
    keys: jax.Array = jax.random.wrap_key_data(words, impl=jax.random.key_impl(like))
    return keys


def placed(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """Returns a copy of an array on the devices of a sharding; of PRNG keys as well.

    Args:
        leaf: an array that this process holds whole, and each process the same; or a global one.
        sharding: where it goes.
    """
    if is_key(leaf) and not sharding.is_fully_addressable:
        return wrapped(placed(jax.random.key_data(leaf), sharding), leaf)
    if sharding.is_fully_addressable or not getattr(leaf, "is_fully_addressable", True):
        put: jax.Array = jax.device_put(leaf, sharding, may_alias=False)
        return put
    values = np.asarray(leaf)
    # Unlike `device_put` it does not compare the values of all processes.
    made: jax.Array = jax.make_array_from_callback(
        values.shape, sharding, lambda index: np.array(values[index])
    )
    return made
