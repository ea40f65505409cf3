"""Callbacks, one class per file; README.md documents the order of their hooks."""

from nnx_alexnet.callbacks.base import BETWEEN_DISPATCHES as BETWEEN_DISPATCHES
from nnx_alexnet.callbacks.base import Callback as Callback
from nnx_alexnet.callbacks.base import Stage as Stage
from nnx_alexnet.callbacks.callback_list import CallbackList as CallbackList
from nnx_alexnet.callbacks.device_monitor import DeviceMonitor as DeviceMonitor
from nnx_alexnet.callbacks.early_stopping import EarlyStopping as EarlyStopping
from nnx_alexnet.callbacks.early_stopping import StopReason as StopReason
from nnx_alexnet.callbacks.gradual_unfreezing import GradualUnfreezing as GradualUnfreezing
from nnx_alexnet.callbacks.json_logger import JSONLogger as JSONLogger
from nnx_alexnet.callbacks.learning_rate_monitor import LearningRateMonitor as LearningRateMonitor
from nnx_alexnet.callbacks.metric_monitor import MetricMonitor as MetricMonitor
from nnx_alexnet.callbacks.model_checkpoint import ModelCheckpoint as ModelCheckpoint
from nnx_alexnet.callbacks.profiler import Profiler as Profiler
from nnx_alexnet.callbacks.progress_bar import ProgressBar as ProgressBar
from nnx_alexnet.callbacks.reduce_lr_on_plateau import ReduceLROnPlateau as ReduceLROnPlateau
from nnx_alexnet.callbacks.run_summary import RunSummary as RunSummary
from nnx_alexnet.callbacks.run_summary import run_facts as run_facts
from nnx_alexnet.callbacks.tensorboard import TensorBoard as TensorBoard
from nnx_alexnet.callbacks.throughput_monitor import ThroughputMonitor as ThroughputMonitor
from nnx_alexnet.callbacks.timer import Timer as Timer
from nnx_alexnet.callbacks.validate_at_start import ValidateAtStart as ValidateAtStart
from nnx_alexnet.callbacks.weight_averaging import EMA as EMA
from nnx_alexnet.callbacks.weight_averaging import SWA as SWA
from nnx_alexnet.callbacks.weight_averaging import WeightAveraging as WeightAveraging

__all__ = [
    "BETWEEN_DISPATCHES",
    "EMA",
    "SWA",
    "Callback",
    "DeviceMonitor",
    "EarlyStopping",
    "GradualUnfreezing",
    "JSONLogger",
    "LearningRateMonitor",
    "MetricMonitor",
    "ModelCheckpoint",
    "Profiler",
    "ProgressBar",
    "ReduceLROnPlateau",
    "RunSummary",
    "StopReason",
    "TensorBoard",
    "ThroughputMonitor",
    "Timer",
    "ValidateAtStart",
    "WeightAveraging",
]
