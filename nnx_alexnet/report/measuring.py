"""Measures a checkpoint of a run on its own data: predictions, notable examples, saliency."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from nnx_alexnet.checkpoints import Choice, choose_checkpoint, load_chosen
from nnx_alexnet.devices import model_state
from nnx_alexnet.report.notable import Example, Notable
from nnx_alexnet.report.saliency import saliency
from nnx_alexnet.support import first_line, logger
from nnx_alexnet.task import BinaryClassification, MultiLabelClassification, Task

if TYPE_CHECKING:
    from nnx_alexnet.data import Loader
    from nnx_alexnet.trainer import Trainer

MAX_EXAMPLES = 100_000  # of one split; each has a row of probabilities in memory
_NUM_MAPS = 2  # of each kind of example
_ADDED = ("mask", "index")


@dataclass(frozen=True)
class Predictions:
    """The predictions of one split.

    Attributes:
        labels: `int64[N]`, the class of each example.
        probabilities: `float32[N, K]`.
        is_whole: whether these are all examples of the split.
        examples: some of them, by kind: "correct", "uncertain" and "wrong".
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    is_whole: bool
    examples: dict[str, list[Example]]


@dataclass(frozen=True)
class Measurement:
    """The measurements of a run.

    Attributes:
        checkpoint: the checkpoint.
        is_average: whether its weights are averages over steps, which the run kept.
        splits: the predictions of `val` (or of each set, such as `val/clean`) and `test`, of those
            that the data have.
        class_counts: `int64[K]` of each split whose labels are known.
        data: the description of the data.
        summary: the table of the model's layers.
    """

    checkpoint: Choice
    is_average: bool
    splits: dict[str, Predictions]
    class_counts: dict[str, NDArray[np.int64]]
    data: dict[str, Any]
    summary: str


def measure(trainer: Trainer, run_dir: Path, checkpoint: str | int = "auto") -> Measurement:
    """Measures a checkpoint of a run; the trainer's model does not change.

    Args:
        trainer: has the model, the task and the data of the run.
        run_dir: the folder of the run.
        checkpoint: `"auto"` (the default): the best if a metric ranked the run's checkpoints, else
            the latest; `"best"`, `"last"`, or a step.

    Raises:
        ValueError: there is no such checkpoint, the data have neither a validation nor a test
            split, or the task does not predict the probabilities of classes.
    """
    if jax.process_count() > 1:
        raise ValueError("A run can be measured only in a single process.")
    chosen = choose_checkpoint(run_dir, checkpoint)
    with _weights_of(chosen, trainer.model):
        loaders = {**trainer.data.val_sets, "test": trainer.data.test}
        splits = {
            name: _predictions(trainer, loader)
            for name, loader in loaders.items()
            if loader is not None
        }
        if not splits:
            raise ValueError("The data of the run have neither a validation nor a test split.")
        summary = trainer.summary(width=400)
    num_classes = next(iter(splits.values())).probabilities.shape[1]
    counts = {"train": trainer.data.train.labels()}
    counts |= {name: split.labels for name, split in splits.items() if split.is_whole}
    return Measurement(
        checkpoint=chosen,
        is_average=(chosen.path / "evaluation").is_dir(),
        splits=splits,
        class_counts={
            name: np.bincount(labels, minlength=num_classes)
            for name, labels in counts.items()
            if labels is not None
        },
        data=trainer.data.describe(),
        summary=summary,
    )


@contextmanager
def _weights_of(chosen: Choice, model: nnx.Module) -> Iterator[None]:
    """Loads a checkpoint, and restores the values that the model had before."""
    before = jax.tree.map(lambda leaf: leaf, model_state(model))
    load_chosen(chosen, model)
    try:
        yield
    finally:
        nnx.update(model, before)


def _predictions(trainer: Trainer, loader: Loader) -> Predictions:
    labels: list[NDArray[Any]] = []
    probabilities: list[NDArray[Any]] = []
    notable = Notable()
    waiting: deque[dict[str, Any]] = deque()
    num_read = 0
    is_whole = True

    def batches() -> Iterator[dict[str, Any]]:
        nonlocal num_read, is_whole
        for batch in loader.in_order().batches():
            if num_read >= MAX_EXAMPLES:
                is_whole = False
                return
            mask = batch["mask"]
            fields = {
                name: jax.tree.map(lambda array, mask=mask: array[mask], batch[name])
                for name in batch
                if name not in _ADDED
            }
            num_read += int(mask.sum())
            waiting.append({"fields": fields, "index": batch["index"][mask]})
            yield fields

    with closing(trainer.predict_batches(batches())) as results:
        for found in results:
            given = waiting.popleft()
            rows = _of_classes(trainer.task, given["fields"], found)
            classes = _classes(given["fields"], rows)
            labels.append(classes)
            probabilities.append(rows)
            notable.add(given["fields"], given["index"], classes, rows)
    if not labels:
        raise ValueError(f"The split `{loader.argument}` has no examples.")
    examples = notable.examples()
    _add_saliency(trainer, [*chain.from_iterable(f[:_NUM_MAPS] for f in examples.values())])
    return Predictions(np.concatenate(labels), np.concatenate(probabilities), is_whole, examples)


def _add_saliency(trainer: Trainer, examples: list[Example]) -> None:
    try:
        maps = saliency(trainer, examples)
    except Exception as error:  # examples of several lengths, or a model without gradients
        logger.warning("The report has no saliency: %s", first_line(error))
        return
    for example, values in zip(examples, maps, strict=False):
        example.saliency = values


def _of_classes(task: Task, fields: dict[str, Any], rows: Any) -> Any:
    """Returns the probabilities of the classes 0 and 1 of a binary task, and makes labels classes.

    Raises:
        ValueError: the report would not show the predictions of the task.
    """
    if not isinstance(task, MultiLabelClassification):
        return rows
    if not isinstance(task, BinaryClassification):
        raise ValueError(
            f"{type(task).__name__} has several labels per example, but the report measures one "
            "class per example. The metrics that the run recorded are below."
        )
    if task.threshold != 0.5:
        raise ValueError(
            f"The task predicts class 1 above {task.threshold}, but the report measures the most "
            "probable class. The metrics that the run recorded are below."
        )
    fields["label"] = (np.asarray(fields["label"]).reshape(len(rows)) > 0.5).astype(np.int32)
    return np.stack([1 - rows, rows], axis=-1)


def _classes(fields: Mapping[str, Any], rows: Any) -> NDArray[np.int64]:
    """Returns the class of each row, `int64[B]`; refuses what is not a classification."""
    label = fields.get("label")
    is_matrix = isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.shape[1] > 1
    if is_matrix and isinstance(label, np.ndarray) and label.shape == rows.shape:
        label = label.argmax(axis=1)  # one-hot, or soft
    is_class = isinstance(label, np.ndarray) and label.ndim == 1 and label.dtype.kind in "iub"
    if is_matrix and not np.isfinite(rows).all():
        raise ValueError("The model of the checkpoint predicts NaN or infinity.")
    if not is_matrix or not is_class or not np.allclose(rows.sum(axis=1), 1, atol=1e-2):
        raise ValueError("The task of the run does not predict the probabilities of classes.")
    assert isinstance(label, np.ndarray)
    low, high, num_classes = label.min(initial=0), label.max(initial=0), rows.shape[1]
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"A split has labels from {low} to {high}; the model predicts {num_classes} classes."
        )
    return label.astype(np.int64)
