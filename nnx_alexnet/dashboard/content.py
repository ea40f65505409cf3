"""Writes the content of a run for TensorBoard: each function writes one part of it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from nnx_alexnet.dashboard.classification_results import (
    ClassificationResults,
    Mistake,
    class_labels,
)
from nnx_alexnet.dashboard.hparams import FIRST_HPARAMS, hyperparameters, metric_columns
from nnx_alexnet.dashboard.metric_writer import MetricWriter
from nnx_alexnet.data import DataModule, are_images, augmentation_key, batch_sheet
from nnx_alexnet.devices import SharedProgram
from nnx_alexnet.runs import class_metrics, config_text, validation_splits
from nnx_alexnet.support import RGB, printable

if TYPE_CHECKING:
    from nnx_alexnet.dashboard.event_writer import TensorBoardWriter

NUM_EXAMPLES = 16  # on a sheet of images
_MAX_VALUES = 2**18  # of an array in a histogram; with more values it looks the same


def open_writer(folder: str | Path) -> TensorBoardWriter:
    """Returns a writer of event files in a folder, which is created if it is missing.

    TensorBoard is imported here because the import is slow, and not every program writes events.
    """
    from nnx_alexnet.dashboard.event_writer import TensorBoardWriter

    return TensorBoardWriter(folder)


def begin_session(
    writer: MetricWriter,
    *,
    config: Mapping[str, Any],
    metric_names: Iterable[str],
    first_step: int,
) -> None:
    """Begins a session of the HParams tab, and groups the metrics of a new run into charts.

    Args:
        writer: a `TensorBoardWriter` also receives the charts; any other writer receives only the
            hyperparameters.
        config: the configuration of the run, nested.
        metric_names: all metrics that the run may publish.
        first_step: the first step that follows; 0 for a new run.
    """
    from nnx_alexnet.dashboard.event_writer import TensorBoardWriter

    if not isinstance(writer, TensorBoardWriter):
        writer.write_hparams(hyperparameters(config))
        return
    writer.write_restart(first_step)
    writer.write_hparams(hyperparameters(config))
    if first_step == 0:
        names = {*metric_names}
        names -= class_metrics(names).keys()
        # Several validation sets share a chart: "val/clean/loss" and "val/shifted/loss".
        charts: dict[str, list[str]] = {}
        for split in ("train", *sorted({*validation_splits(names), "val"})):
            for name in names:
                if name.startswith(f"{split}/"):
                    charts.setdefault(name.removeprefix(f"{split}/"), []).append(name)
        order = sorted(charts, key=lambda metric: (metric not in ("loss", "accuracy"), metric))
        writer.write_layout({name: charts[name] for name in order if len(charts[name]) > 1})


def write_columns(
    writer: MetricWriter, *, config: Mapping[str, Any], metric_names: Iterable[str]
) -> None:
    """Writes which metrics the HParams tab shows.

    Args:
        writer: only a `TensorBoardWriter` receives them.
        config: the configuration of the run, nested.
        metric_names: the metrics that the run has published.
    """
    from nnx_alexnet.dashboard.event_writer import TensorBoardWriter

    if isinstance(writer, TensorBoardWriter):
        writer.write_columns(
            hyperparameters(config), metric_columns(metric_names), first=FIRST_HPARAMS
        )


def end_session(writer: MetricWriter, *, success: bool) -> None:
    """Ends the session of the HParams tab."""
    from nnx_alexnet.dashboard.event_writer import TensorBoardWriter

    if isinstance(writer, TensorBoardWriter):
        writer.write_session_end(success=success)


def write_texts(
    writer: MetricWriter, *, step: int, config: Mapping[str, Any], summary: str
) -> None:
    """Writes the model's layers and the configuration.

    Args:
        writer: receives the texts.
        step: the current optimizer step.
        config: the configuration of the run, nested.
        summary: the table of the model's layers.
    """
    texts = {"config": config_text(config), "model/summary": summary}
    writer.write_texts(step, {name: as_code(text) for name, text in texts.items()})


def as_code(text: str) -> str:
    r"""Returns text as a Markdown code block, which keeps its columns aligned.

    The fence is longer than any fence in the text, so nothing in the text ends the block.

    Example:
        >>> from nnx_alexnet.dashboard.content import as_code
        >>> as_code("a  b")
        '```\na  b\n```'
    """
    text = printable(text, keep="\n")  # Markdown drops some control characters
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"


def write_inputs(
    writer: MetricWriter,
    *,
    step: int,
    epoch: int,
    batch: Mapping[str, Any],
    data: DataModule,
    seed: int,
) -> None:
    """Writes images of a train batch as the model received them, with their labels.

    Nothing is written if the batch has no images. Only the rows that are shown are transformed, so
    a transform that mixes examples mixes these.

    Args:
        writer: receives the images.
        step: the step that used the batch.
        epoch: the epoch of that step.
        batch: as hooks receive it.
        data: contains the transform and the names of the classes.
        seed: the seed of the run, for the augmentation.
    """
    key = augmentation_key(seed=seed, epoch=epoch)
    sheet = batch_sheet(
        batch,
        transform=data.transform,
        key=key,
        class_names=data.class_names,
        count=NUM_EXAMPLES,
    )
    if sheet is not None:
        writer.write_images(step, {"train/images": sheet})


def write_filters(writer: MetricWriter, *, step: int, kernel: jax.Array) -> None:
    """Writes the filters of a convolution."""
    from nnx_alexnet.dashboard.images import filters

    writer.write_images(step, {"model/filters": filters(np.asarray(kernel))})


def write_results(
    writer: MetricWriter,
    *,
    step: int,
    results: ClassificationResults,
    class_names: Sequence[str] | None,
    tags: Collection[str],
) -> None:
    """Writes the results of a validation, or nothing if it was not a classification.

    Args:
        writer: receives the images.
        step: the step that was validated.
        results: the collected results.
        class_names: the name of each class; None uses their numbers.
        tags: the images to write: `val/confusion_matrix`, `val/class_accuracy`, `val/mistakes`.
    """
    from nnx_alexnet.dashboard import images

    if results.right is None or results.total is None:
        return
    names = class_labels(class_names, len(results.total))
    drawn = {}
    if "val/confusion_matrix" in tags and results.counts is not None:
        drawn["val/confusion_matrix"] = images.confusion_matrix(results.counts, names)
    if "val/class_accuracy" in tags:
        drawn["val/class_accuracy"] = images.class_accuracy(results.right, results.total, names)
    if "val/mistakes" in tags and all(are_images(m.image.shape) for m in results.mistakes):
        drawn["val/mistakes"] = images.mistakes(results.mistakes, names)
    writer.write_images(step, drawn)


def draw_mistakes(mistakes: Sequence[Mistake], class_names: Sequence[str]) -> RGB:
    """Draws misclassified examples with their captions; see `images.mistakes`.

    Pillow is imported here, because not every program draws.
    """
    from nnx_alexnet.dashboard import images

    return images.mistakes(mistakes, class_names)


def write_histograms(writer: MetricWriter, *, step: int, arrays: Mapping[str, jax.Array]) -> None:
    """Writes the distribution of the values of each array."""
    writer.write_histograms(step, jax.device_get(dict(arrays)))


def write_norm(writer: MetricWriter, *, step: int, name: str, value: jax.Array) -> None:
    """Reads a norm from the device, and writes it."""
    writer.write_scalars(step, {name: float(value)})


def first_kernel(
    parameters: Mapping[str, jax.Array], image_shape: tuple[int, ...]
) -> jax.Array | None:
    """Returns the kernel of the convolution that reads the images; None if there is none.

    The names of the parameters do not identify the first layer. The largest kernel that has as many
    input channels as the images is chosen: kernels of depthwise convolutions also have one input
    channel, but are smaller.
    """
    if not are_images(image_shape):
        return None
    kernels = [a for a in parameters.values() if a.ndim == 4 and a.shape[2] == image_shape[-1]]
    return max(kernels, key=lambda kernel: kernel.shape[0] * kernel.shape[1], default=None)


@SharedProgram
@jax.jit
def norm(arrays: dict[str, jax.Array]) -> jax.Array:
    """Returns the Euclidean norm of all values of all arrays."""
    squares = (jnp.sum(jnp.square(jnp.abs(a).astype(jnp.float32))) for a in arrays.values())
    return jnp.sqrt(sum(squares, start=jnp.zeros((), jnp.float32)))


@SharedProgram
@jax.jit
def samples(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns copies of the values of each array, or of evenly spaced values of large arrays."""

    def sample(array: jax.Array) -> jax.Array:
        stride = max(1, array.size // _MAX_VALUES)
        while array.ndim and math.gcd(stride, array.shape[-1]) > 1:
            stride += 1  # otherwise, some columns would never be sampled
        return jnp.copy(array).ravel()[::stride]

    return {name: sample(array) for name, array in arrays.items()}
