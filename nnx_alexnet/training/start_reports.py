"""Reports, before a fit, untrained parameters and how a resumed run finds its position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optax
from flax import nnx

from nnx_alexnet.data import IterableBatches
from nnx_alexnet.devices import named_leaves
from nnx_alexnet.models import frozen_layers
from nnx_alexnet.optimizers import untouched_parameters
from nnx_alexnet.support import logger

_MAX_NAMES = 5  # in a message


def report_frozen_layers(model: nnx.Module, still_statistics: Sequence[str]) -> None:
    """Logs which layers are in evaluation mode, and which statistics never change.

    Args:
        model: the model before the first step.
        still_statistics: the paths of the statistics that a train step returns unchanged.
    """
    frozen, are_all = frozen_layers(model)
    if are_all:
        logger.warning(
            "All layers with a mode (%s) are in evaluation mode, as after model.eval(), and "
            "stay in it: BatchNorm statistics are not updated, and dropout is off. Unless this "
            "is intended, call model.train() before fit().",
            _listed(frozen) or "the model",
        )
    elif frozen:
        logger.info("Frozen in evaluation mode, as they were before fit(): %s.", _listed(frozen))
    parents = (name.rpartition("/")[0] for name in still_statistics)
    still = [each for each in dict.fromkeys(parents) if each not in frozen]
    if still:
        logger.warning(
            "The statistics of %s are not updated in training, although these layers are not "
            "frozen: the model calls them with use_running_average=True, or not at all. Pass "
            "the mode to these layers, or call their eval() before fit() if this is intended.",
            ", ".join(each or "the model" for each in still[:_MAX_NAMES]),
        )


def report_trained_parameters(
    transformation: optax.GradientTransformation, model: nnx.Module, wrt: Any = nnx.Param
) -> None:
    """Logs which parameters are frozen, and which of the others the optimizer does not change.

    Args:
        transformation: the optimizer.
        model: the model, which is not changed.
        wrt: the nnx filter of the parameters that are trained (default all).
    """
    trained = [*named_leaves(nnx.state(model, wrt))]
    frozen = [name for name in named_leaves(nnx.state(model, nnx.Param)) if name not in trained]
    if frozen:
        logger.info(
            "Trained parameters: %s. Frozen parameters: %s.", _listed(trained), _listed(frozen)
        )
    moving = _normalised_layers(model, frozen, trained)
    if moving:
        logger.info(
            "The parameters of %s are frozen, but the statistics are updated in training. To keep "
            "the statistics, call eval() of these layers before fit().",
            _listed(moving),
        )
    names, are_all = untouched_parameters(transformation, model, wrt)
    if names and are_all:
        logger.warning(
            "`optimizer` changes no parameter, as with optax.set_to_zero(). Labels or masks "
            "of optax.partition must identify parameters by their paths "
            "(jax.tree_util.tree_map_with_path): updates are plain arrays, so a parameter's "
            "type cannot identify it."
        )
    elif names:
        logger.info("`optimizer` does not change these parameters: %s.", _listed(names))


def _normalised_layers(
    model: nnx.Module, frozen: Sequence[str], trained: Sequence[str]
) -> list[str]:
    """Returns the layers in training mode that have statistics and only frozen parameters."""
    in_evaluation, _ = frozen_layers(model)
    parents = (name.rpartition("/")[0] for name in named_leaves(nnx.state(model, nnx.BatchStat)))
    return [
        layer
        for layer in dict.fromkeys(parents)
        if layer not in in_evaluation
        and any(name.startswith(f"{layer}/") for name in frozen)
        and not any(name.startswith(f"{layer}/") for name in trained)
    ]


def report_stream(stream: IterableBatches | None) -> None:
    """Logs how a resumed run finds its position in training data that are an iterable."""
    if stream is None:
        return
    if stream.kind is not None:
        logger.info(
            "Each checkpoint contains the state of the training data (%s), from which a resumed "
            "run continues.",
            stream.kind,
        )
    else:
        logger.info(
            "The training data are an iterable without a state: a resumed run reads the "
            "interrupted epoch again up to its position. If the batches differ from those of the "
            "saved run, the epoch starts again."
        )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
