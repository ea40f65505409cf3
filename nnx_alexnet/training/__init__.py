"""The parts of a Trainer: loops, compiled steps, requests, and what a run holds."""

from nnx_alexnet.training.compiled_steps import Steps
from nnx_alexnet.training.epoch_metrics import EpochMeter
from nnx_alexnet.training.evaluator import Evaluator
from nnx_alexnet.training.flops import flops_utilization, peak_memory
from nnx_alexnet.training.history import History
from nnx_alexnet.training.loop import TrainLoop
from nnx_alexnet.training.resuming import Boundary
from nnx_alexnet.training.signals import graceful_stop
from nnx_alexnet.training.steps_per_dispatch import StepsPerExecution

__all__ = [
    "Boundary",
    "EpochMeter",
    "Evaluator",
    "History",
    "Steps",
    "StepsPerExecution",
    "TrainLoop",
    "flops_utilization",
    "graceful_stop",
    "peak_memory",
]
