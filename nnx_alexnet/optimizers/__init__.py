"""Optimizers by name, their schedules and groups of parameters; checks of users' optimizers."""

from nnx_alexnet.optimizers.checks import (
    as_transformation,
    check_optimizer,
    extra_arguments,
    untouched_parameters,
    updated_once,
)
from nnx_alexnet.optimizers.create import create_optimizer
from nnx_alexnet.optimizers.gradients import (
    GradNormState,
    LossScaleState,
    count_skipped,
    dynamic_loss_scale,
    log_grad_norm,
    loss_scale,
    scalar_leaves,
    skip_leaves,
)
from nnx_alexnet.optimizers.groups import decayed, label_by_path, layer_factors
from nnx_alexnet.optimizers.rates import rate_leaves, scalable_leaves
from nnx_alexnet.optimizers.registry import OPTIMIZERS
from nnx_alexnet.optimizers.schedules import ScalableSchedule

__all__ = [
    "OPTIMIZERS",
    "GradNormState",
    "LossScaleState",
    "ScalableSchedule",
    "as_transformation",
    "check_optimizer",
    "count_skipped",
    "create_optimizer",
    "decayed",
    "dynamic_loss_scale",
    "extra_arguments",
    "label_by_path",
    "layer_factors",
    "log_grad_norm",
    "loss_scale",
    "rate_leaves",
    "scalable_leaves",
    "scalar_leaves",
    "skip_leaves",
    "untouched_parameters",
    "updated_once",
]
