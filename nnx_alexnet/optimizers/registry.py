"""The optimizers that `create_optimizer` and the command line know by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import optax

Mask = Callable[[Any], Any]
"""A function from the parameters to booleans of the same structure."""


def sgd(
    learning_rate: Any,
    *,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    mask: Mask | None = None,
) -> optax.GradientTransformation:
    """Returns SGD with coupled weight decay: the decay is added to the gradient, as in torch.

    The AlexNet paper (Krizhevsky et al. 2012) uses a momentum of 0.9 without Nesterov's
    correction, and a decay of 5e-4.

    Args:
        learning_rate: the rate.
        momentum: the decay rate of the sum of past gradients (default 0.9); 0 is plain SGD.
        nesterov: whether to use Nesterov's momentum (default True).
        weight_decay: the factor of the parameters that is added to their gradients (default 0).
        mask: the parameters that decay (default: all).

    Example:
        >>> from nnx_alexnet.optimizers.registry import sgd
        >>> optimizer = sgd(0.5, momentum=0.0, weight_decay=0.1)
        >>> optimizer.update({"w": 1.0}, optimizer.init({"w": 2.0}), {"w": 2.0})[0]
        {'w': -0.6}
    """
    # Without momentum, no sum of gradients is stored.
    descent = optax.sgd(learning_rate, momentum or None, nesterov and bool(momentum))
    if not weight_decay:
        return descent
    return optax.chain(optax.add_decayed_weights(weight_decay, mask), descent)


def lars(
    learning_rate: Any,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    mask: Mask | None = None,
) -> optax.GradientTransformation:
    """Returns LARS; parameters outside of the mask have neither decay nor a layer-wise rate.

    Source: You et al. 2017, https://arxiv.org/abs/1708.03888.

    Args:
        learning_rate: the rate.
        momentum: the decay rate of the sum of past updates (default 0.9).
        nesterov: whether to use Nesterov's momentum (default False).
        weight_decay: the coupled weight decay (default 0).
        mask: the parameters that decay and have a layer-wise rate (default: all).
    """
    chosen = True if mask is None else mask
    return optax.lars(
        learning_rate,
        weight_decay,
        weight_decay_mask=chosen,
        trust_ratio_mask=chosen,
        momentum=momentum,
        nesterov=nesterov,
    )


def lamb(
    learning_rate: Any, *, weight_decay: float = 0.0, mask: Mask | None = None
) -> optax.GradientTransformation:
    """Returns LAMB; parameters outside of the mask have neither decay nor a layer-wise rate.

    Source: You et al. 2020, https://arxiv.org/abs/1904.00962. `optax.lamb` scales the update of
    every parameter. The norm of a bias starts at zero, so its rate would depend on its first steps.

    Args:
        learning_rate: the rate.
        weight_decay: the decoupled weight decay (default 0).
        mask: the parameters that decay and have a layer-wise rate (default: all).
    """
    return optax.chain(
        optax.scale_by_adam(eps=1e-6),
        optax.add_decayed_weights(weight_decay, mask),
        optax.masked(optax.scale_by_trust_ratio(), True if mask is None else mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def schedule_free_sgd(
    learning_rate: Any, *, weight_decay: float = 0.0, mask: Mask | None = None
) -> optax.GradientTransformation:
    """Returns schedule-free SGD.

    Source: Defazio et al. 2024, https://arxiv.org/abs/2405.15682.

    Args:
        learning_rate: the rate, which may have a warm-up.
        weight_decay: the coupled weight decay (default 0).
        mask: the parameters that decay (default: all).
    """
    base = sgd(learning_rate, momentum=0.0, weight_decay=weight_decay, mask=mask)
    return _schedule_free(base, learning_rate)


def schedule_free_adamw(
    learning_rate: Any, *, weight_decay: float = 0.0, mask: Mask | None = None
) -> optax.GradientTransformation:
    """Returns schedule-free AdamW.

    Source: Defazio et al. 2024, https://arxiv.org/abs/2405.15682.

    Args:
        learning_rate: the rate, which may have a warm-up.
        weight_decay: the decoupled weight decay (default 0).
        mask: the parameters that decay (default: all).
    """
    base = optax.chain(
        # Adam without its first moment, which the average replaces.
        optax.scale_by_rms(0.999, eps_in_sqrt=False, bias_correction=True),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
    return _schedule_free(base, learning_rate)


def _schedule_free(
    base: optax.GradientTransformation, learning_rate: Any
) -> optax.GradientTransformation:
    # optax converts the result of a function to the dtype of its state.
    rate = (lambda _: learning_rate) if isinstance(learning_rate, jax.Array) else learning_rate
    return optax.contrib.schedule_free(base, rate)


def polyak_sgd(learning_rate: Any) -> optax.GradientTransformation:
    """Returns SGD with Polyak's step size, for a loss whose minimum is 0.

    Source: Loizou et al. 2021, https://arxiv.org/abs/2002.10542.

    Args:
        learning_rate: the largest step size.
    """
    return optax.polyak_sgd(max_learning_rate=learning_rate)


# To add an optimizer, add a line: its name, and a function of the learning rate. Its arguments
# `momentum`, `nesterov` and `weight_decay` become options; `mask` is set to the parameters that
# decay.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "lamb": lamb,
    "lars": lars,
    "lion": optax.lion,
    "polyak_sgd": polyak_sgd,
    "schedule_free_adamw": schedule_free_adamw,
    "schedule_free_sgd": schedule_free_sgd,
    "sgd": sgd,
}


def accepts(name: str, argument: str) -> bool:
    """Returns whether the function of an optimizer has an argument of this name.

    Args:
        name: a key of `OPTIMIZERS`.
        argument: such as `"weight_decay"`.

    Example:
        >>> from nnx_alexnet.optimizers.registry import accepts
        >>> accepts("adamw", "weight_decay"), accepts("adam", "weight_decay")
        (True, False)
    """
    return argument in inspect.signature(OPTIMIZERS[name]).parameters
