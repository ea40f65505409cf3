"""What the TensorBoard callback writes: each function takes what is to be shown, and the writer."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from nnx_alexnet.dashboard.classification_results import ClassificationResults, class_labels
from nnx_alexnet.data import augmentation_key
from nnx_alexnet.devices import SharedProgram
from nnx_alexnet.runs import config_text
from nnx_alexnet.support import logger, printable

if TYPE_CHECKING:
    from nnx_alexnet.dashboard.event_writer import TensorBoardWriter
    from nnx_alexnet.trainer import Trainer

NUM_EXAMPLES = 16  # in a picture of images
_MOST_VALUES = 2**18  # of an array in a histogram: a sample of more looks the same


def open_writer(folder: str | Path) -> TensorBoardWriter:
    """Returns a writer of event files in a folder, which is made if it is missing.

    TensorBoard takes a while to import, so that waits until something is written.
    """
    from nnx_alexnet.dashboard.event_writer import TensorBoardWriter

    return TensorBoardWriter(folder)


def begin_session(trainer: Trainer, writer: Any) -> None:
    """Begins a session of the HParams tab; of a new run, says which metrics share a chart."""
    from nnx_alexnet.dashboard.event_writer import TensorBoardWriter

    hparams = flatten(trainer.config)
    if not isinstance(writer, TensorBoardWriter):  # CLU's have neither results nor charts
        writer.write_hparams(hparams)
        return
    names = sorted(trainer.metric_names)
    writer.write_hparams(hparams, metric_names=[n for n in names if not n.endswith("_step")])
    if trainer.global_step > 0:
        return
    metrics = [name.removeprefix("val/") for name in names if name.startswith("val/")]
    charts = {name: [f"train/{name}", f"val/{name}"] for name in metrics}
    writer.write_layout({name: pair for name, pair in charts.items() if pair[0] in names})


def end_session(success: bool, writer: Any) -> None:
    """Ends the session of the HParams tab."""
    from nnx_alexnet.dashboard.event_writer import TensorBoardWriter

    if isinstance(writer, TensorBoardWriter):
        writer.write_session_end(success=success)


def write_texts(trainer: Trainer, writer: Any) -> None:
    """Writes the model's layers and the configuration."""
    from nnx_alexnet.models import summarize

    texts = {"config": config_text(trainer.config)}
    try:
        shape = (trainer.batch_size or 1, *trainer.data.image_shape)
        texts["model/summary"] = summarize(trainer.model, shape)
    except Exception as error:  # a model may take other batches than of float32 images
        logger.debug("The model has no summary: %r", error)
    code = {name: as_code(text) for name, text in texts.items()}
    writer.write_texts(trainer.global_step, code)


def as_code(text: str) -> str:
    r"""Returns text as a block of code in Markdown, in which columns stay columns.

    Nothing in the text ends the block: the fence is longer than any other.

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
    trainer: Trainer, step: int, epoch: int, batch: Mapping[str, Any], writer: Any
) -> None:
    """Writes the images of a train batch as the network saw them, with their labels.

    Args:
        trainer: whose transform and seed are taken.
        step: the step that the batch was of.
        epoch: the epoch that it was of.
        batch: as hooks get it.
        writer: writes the picture.
    """
    from nnx_alexnet.dashboard.images import captioned

    transform, names = trainer.data.transform, trainer.data.class_names
    rows = np.flatnonzero(batch["mask"])[:NUM_EXAMPLES]
    key = augmentation_key(seed=trainer.seed, epoch=epoch)
    seen = _compiled(transform)(batch["image"][rows], key=key, index=batch["index"][rows])
    if _are_images(seen.shape[1:]):
        images = np.asarray(seen) * np.array(transform.std) + np.array(transform.mean)
        captions = [_caption(label, names) for label in batch["label"][rows]]
        writer.write_images(step, {"train/images": captioned(images, captions)})


@lru_cache(maxsize=1)
def _compiled(transform: Any) -> Any:
    return jax.jit(transform)


def write_filters(step: int, kernel: jax.Array, writer: Any) -> None:
    """Writes the filters of a convolution."""
    from nnx_alexnet.dashboard.images import filters

    writer.write_images(step, {"model/filters": filters(np.asarray(kernel))})


def write_results(
    step: int,
    results: ClassificationResults,
    class_names: Sequence[str] | None,
    wanted: Collection[str],
    writer: Any,
) -> None:
    """Writes what a validation got right and wrong; nothing where it was no classification.

    Args:
        step: the step that was validated.
        results: what was gathered.
        class_names: the name of each class; None numbers them.
        wanted: the tags of the pictures.
        writer: writes them.
    """
    from nnx_alexnet.dashboard import images as pictures

    if results.right is None or results.total is None:
        return
    names = class_labels(class_names, len(results.total))
    drawn = {}
    if "val/confusion_matrix" in wanted and results.counts is not None:
        drawn["val/confusion_matrix"] = pictures.confusion_matrix(results.counts, names)
    if "val/class_accuracy" in wanted:
        drawn["val/class_accuracy"] = pictures.class_accuracy(results.right, results.total, names)
    if "val/mistakes" in wanted and all(_are_images(m.image.shape) for m in results.mistakes):
        drawn["val/mistakes"] = pictures.mistakes(results.mistakes, names)
    writer.write_images(step, drawn)


def write_histograms(step: int, arrays: Mapping[str, jax.Array], writer: Any) -> None:
    """Writes the distribution of the values of each array."""
    writer.write_histograms(step, jax.device_get(dict(arrays)))


def first_kernel(
    parameters: Mapping[str, jax.Array], image_shape: tuple[int, ...]
) -> jax.Array | None:
    """Returns the kernel of the convolution that reads the images, None without one.

    Parameters come in the order of their names. Of kernels of as many channels as the images have
    (of one channel, those of a depthwise convolution look so too) it is the largest.
    """
    if not _are_images(image_shape):
        return None
    kernels = [a for a in parameters.values() if a.ndim == 4 and a.shape[2] == image_shape[-1]]
    return max(kernels, key=lambda kernel: kernel.shape[0] * kernel.shape[1], default=None)


@SharedProgram
@jax.jit
def samples(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns copies of the values of each array, or of an evenly spaced part of them."""

    def sample(array: jax.Array) -> jax.Array:
        stride = max(1, array.size // _MOST_VALUES)
        while array.ndim and math.gcd(stride, array.shape[-1]) > 1:
            stride += 1  # else always the same columns
        return jnp.copy(array).ravel()[::stride]

    return {name: sample(array) for name, array in arrays.items()}


def _are_images(shape: Sequence[int]) -> bool:
    return len(shape) == 3 and shape[-1] <= 4


def _caption(label: Any, class_names: Sequence[str] | None) -> str:
    """Returns what a label says: a class by its name; of soft labels the largest."""
    if np.ndim(label) == 1:
        label = np.argmax(label)
    if np.ndim(label) or not np.issubdtype(np.asarray(label).dtype, np.integer):
        return "" if np.ndim(label) else f"{label:.4g}"
    return printable(class_labels(class_names, int(label) + 1)[-1])


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, bool | float | str]:
    """Returns the bools, numbers and strings of a nested configuration by their dotted names.

    Example:
        >>> flatten({"seed": 0, "data": {"name": "digits", "std": [1.0]}})
        {'seed': 0, 'data.name': 'digits'}
    """
    flat: dict[str, bool | float | str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        elif isinstance(value, bool | int | float | str):
            flat[f"{prefix}{name}"] = value
    return flat
