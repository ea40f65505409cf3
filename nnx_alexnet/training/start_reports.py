"""Reports, before a fit, untrained parameters and how a resumed run finds its position."""

from __future__ import annotations

from collections.abc import Sequence

import optax
from flax import nnx

from nnx_alexnet.data import IterableBatches
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


def report_untouched_parameters(
    transformation: optax.GradientTransformation, model: nnx.Module
) -> None:
    """Logs which parameters the optimizer does not change."""
    names, are_all = untouched_parameters(transformation, model)
    if names and are_all:
        logger.warning(
            "`optimizer` changes no parameter, as with optax.set_to_zero(). Labels or masks "
            "of optax.partition must identify parameters by their paths "
            "(jax.tree_util.tree_map_with_path): updates are plain arrays, so a parameter's "
            "type cannot identify it."
        )
    elif names:
        logger.info("`optimizer` does not change these parameters: %s.", _listed(names))


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
