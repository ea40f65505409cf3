"""The parts of a `Trainer`; `fit_loop` contains the order of operations."""

from nnx_alexnet.training.default_callbacks import with_defaults, without_outputs
from nnx_alexnet.training.default_steps import ModuleSteps, eval_step, predict_step, train_step
from nnx_alexnet.training.descriptions import trainer_facts, trainer_text
from nnx_alexnet.training.history import History
from nnx_alexnet.training.hooks import Hooks
from nnx_alexnet.training.metric_names import (
    checked_metrics,
    names_at_epoch_ends,
    names_at_log_points,
)
from nnx_alexnet.training.model_arrays import ModelArrays
from nnx_alexnet.training.run_config import recorded_config
from nnx_alexnet.training.run_length import num_steps
from nnx_alexnet.training.settings import DEFAULT_EPOCHS, Settings, as_name, as_tags
from nnx_alexnet.training.start_checks import check_types
from nnx_alexnet.training.steps_per_dispatch import StepsPerExecution
from nnx_alexnet.training.trainable import Trainable, trainable_filter
from nnx_alexnet.training.unknown_arguments import explains_unknown_arguments
from nnx_alexnet.training.verbs import Verbs

__all__ = [
    "DEFAULT_EPOCHS",
    "History",
    "Hooks",
    "ModelArrays",
    "ModuleSteps",
    "Settings",
    "StepsPerExecution",
    "Trainable",
    "Verbs",
    "as_name",
    "as_tags",
    "check_types",
    "checked_metrics",
    "eval_step",
    "explains_unknown_arguments",
    "names_at_epoch_ends",
    "names_at_log_points",
    "num_steps",
    "predict_step",
    "recorded_config",
    "train_step",
    "trainable_filter",
    "trainer_facts",
    "trainer_text",
    "with_defaults",
    "without_outputs",
]
