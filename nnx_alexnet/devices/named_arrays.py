"""Names the arrays of a module, and copies them between host and devices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


@contextmanager
def usual_promotion() -> Iterator[None]:
    """Uses JAX's default promotion of dtypes and ranks, whatever the user has configured.

    `jax_numpy_dtype_promotion="strict"` is meant for the user's model. optax and CLU themselves
    rely on promotion, as in `decay**count`.
    """
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def model_state(module: nnx.Module) -> nnx.State[Any, Any]:
    """Returns the state of a module, without intermediates that its last call stored by `sow`."""
    state: nnx.State[Any, Any] = nnx.state(module, nnx.Not(nnx.Intermediate))
    return state


def named_leaves(state: Any) -> dict[str, Any]:
    """Returns the leaves of a module or its state by their path, joined by slashes.

    Args:
        state: a module, or the state of one.

    Returns:
        Names to leaves, in the order of `jax.tree.leaves`. Slashes, dots and percent signs within
        a part of a path are escaped as in a URL, so that no two leaves share a name.

    Raises:
        ValueError: two leaves have the same path.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.devices.named_arrays import named_leaves
        >>> list(named_leaves(nnx.Linear(2, 3, rngs=nnx.Rngs(0))))
        ['bias', 'kernel']
    """
    state = state if isinstance(state, nnx.State) else model_state(state)
    leaves, structure = jax.tree.flatten(state)
    numbered = nnx.to_pure_dict(jax.tree.unflatten(structure, range(len(leaves))))
    names = {
        number: "/".join(_part(key) for key in path)
        for path, number in jax.tree_util.tree_flatten_with_path(numbered)[0]
    }
    if len({*names.values()}) < len(leaves):
        twice = Counter(names.values()).most_common(1)[0][0]
        raise ValueError(
            f"Two arrays of a module have the path {twice!r}. Give its parts names that differ as "
            "text; the keys 1 and '1' do not."
        )
    return {names[number]: leaf for number, leaf in enumerate(leaves)}


def _part(key: Any) -> str:
    """Returns one part of a path as text without separators."""
    part = next(getattr(key, name) for name in ("key", "idx", "name") if hasattr(key, name))
    return str(part).replace("%", "%25").replace("/", "%2F").replace(".", "%2E") or "%"


def is_key(leaf: Any) -> bool:
    """Whether a leaf holds PRNG keys, which NumPy arrays cannot."""
    dtype = getattr(leaf, "dtype", None)  # a Python number has none
    return dtype is not None and bool(jnp.issubdtype(dtype, jax.dtypes.prng_key))


def as_struct(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns shape and dtype of a leaf as a JAX array.

    NumPy's float64 becomes float32 unless `jax_enable_x64` is set, and a Python number becomes an
    array without axes.

    Raises:
        TypeError: the leaf cannot be a JAX array.

    Example:
        >>> from nnx_alexnet.devices.named_arrays import as_struct
        >>> as_struct(1.5)
        ShapeDtypeStruct(shape=(), dtype=float32)
    """
    return jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf))


def describe_leaf(leaf: Any) -> str:
    """Returns dtype and shape of the copy of a leaf on the host, such as "float32[3]"."""
    about = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else as_struct(leaf)
    return f"{about.dtype}{[*about.shape]}"


def on_host(leaf: jax.Array) -> np.ndarray[Any, Any]:
    """Returns a copy that survives the donation of the leaf; for PRNG keys, their words."""
    values = jax.random.key_data(leaf) if is_key(leaf) else leaf
    if isinstance(values, jax.Array) and all(d.platform != "cpu" for d in values.devices()):
        return np.asarray(values)  # already a copy: NumPy shares memory only with CPUs
    return np.array(values)


def on_device(array: np.ndarray[Any, Any], like: Any) -> jax.Array:
    """Returns the leaf that `on_host` copied, with the kind and the sharding of `like`."""
    sharding = getattr(like, "sharding", None)
    put = jax.device_put(array, may_alias=False) if sharding is None else placed(array, sharding)
    return wrapped(put, like) if is_key(like) else put


def wrapped(words: jax.Array, like: Any) -> jax.Array:
    """Returns PRNG keys of the kind of `like`, given their words."""
    keys: jax.Array = jax.random.wrap_key_data(words, impl=jax.random.key_impl(like))
    return keys


def placed(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """Returns a copy of an array, or of PRNG keys, on the devices of a sharding.

    Args:
        leaf: an array that every process holds whole and identical; or a global one.
        sharding: the sharding of the copy.
    """
    if is_key(leaf) and not sharding.is_fully_addressable:
        return wrapped(placed(jax.random.key_data(leaf), sharding), leaf)
    if sharding.is_fully_addressable or not getattr(leaf, "is_fully_addressable", True):
        put: jax.Array = jax.device_put(leaf, sharding, may_alias=False)
        return put
    values = np.asarray(leaf)
    # Unlike `device_put`, this does not compare the values between the processes.
    made: jax.Array = jax.make_array_from_callback(
        values.shape, sharding, lambda index: np.array(values[index])
    )
    return made
