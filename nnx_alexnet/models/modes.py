"""Training mode and evaluation mode, as attributes of layers."""

from __future__ import annotations

from typing import Any, NamedTuple

from flax import nnx

from nnx_alexnet.models.call_arguments import linen_modes

# The attributes that hold the mode of flax's layers; True is evaluation.
_ATTRIBUTES = ("deterministic", "use_running_average")


class Definitions(NamedTuple):
    """A model as the compiled steps use it.

    Attributes:
        train: the graph in training mode.
        evaluation: the graph in evaluation mode.
        state: the variables, the same for both, without intermediates that were sown earlier.
    """

    train: nnx.GraphDef[Any]
    evaluation: nnx.GraphDef[Any]
    state: nnx.State[Any, Any]


def define(model: nnx.Module) -> Definitions:
    """Splits a model into its two graphs and its state, without changing its mode.

    A layer that is in evaluation mode now (`use_running_average=True`, `deterministic=True`, or
    after its `eval()`) was frozen by the user, and stays in evaluation mode during training.

    Args:
        model: any module.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.models.modes import define
        >>> model = nnx.Dropout(0.5, deterministic=True, rngs=nnx.Rngs(0))
        >>> found = define(model)
        >>> found.train == found.evaluation
        True
    """
    # A second set of modules with the same arrays.
    twin = nnx.merge(*nnx.split(model))
    # Sown values accumulate with each call, and belong to the call that made them.
    nnx.pop(twin, nnx.Intermediate)
    frozen = _in_evaluation(twin)
    twin.train()
    for _, module, name in frozen:
        setattr(module, name, True)
    train = nnx.graphdef(twin)
    twin.eval()
    evaluation, state = nnx.split(twin)
    return Definitions(train, evaluation, state)


def frozen_layers(model: nnx.Module) -> tuple[list[str], bool]:
    """Returns the layers that stay in evaluation mode during training.

    Args:
        model: any module.

    Returns:
        Their paths, and whether they are all layers that have a mode.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.models.modes import frozen_layers
        >>> model = nnx.Sequential(nnx.Dropout(0.5), nnx.Dropout(0.5, deterministic=True))
        >>> frozen_layers(model)
        (['layers/1'], False)
    """
    frozen = {path for path, _, _ in _in_evaluation(model)}
    with_mode = set()
    for parts, module in nnx.iter_modules(model):
        path, linen = "/".join(map(str, parts)), linen_modes(module)
        if linen or any(getattr(module, name, None) is not None for name in _ATTRIBUTES):
            with_mode.add(path)
        if linen and not any(linen.values()):
            frozen.add(path)
    return sorted(frozen), bool(frozen) and frozen == with_mode


def _in_evaluation(model: nnx.Module) -> list[tuple[str, nnx.Module, str]]:
    """Returns path, module and attribute of each layer in evaluation mode."""
    return [
        ("/".join(map(str, path)), module, name)
        for path, module in nnx.iter_modules(model)
        for name in _ATTRIBUTES
        if _is_true(getattr(module, name, None))
    ]


def _is_true(value: object) -> bool:
    return isinstance(value, bool) and value
