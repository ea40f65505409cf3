"""The parts of a `Trainer`; `fit_loop` contains the order of operations."""

from nnx_alexnet.training.default_callbacks import (
    find_averaging,
    with_defaults,
    without_outputs,
)
from nnx_alexnet.training.default_steps import eval_step, predict_step, train_step
from nnx_alexnet.training.descriptions import trainer_facts, trainer_text
from nnx_alexnet.training.evaluation_loop import EvaluationLoop
from nnx_alexnet.training.fit_loop import FitLoop
from nnx_alexnet.training.history import History, Metrics
from nnx_alexnet.training.hooks import Hooks
from nnx_alexnet.training.initial_weights import forget as forget_initial_weights
from nnx_alexnet.training.joined_rows import joined
from nnx_alexnet.training.lifecycle import Lifecycle
from nnx_alexnet.training.metric_names import (
    names_at_epoch_ends,
    names_at_log_points,
    own_names,
)
from nnx_alexnet.training.micro_batches import MicroBatches
from nnx_alexnet.training.mistakes import MistakeCollector
from nnx_alexnet.training.model_arrays import ModelArrays
from nnx_alexnet.training.preparation import ModuleSteps, Preparation
from nnx_alexnet.training.progress import Progress
from nnx_alexnet.training.requests import Agreement, Requests
from nnx_alexnet.training.run import Run
from nnx_alexnet.training.run_config import recorded_config
from nnx_alexnet.training.run_identity import Ingredients
from nnx_alexnet.training.run_length import num_steps
from nnx_alexnet.training.settings import DEFAULT_EPOCHS, Settings, as_name, as_tags
from nnx_alexnet.training.start_checks import check_types
from nnx_alexnet.training.start_reports import report_frozen_layers, report_trained_parameters
from nnx_alexnet.training.steps_per_dispatch import StepsPerExecution
from nnx_alexnet.training.tracing import EvaluationTrace, TrainingTrace
from nnx_alexnet.training.trainable import Trainable, trainable_filter
from nnx_alexnet.training.unknown_arguments import explains_unknown_arguments

__all__ = [
    "DEFAULT_EPOCHS",
    "Agreement",
    "EvaluationLoop",
    "EvaluationTrace",
    "FitLoop",
    "History",
    "Hooks",
    "Ingredients",
    "Lifecycle",
    "Metrics",
    "MicroBatches",
    "MistakeCollector",
    "ModelArrays",
    "ModuleSteps",
    "Preparation",
    "Progress",
    "Requests",
    "Run",
    "Settings",
    "StepsPerExecution",
    "Trainable",
    "TrainingTrace",
    "as_name",
    "as_tags",
    "check_types",
    "eval_step",
    "explains_unknown_arguments",
    "find_averaging",
    "forget_initial_weights",
    "joined",
    "names_at_epoch_ends",
    "names_at_log_points",
    "num_steps",
    "own_names",
    "predict_step",
    "recorded_config",
    "report_frozen_layers",
    "report_trained_parameters",
    "train_step",
    "trainable_filter",
    "trainer_facts",
    "trainer_text",
    "with_defaults",
    "without_outputs",
]
