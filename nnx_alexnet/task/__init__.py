"""What is learned: the loss of each example, and the metrics that accumulate."""

from nnx_alexnet.task.base import Classification, Outputs, Task
from nnx_alexnet.task.contract import (
    ContractError,
    check_metrics,
    check_outputs,
    check_predictions,
    check_same_rows,
    no_accidental_pairs,
)

__all__ = [
    "Classification",
    "ContractError",
    "Outputs",
    "Task",
    "check_metrics",
    "check_outputs",
    "check_predictions",
    "check_same_rows",
    "no_accidental_pairs",
]
