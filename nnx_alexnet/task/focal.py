"""The factor of the focal loss, which reduces the loss of easy examples."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# The smallest 1 - p whose power is differentiated: the gradient at 0 is infinite for gamma < 1.
_SMALLEST = 1e-12


def focal_factor(log_p: jax.Array, gamma: float) -> jax.Array | float:
    """Returns (1 - p)^gamma.

    Args:
        log_p: log p, of any shape.
        gamma: at least 0.

    Source: Lin et al. 2017, https://arxiv.org/abs/1708.02002, equation 4.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.task.focal import focal_factor
        >>> print(f"{focal_factor(jnp.log(0.9), 2.0):.4f}")
        0.0100
    """
    if not gamma:
        return 1.0
    factor: jax.Array = jnp.maximum(-jnp.expm1(log_p), _SMALLEST) ** gamma
    return factor
