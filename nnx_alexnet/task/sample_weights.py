"""The weights of the examples of a batch: its key `weight`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def batch_weights(batch: Mapping[str, Any], weight: jax.Array | None) -> dict[str, jax.Array]:
    """Returns the outputs of a task that weight its examples.

    Args:
        batch: may have a `weight`, `[B]`, with one number per example that is not negative.
        weight: other weights of the examples in the loss, `float32[B]`, or None.

    Returns:
        `weight`, the product of both, which the trainer averages the loss with, and
        `example_weight`, that of the batch; an empty dict if there are no weights.

    Raises:
        ValueError: `weight` of the batch is not one number per example.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.task.sample_weights import batch_weights
        >>> found = batch_weights({"weight": jnp.array([1, 3])}, jnp.array([2.0, 2.0]))
        >>> {name: values.tolist() for name, values in found.items()}
        {'weight': [2.0, 6.0], 'example_weight': [1.0, 3.0]}
    """
    given = batch.get("weight")
    if given is None:
        return {} if weight is None else {"weight": weight}
    is_real = jnp.issubdtype(given.dtype, jnp.number) or given.dtype == bool
    if given.ndim != 1 or not is_real or jnp.iscomplexobj(given):
        raise ValueError(
            f"`data` has a `weight` of shape {given.shape[1:]} and dtype {given.dtype} per "
            "example; the task weights its examples with it, so it must be a single number that "
            "is not negative. Rename the field if it is something else."
        )
    own = given.astype(jnp.float32)
    return {"weight": own if weight is None else own * weight, "example_weight": own}


def weight_problem(weight: object, *, is_split: bool = False) -> str | None:
    """Returns what is wrong with the weights of some examples, or None.

    Args:
        weight: `[N]`, without padding. Values other than arrays of real numbers pass, because
            `batch_weights` refuses them.
        is_split: whether these are all weights of a split, of which one must be positive (default
            False).

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.task.sample_weights import weight_problem
        >>> weight_problem(np.array([0.0, 2.0])) is None
        True
    """
    if not isinstance(weight, np.ndarray) or weight.dtype.kind not in "iuf" or not weight.size:
        return None
    low, high = float(weight.min()), float(weight.max())
    if is_split and low == high == 0:
        return "has a `weight` of 0 for every example; at least one must be positive."
    if low >= 0 and high < float("inf"):  # False for NaN
        return None
    return (
        f"has a `weight` from {low:g} to {high:g}; the weights of examples must be finite and not "
        "negative. An example of weight 0 does not count."
    )
