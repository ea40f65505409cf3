"""Averages over the examples of a split, weighted if the examples have weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
from clu.metrics import Average


def weighted_sums(
    values: jax.Array, weight: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns sum(w x) and sum(w) over the rows where `mask` is True.

    Padding and values whose weight is 0 may be NaN.

    Args:
        values: x, `float[B]`.
        weight: w, `[B]`, not negative.
        mask: `bool[B]`.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.task.averages import weighted_sums
        >>> values, weight = jnp.array([1.0, 4.0, jnp.nan]), jnp.array([1.0, 0.5, jnp.nan])
        >>> [float(each) for each in weighted_sums(values, weight, jnp.array([True, True, False]))]
        [3.0, 1.5]
    """
    counts = mask & (weight != 0)
    kept = jnp.where(counts, weight, 0).astype(values.dtype)
    return jnp.sum(jnp.where(counts, values, 0) * kept), jnp.sum(kept)


def weighted_average(values: Callable[..., jax.Array], weight: str) -> type[Average]:
    """Returns the metric sum(w x) / sum(w), or the mean of x if the outputs have no weights.

    Args:
        values: a function that receives the outputs of a task as keyword arguments and returns x,
            `[B]`.
        weight: the name of the output w, `[B]`, which may be missing.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.task.averages import weighted_average
        >>> metric = weighted_average(lambda loss, **_: loss, "weight")
        >>> float(metric.from_model_output(loss=jnp.array([1.0, 4.0])).compute())
        2.5
        >>> outputs = {"loss": jnp.array([1.0, 4.0]), "weight": jnp.array([2.0, 1.0])}
        >>> float(metric.from_model_output(**outputs).compute())
        2.0
    """

    @flax.struct.dataclass
    class FromOutputs(Average):  # type: ignore[misc]
        """The average of `values`."""

        @classmethod
        def from_model_output(cls, *, mask: Any = None, **outputs: Any) -> Any:
            found = jnp.asarray(values(**outputs))
            if weight not in outputs:
                return super().from_model_output(found, mask=mask)
            mask = jnp.ones(found.shape, bool) if mask is None else mask
            total, count = weighted_sums(found, outputs[weight], mask)
            return cls(total=total, count=count)

    return FromOutputs


def _loss(loss: jax.Array, **_: jax.Array) -> jax.Array:
    return loss


Loss = weighted_average(_loss, "weight")
"""The mean loss, weighted by the output `weight` if there is one."""
