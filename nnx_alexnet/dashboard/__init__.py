"""The content of a run in TensorBoard, and the event files that store it."""

from nnx_alexnet.dashboard.classification_results import ClassificationResults, class_labels
from nnx_alexnet.dashboard.content import (
    NUM_EXAMPLES,
    begin_session,
    draw_mistakes,
    end_session,
    first_kernel,
    norm,
    open_writer,
    samples,
    write_columns,
    write_filters,
    write_histograms,
    write_inputs,
    write_norm,
    write_results,
    write_texts,
)
from nnx_alexnet.dashboard.event_reader import (
    Newest,
    StoredImage,
    drop_steps,
    read_newest,
    read_scalars,
)
from nnx_alexnet.dashboard.metric_writer import MetricWriter

__all__ = [
    "NUM_EXAMPLES",
    "ClassificationResults",
    "MetricWriter",
    "Newest",
    "StoredImage",
    "begin_session",
    "class_labels",
    "draw_mistakes",
    "drop_steps",
    "end_session",
    "first_kernel",
    "norm",
    "open_writer",
    "read_newest",
    "read_scalars",
    "samples",
    "write_columns",
    "write_filters",
    "write_histograms",
    "write_inputs",
    "write_norm",
    "write_results",
    "write_texts",
]
