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
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def describe_leaf(leaf: Any) -> str:
    """Returns dtype and shape of a leaf as its copy on the host has them."""
    about = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
    return f"{about.dtype}{[*about.shape]}"


def on_host(leaf: jax.Array) -> np.ndarray[Any, Any]:
    """Returns a copy that stays as it is when the leaf is donated; of a key, its words."""
    return np.array(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def on_device(array: np.ndarray[Any, Any], like: Any) -> jax.Array:
    """Returns the leaf that `on_host` copied, where and of the kind that `like` is."""
    if is_key(like):
        key: jax.Array = jax.random.wrap_key_data(
            jnp.asarray(array), impl=jax.random.key_impl(like)
        )
        return key
    placed: jax.Array = jax.device_put(array, getattr(like, "sharding", None), may_alias=False)
    return placed
