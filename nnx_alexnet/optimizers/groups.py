"""Groups of parameters: those that decay, and those with a learning rate of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import numpy as np
import optax

from nnx_alexnet.support import check_number

REST = "rest"
"""The label of the parameters that match no pattern."""


def decayed(parameters: Any) -> Any:
    """Returns which parameters have weight decay: all but biases and those of normalization layers.

    These are the arrays with two or more axes whose name is not `bias` or `scale`. Use it as the
    mask of an optax transformation. timm and fastai exclude the same parameters by default.

    Args:
        parameters: a pytree of arrays.

    Returns:
        Booleans of the same structure.

    Example:
        >>> from flax import nnx
        >>> import optax
        >>> from nnx_alexnet.optimizers import decayed
        >>> nnx.to_pure_dict(decayed(nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))))
        {'bias': False, 'kernel': True}
        >>> optimizer = optax.adamw(1e-3, weight_decay=0.1, mask=decayed)
    """

    def decays(path: tuple[Any, ...], leaf: Any) -> bool:
        return np.ndim(leaf) > 1 and _parts(path)[-1:] not in (["bias"], ["scale"])

    return jax.tree_util.tree_map_with_path(decays, parameters)


class PatternError(ValueError):
    """A pattern matches no parameter."""


def label_by_path(patterns: Sequence[str], *, argument: str = "patterns") -> Callable[[Any], Any]:
    """Returns a function that labels parameters with the first pattern that matches their path.

    Use it as the labels of `optax.partition`.

    Args:
        patterns: the path of a module or parameter, such as `"dense1"` or `"block/conv/kernel"`.
            `*`, `?` and `[...]` match as in a shell.
        argument: the name of the argument in the error message (default "patterns").

    Returns:
        A function from parameters to labels; parameters that match no pattern have the label
        `"rest"`. It raises `ValueError` if a pattern matches no parameter; parameters of other
        groups of an outer `optax.partition` count as matches.

    Example:
        >>> from nnx_alexnet.optimizers import label_by_path
        >>> parameters = {"conv1": {"bias": 0.0}, "conv2": {"bias": 0.0}, "head": {"bias": 0.0}}
        >>> label_by_path(["conv*"])(parameters)
        {'conv1': {'bias': 'conv*'}, 'conv2': {'bias': 'conv*'}, 'head': {'bias': 'rest'}}
    """

    def label(path: tuple[Any, ...], _: Any) -> str:
        name = "/".join(_parts(path))
        return next((each for each in patterns if _matches(name, each)), REST)

    def labels(parameters: Any) -> Any:
        paths = jax.tree_util.tree_flatten_with_path(parameters, is_leaf=_is_masked)[0]
        found = {label(path, leaf) for path, leaf in paths}
        missing = [each for each in patterns if each not in found]
        if missing:
            names = ["/".join(_parts(path)) for path, _ in paths]
            raise PatternError(
                f"`{argument}` (={missing[0]!r}) matches no parameter, or only parameters that an "
                f"earlier pattern matches. The parameters are: {', '.join(names)}."
            )
        return jax.tree_util.tree_map_with_path(label, parameters)

    return labels


def layer_factors(layers: Sequence[str], decay: float) -> dict[str, float]:
    """Returns `rate_factors` that fall from the last layer to the first.

    The last layer has the factor 1, the one before it `decay`, the next `decay**2`, as
    `layer_decay` in timm.

    Args:
        layers: the paths of the layers, or patterns as for `label_by_path`, from the input to the
            output.
        decay: the factor from one layer to the one before it; more than 0, at most 1.

    Raises:
        ValueError: `decay` is out of its range, or a layer appears twice.

    Example:
        >>> from nnx_alexnet.optimizers import layer_factors
        >>> layer_factors(["conv1", "conv2", "dense*"], decay=0.5)
        {'conv1': 0.25, 'conv2': 0.5, 'dense*': 1.0}
    """
    check_number("decay", decay, "(0, 1]")
    if len({*layers}) < len(layers):
        raise ValueError(f"`layers` (={[*layers]}) must name each layer once.")
    last = len(layers) - 1
    return {layer: float(decay) ** (last - number) for number, layer in enumerate(layers)}


def _is_masked(node: Any) -> bool:
    """Returns whether a node stands for a parameter of another group."""
    return isinstance(node, optax.MaskedNode)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}/*")


def _parts(path: tuple[Any, ...]) -> list[str]:
    """Returns the parts of the path of a leaf; a Variable's own attribute is not one of them."""
    keys = [key for key in path if not isinstance(key, jax.tree_util.GetAttrKey)]
    return [str(getattr(key, "key", getattr(key, "idx", ""))) for key in keys]
