"""Tasks define what a model learns: the loss of each example, and the metrics."""

from nnx_alexnet.task.averages import Loss, weighted_sums
from nnx_alexnet.task.base import Outputs, Task
from nnx_alexnet.task.binary import BinaryClassification, MultiLabelClassification
from nnx_alexnet.task.classification import Classification
from nnx_alexnet.task.contract import (
    ContractError,
    check_outputs,
    check_predictions,
    check_same_rows,
    no_accidental_pairs,
)
from nnx_alexnet.task.metric_checks import check_metrics, check_split_metrics, metric_name
from nnx_alexnet.task.sample_weights import weight_problem
from nnx_alexnet.task.split_metrics import SplitMetric

__all__ = [
    "BinaryClassification",
    "Classification",
    "ContractError",
    "Loss",
    "MultiLabelClassification",
    "Outputs",
    "SplitMetric",
    "Task",
    "check_metrics",
    "check_outputs",
    "check_predictions",
    "check_same_rows",
    "check_split_metrics",
    "metric_name",
    "no_accidental_pairs",
    "weight_problem",
    "weighted_sums",
]
