"""Builds the error for a loss or state that is NaN or infinite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class NonFiniteError(FloatingPointError):
    """The loss, a statistic or a parameter of the run is NaN or infinite.

    Unlike after a `FloatingPointError` that a callback raises, no good state is left to save.
    """


def non_finite_step(
    loss: float, step: int, batch: Mapping[str, Any], leaves: Mapping[str, jax.Array]
) -> NonFiniteError:
    """Returns the error for a train step whose result is NaN or infinite.

    Args:
        loss: of the step; it may be finite itself.
        step: number of the step, from 1.
        batch: the batch of the step.
        leaves: the arrays after this or a later step, by their path.

    Returns:
        An error that names the step, the examples of the batch, and the first array that is not
        finite: of the batch, or else of the state.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.devices.non_finite import non_finite_step
        >>> batch = {"image": np.array([[1.0], [np.nan]]), "index": np.array([7, 3])}
        >>> print(non_finite_step(float("nan"), 5, batch | {"mask": np.ones(2, bool)}, {}))
        Step 5 had a loss of nan. The batch held the examples [7, 3]; its `image` is not finite ...
    """
    indices = batch["index"][batch["mask"]].tolist()
    where = "every array of the state is finite."
    fields = {name: value for name, value in batch.items() if name not in ("index", "mask")}
    for path, values in jax.tree_util.tree_leaves_with_path(fields):
        if not (good := _finite_rows(values)).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            bad = batch["index"][~good].tolist()
            where = f"its `{name}` is not finite for {bad}."
            break
    else:
        for name, leaf in leaves.items():
            if jnp.issubdtype(leaf.dtype, jnp.inexact) and not _is_finite_here(leaf):
                where = f"`{name}` is the first array of the state that is not finite."
                break
    effect = ", but BatchNorm's statistics are no longer finite" if math.isfinite(loss) else ""
    return NonFiniteError(
        f"Step {step} had a loss of {loss}{effect}. The batch held the examples {indices}; "
        f"{where} This state was not saved. A smaller learning rate or clipped gradients may "
        "help, and check_finite=False turns this check off."
    )


def _is_finite_here(leaf: jax.Array) -> bool:
    """Whether this process's shards are finite; asking the others would block."""
    return all(bool(jnp.isfinite(shard.data).all()) for shard in leaf.addressable_shards)


def _finite_rows(values: Any) -> np.ndarray[Any, Any]:
    rows = np.asarray(values)
    if not jnp.issubdtype(rows.dtype, jnp.inexact):
        return np.ones(len(rows), bool)
    finite: np.ndarray[Any, Any] = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
    return finite
