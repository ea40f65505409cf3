"""Applies a transform to a batch, or to the shapes of an example."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnx_alexnet.data.batching import Batch, example_batch
from nnx_alexnet.data.examples import RESERVED, ElementSpec, listed, named_fields
from nnx_alexnet.devices import usual_promotion


def transformed_batch(
    transform: Callable[..., Any],
    batch: Mapping[str, Any],
    key: jax.Array | None = None,
    *,
    name: str = "`transform`",
) -> Batch:
    """Returns a batch after its transform, with its own `mask` and `index`.

    Args:
        transform: called as `transform(batch, key)`. It may add and drop keys, but must return as
            many rows. Changes that it makes to the dict that it receives do not reach `batch`.
        batch: arrays or pytrees of arrays, first axis the batch, by key; with `mask` and `index`
            if the loader has added them.
        key: the key of an epoch in training; None otherwise.
        name: what to call the transform in errors.

    Raises:
        ValueError: the transform does not return a dict with an array, or not one row per example.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.applied_transform import transformed_batch
        >>> batch = {"x": np.ones((2, 3)), "mask": np.ones(2, bool), "index": np.arange(2)}
        >>> def doubled(batch, key=None):
        ...     return {"y": 2 * batch["x"]}
        >>> sorted(transformed_batch(doubled, batch))
        ['index', 'mask', 'y']
    """
    num = len(jax.tree.leaves(batch)[0])
    result = transform(jax.tree.map(lambda leaf: leaf, dict(batch)), key)
    if not isinstance(result, Mapping):
        shown = jax.tree.map(_shown, result)
        raise ValueError(
            f"{name} returns {shown}; it must return the batch, a dict of arrays such as "
            "{**batch, 'image': image}."
        )
    new = {each: value for each, value in result.items() if each not in RESERVED}
    if not jax.tree.leaves(new):
        own = [each for each in batch if each not in RESERVED]
        raise ValueError(
            f"{name} returns a batch without arrays; it received the keys {listed(own)}. "
            "Return at least one of them."
        )
    for path, leaf in named_fields(new).items():
        shape = np.shape(leaf)
        if shape[:1] != (num,):
            raise ValueError(
                f"{name} returns `{path}` of shape {shape} for a batch of {num} examples; the "
                f"first axis of each array must be {num}."
            )
    return new | {each: batch[each] for each in RESERVED if each in batch}


def example_structs(batch: Mapping[str, Any]) -> ElementSpec:
    """Returns the shapes of one example of a batch, without `mask` and `index`."""
    own = {each: value for each, value in batch.items() if each not in RESERVED}

    def example(leaf: Any) -> jax.ShapeDtypeStruct:
        dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
        return jax.ShapeDtypeStruct(np.shape(leaf)[1:], dtype)

    structs: ElementSpec = jax.tree.map(example, own)
    return structs


def transformed_spec(transform: Any, spec: ElementSpec) -> ElementSpec:
    """Returns the shapes of one example after a transform, which is traced for evaluation."""
    batch = example_batch(spec, 2)
    with usual_promotion():
        return example_structs(
            jax.eval_shape(lambda each: transformed_batch(transform, each), batch)
        )


def remembered_spec(transform: Any, spec: ElementSpec) -> ElementSpec:
    """Returns what `transformed_spec` does; traces equal transforms of equal examples once.

    Args:
        transform: hashable. Transforms that are equal must return equal shapes.
        spec: of one example.
    """
    leaves, structure = jax.tree.flatten(dict(spec))
    canonical = jax.dtypes.canonicalize_dtype(np.int64)  # of 32 or 64 bits
    return dict(_traced_spec(transform, structure, tuple(leaves), canonical))


@lru_cache(maxsize=64)
def _traced_spec(
    transform: Any, structure: Any, leaves: tuple[jax.ShapeDtypeStruct, ...], _canonical: Any
) -> ElementSpec:
    return transformed_spec(transform, jax.tree.unflatten(structure, leaves))


def _shown(value: Any) -> str:
    """Returns dtype and shape of an array as text, such as float32[2, 3]; else a type's name."""
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else type(value).__name__
