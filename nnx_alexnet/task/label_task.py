"""`LabelTask`: what classification, binary and multi-label classification have in common."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import flax
import jax
from clu.metrics import Collection, Metric

from nnx_alexnet.support import check_number, unknown
from nnx_alexnet.task.base import Task
from nnx_alexnet.task.class_counts import class_score
from nnx_alexnet.task.split_metrics import SplitMetric

if TYPE_CHECKING:
    from nnx_alexnet.data import DataModule

ClassMetric = Literal["precision", "recall", "f1", "auroc"]
CLASS_METRICS: tuple[ClassMetric, ...] = get_args(ClassMetric)


class LabelTask(Task):
    """Base class of tasks with logits and labels, and with metrics that are chosen by name.

    A subclass overrides the methods whose names begin with an underscore.

    Args:
        focal_gamma: the exponent of the focal loss.
        metrics: the names of further metrics.

    Raises:
        ValueError: an argument is outside its range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nnx_alexnet import Classification
        >>> outputs = {"logits": jax.ShapeDtypeStruct((8, 3), jnp.float32)}
        >>> [*Classification(metrics=["f1"]).collection(outputs).__annotations__]
        ['loss', 'accuracy', 'f1']
    """

    def __init__(self, focal_gamma: float, metrics: Sequence[ClassMetric]) -> None:
        reason = "0 is plain cross-entropy, 2 is common"
        check_number("focal_gamma", focal_gamma, "[0, inf)", reason=reason)
        self.focal_gamma = focal_gamma
        self.class_metrics = checked_class_metrics(metrics)
        self._class_names: tuple[str, ...] | None = None

    def _logits(self, logits: Any) -> jax.Array:
        """Returns what the model returned as `float32[N, ...]`, or raises a `ValueError`."""
        raise NotImplementedError

    def _logits_of_mean(self, logits: jax.Array) -> jax.Array:
        """Returns the logits of the mean of the probabilities over the second axis."""
        raise NotImplementedError

    def _averages(self, num_classes: int) -> dict[str, type[Metric]]:
        """Returns the loss and the metrics that are always computed, by name."""
        raise NotImplementedError

    def _classes(self, outputs: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
        """Returns the predicted and the right classes, each `bool[B, K]`."""
        raise NotImplementedError

    def _auroc(self) -> Callable[..., float]:
        """Returns the function of `logits`, `labels` and weights that computes AUROC."""
        raise NotImplementedError

    def for_data(self, data: DataModule) -> Self:
        """Returns a copy with the class names if they name metrics; else itself."""
        if not self.class_metrics:
            return self
        bound = copy.copy(self)
        bound._class_names = data.class_names
        return bound

    def logits_of(self, model: Callable[..., Any], batch: Mapping[str, Any]) -> jax.Array:
        """Returns the logits of `image`, or of the mean probabilities of `views`.

        `ImageTransform(ten_crops=True)` adds `views`, `[B, V, ...]`, in evaluation.
        """
        if "views" not in batch:
            return self._logits(model(batch["image"]))
        views = batch["views"]
        num, count = views.shape[:2]
        logits = self._logits(model(views.reshape(num * count, *views.shape[2:])))
        return self._logits_of_mean(logits.reshape(num, count, *logits.shape[1:]))

    def collection(self, outputs: Mapping[str, jax.ShapeDtypeStruct]) -> type[Collection]:
        """Returns loss, accuracy, and the chosen metrics.

        The `metrics` of a subclass replace the loss and the accuracy.
        """
        if "logits" not in outputs:  # of a subclass
            return self.metrics
        shape = outputs["logits"].shape
        num_classes = shape[1] if len(shape) > 1 else 1
        base = self.metrics
        if base is Task.metrics:
            base = Collection.create(**self._averages(num_classes))
        scores = {
            score: class_score(score, self._classes, self._class_names, num_classes)
            for score in self.class_metrics
            if score != "auroc"  # which `split_metrics` computes
        }
        if not scores or not isinstance(base, type):
            return base
        annotations = {**vars(base).get("__annotations__", {}), **scores}
        whole: type[Collection] = flax.struct.dataclass(
            type(base.__name__, (base,), {"__annotations__": annotations})
        )
        return whole

    def split_metrics(
        self, outputs: Mapping[str, jax.ShapeDtypeStruct]
    ) -> Mapping[str, SplitMetric]:
        """Returns AUROC if it was chosen."""
        if "auroc" not in self.class_metrics or "logits" not in outputs:
            return {}
        return {"auroc": SplitMetric(self._auroc(), ("logits", "labels"), "example_weight")}


def checked_class_metrics(metrics: Any) -> tuple[ClassMetric, ...]:
    """Returns the names of metrics as a tuple without repetitions.

    Raises:
        ValueError: a name is unknown.

    Example:
        >>> from nnx_alexnet.task.label_task import checked_class_metrics
        >>> checked_class_metrics(["f1", "recall", "f1"])
        ('f1', 'recall')
    """
    if isinstance(metrics, str) or not isinstance(metrics, Sequence):
        raise ValueError(
            f"`metrics` (={metrics!r}) must be a tuple of names: {', '.join(CLASS_METRICS)}."
        )
    for name in metrics:
        if name == "confusion":
            raise ValueError(
                '`metrics` (="confusion") must be numbers. The TensorBoard callback draws the '
                "confusion matrix, and so does `nnx-alexnet report`. As an array, it is "
                "sklearn.metrics.confusion_matrix(labels, trainer.predict(split).argmax(axis=1))."
            )
        if name in ("accuracy", "acc", "loss"):
            raise ValueError(
                f"`metrics` (={name!r}) is measured anyway, as are all losses and accuracies. Name "
                f"only further metrics: {', '.join(CLASS_METRICS)}."
            )
        if name not in CLASS_METRICS:
            raise unknown("metrics", name, CLASS_METRICS)
    return tuple(dict.fromkeys(metrics))
