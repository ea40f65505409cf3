"""The error for a step, or a state, that is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class NonFiniteError(FloatingPointError):
    """The run has reached a loss, a statistic or a parameter that is NaN or infinite.

    Unlike a `FloatingPointError` of a callback, it leaves no good state to save.
    """


def non_finite_step(
    loss: float, step: int, batch: Mapping[str, Any], leaves: Mapping[str, jax.Array]
) -> NonFiniteError:
    """Returns the error for a train step that gave a value that is NaN or infinite.

    Args:
        loss: of the step, which may itself be finite.
        step: the number of the step, from 1.
        batch: what the step was given.
        leaves: the arrays after it, or after one of the next steps, by their path.

    Returns:
        An error that names the step, the examples of the batch, and the first array, of the
        batch or else of the state, that is not finite.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.devices.non_finite import non_finite_step
        >>> batch = {"image": np.array([[1.0], [np.nan]]), "index": np.array([7, 3])}
        >>> print(non_finite_step(float("nan"), 5, batch | {"mask": np.ones(2, bool)}, {}))
        Step 5 had a loss of nan. The batch held the examples [7, 3]; its `image` is not finite ...
    """
    indices = batch["index"][batch["mask"]].tolist()
    where = "every array of the state is finite."
    for name in ("image", "label"):
        if name in batch and not (good := _finite_rows(batch[name])).all():
            bad = batch["index"][~good].tolist()
            where = f"its `{name}` is not finite for {bad}."
            break
    else:
        for name, leaf in leaves.items():
            if jnp.issubdtype(leaf.dtype, jnp.inexact) and not _is_finite_here(leaf):
                where = f"`{name}` is the first array of the state that is not finite."
                break
    beside = ", and made BatchNorm's statistics not finite" if math.isfinite(loss) else ""
    return NonFiniteError(
        f"Step {step} had a loss of {loss}{beside}. The batch held the examples {indices}; "
        f"{where} Nothing of this was saved. A smaller learning rate or clipped gradients may "
        "help, and check_finite=False turns this check off."
    )


def _is_finite_here(leaf: jax.Array) -> bool:
    """Whether the parts of this process are: another one need not ask, and would be waited for."""
    return all(bool(jnp.isfinite(shard.data).all()) for shard in leaf.addressable_shards)


def _finite_rows(values: Any) -> np.ndarray[Any, Any]:
    rows = np.asarray(values)
    if not np.issubdtype(rows.dtype, np.floating):
        return np.ones(len(rows), bool)
    finite: np.ndarray[Any, Any] = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
    return finite
