"""Classification: softmax cross-entropy, weighted or focal, with accuracy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu.metrics import Metric
from flax import nnx
from numpy.typing import NDArray

from nnx_alexnet.support import check_number
from nnx_alexnet.task.averages import Loss, weighted_average
from nnx_alexnet.task.base import Outputs
from nnx_alexnet.task.class_weights import checked_weights, train_counts, weights_of_classes
from nnx_alexnet.task.focal import focal_factor
from nnx_alexnet.task.label_task import ClassMetric, LabelTask
from nnx_alexnet.task.sample_weights import batch_weights
from nnx_alexnet.task.split_metrics import class_auroc

if TYPE_CHECKING:
    from nnx_alexnet.data import DataModule

# How far the sum of a row of probabilities may be from 1: the rounding error of bfloat16 rows.
_SUM_TOLERANCE = 1e-2

_OTHER_TASKS = (
    "For binary labels use `BinaryClassification`, for several labels per example "
    "`MultiLabelClassification`. To predict numbers, subclass `Task`, with the loss "
    "optax.squared_error(outputs, labels).mean(axis=-1)."
)


def _checked_logits(logits: Any) -> jax.Array:
    """Returns logits as `float32[B, K]`.

    Raises:
        ValueError: the model returned something else.
    """
    if getattr(logits, "ndim", None) != 2:
        raise ValueError(
            f"`model` returns {jax.tree.map(jnp.shape, logits)} for a batch; "
            "`Classification` requires logits of shape (batch, num_classes). Subclass `Task` "
            "to learn from another output."
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"`model` returns {logits.dtype}{list(logits.shape)} for a batch; `Classification` "
            "requires floating-point logits, one per class, before any argmax or comparison."
        )
    if logits.shape[-1] < 2:
        raise ValueError(
            "`model` returns one logit per example; `Classification` requires one per class, and "
            "at least two classes, because the softmax of a single logit is always 1. "
            f"{_OTHER_TASKS}"
        )
    return jnp.asarray(logits, jnp.float32)


def _is_right(logits: jax.Array, labels: jax.Array, **_: jax.Array) -> jax.Array:
    """Returns whether the right class has the largest logit, `float32[B]`."""
    return (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)


def _in_top_5(logits: jax.Array, labels: jax.Array, **_: jax.Array) -> jax.Array:
    """Returns whether the right class is among the five largest logits, `float32[B]`.

    The order is that of `jax.lax.top_k`: the first of equal logits comes first, and a NaN is larger
    than any number. `jax.lax.top_k` itself would make every device sort the logits of the whole
    batch.
    """
    right = jnp.take_along_axis(logits, labels[:, None], axis=1)
    is_before = jnp.arange(logits.shape[1], dtype=labels.dtype) < labels[:, None]
    is_nan, is_right_nan = jnp.isnan(logits), jnp.isnan(right)
    is_equal = (logits == right) | (is_nan & is_right_nan)
    is_ahead = (logits > right) | (is_nan & ~is_right_nan) | (is_equal & is_before)
    return (jnp.sum(is_ahead, axis=1) < 5).astype(jnp.float32)


# To add a metric, add a line: its name in the logs, and a metric of `clu.metrics` that reads what
# `Classification.outputs` returns (`loss`, `logits`, `labels`). Tables and reports rank it by its
# name (`larger_is_better` in `runs/reader.py`). A run saved without it resumes only with
# `accept="task"`.
_METRICS: dict[str, type[Metric]] = {
    "loss": Loss,
    "accuracy": weighted_average(_is_right, "example_weight"),
}
_METRICS_OF_MANY_CLASSES: dict[str, type[Metric]] = {  # for more than ten
    "top_5_accuracy": weighted_average(_in_top_5, "example_weight"),
}


class Classification(LabelTask):
    """Softmax cross-entropy from integer, one-hot or soft labels, with accuracy.

    With more than ten classes, top-5 accuracy is added. A subclass can replace these metrics by
    setting `metrics`; those chosen by name are added to them. The loss is computed in float32,
    whatever the model's precision. For integer labels it is the cross-entropy against their one-hot
    rows. Soft labels are rows of probabilities, and the accuracy compares with the class of the
    largest one; other floating-point labels are an error.

    If a batch has several `views` of each image, as from `ImageTransform(ten_crops=True)`, their
    probabilities are averaged, and `image` is not used.

    The batch key `weight` (`[B]`, optional, not negative) weights the examples. The loss of a batch
    and each metric of a split are then sum(w x) / sum(w), as with scikit-learn's `sample_weight`.
    `class_weights` multiply these weights in the loss only, in training and in evaluation, like the
    `weight` of `torch.nn.CrossEntropyLoss`.

    Args:
        label_smoothing: the share of each label that is spread evenly over all classes, in
            [0, 1) (default 0; Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, section 7).
        class_weights: the weight of each class in the loss, one number per class; `"balanced"`: N /
            (K n) for a class with n of the N training examples, as in scikit-learn, so that all K
            classes count equally; None (the default): all 1.
        focal_gamma: the exponent of the focal loss, which multiplies each term of the cross-entropy
            by (1 - p)^gamma, so that easy examples count less (default 0: plain
            cross-entropy; 2 is common; Lin et al. 2017, https://arxiv.org/abs/1708.02002,
            equation 4).
        metrics: further metrics (default: none). `"precision"`, `"recall"` and `"f1"` are means
            over the classes (macro), such as `val/f1`; with at most 100 classes, each class also
            has its own, such as `val/f1/cat`. `"auroc"`, the area under the ROC curve of each class
            against the rest (macro), is computed in validation and test only, because it needs all
            logits of a split in the host's memory. The confusion matrix is not a metric; the
            `TensorBoard` callback and `nnx-alexnet report` draw it.

    Raises:
        ValueError: an argument is outside its range; or, when a trainer is created, balanced
            weights are requested but the classes of the training examples are not known.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.task.classification import Classification
        >>> batch = {"image": jnp.zeros((1, 2)), "label": jnp.array([1], dtype=jnp.int32)}
        >>> outputs = Classification().outputs(lambda image: image, batch)
        >>> print(f"{outputs['loss'][0]:.4f}")  # log(2): both classes are equally likely
        0.6931
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        *,
        class_weights: Literal["balanced"] | Sequence[float] | None = None,
        focal_gamma: float = 0.0,
        metrics: Sequence[ClassMetric] = (),
    ) -> None:
        super().__init__(focal_gamma, metrics)
        check_number("label_smoothing", label_smoothing, "[0, 1)", reason="0.1 is common")
        self.label_smoothing = label_smoothing
        self.class_weights = checked_weights(class_weights)
        self._counts: NDArray[np.int64] | None = None  # of the training examples, if balanced

    def for_data(self, data: DataModule) -> Self:
        """Returns the task with the class names and the balanced weights that it needs.

        Raises:
            ValueError: the classes of the training examples are not known.
        """
        bound = super().for_data(data)
        if self.class_weights == "balanced":
            bound = copy.copy(bound)
            bound._counts = train_counts(data)
        return bound

    def outputs(self, model: nnx.Module, batch: Mapping[str, Any]) -> Outputs:
        """Returns `loss` (`[B]`), `logits` (`[B, K]`) and `labels` (`int32[B]`).

        With weights, it also returns `weight` (`[B]`), which the loss is averaged with, and
        `example_weight` (`[B]`), that of the batch.

        Raises:
            ValueError: the model does not return logits, or the labels do not fit them.
        """
        label = batch["label"]
        logits = self.logits_of(model, batch)
        num_classes = logits.shape[-1]
        if label.ndim == 1 and not jnp.issubdtype(label.dtype, jnp.inexact):
            labels = label.astype(jnp.int32)
            target = jax.nn.one_hot(labels, num_classes)
        elif label.shape == logits.shape and jnp.issubdtype(label.dtype, jnp.floating):
            labels = jnp.argmax(label, axis=-1).astype(jnp.int32)
            target = label.astype(jnp.float32)
        else:
            raise ValueError(
                f"`data` has labels of shape {label.shape[1:]} and dtype {label.dtype} per "
                f"example; `Classification` with a model of {num_classes} classes requires "
                f"integers, or one-hot or soft labels of shape ({num_classes},) and dtype "
                "float32. Subclass `Task` to learn from other targets."
            )
        losses, weight = self._losses(logits, target)
        found = {"loss": losses, "logits": logits, "labels": labels}
        return found | batch_weights(batch, weight)

    def _losses(self, logits: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Returns the loss of each example and its weight, from targets that are not smoothed."""
        num_classes = logits.shape[-1]
        balance = self._counts
        if self.class_weights == "balanced" and balance is None:
            raise ValueError(
                '`class_weights` (="balanced") depend on the training labels: call for_data(data) '
                "first."
            )
        given = None if self.class_weights == "balanced" else self.class_weights
        weights = weights_of_classes(given, balance, num_classes)
        smooth = target
        if self.label_smoothing:
            smooth = optax.smooth_labels(target, self.label_smoothing)
        if weights is None and not self.focal_gamma:
            return optax.softmax_cross_entropy(logits, smooth), None
        log_p = jax.nn.log_softmax(logits)
        terms = -smooth * log_p * focal_factor(log_p, self.focal_gamma)
        if weights is None:
            return terms.sum(axis=-1), None
        # The trainer multiplies by `weight` and divides by its sum, as torch does.
        of_classes = jnp.broadcast_to(weights, target.shape)
        weight = (target * of_classes).sum(axis=-1)
        return (terms * of_classes).sum(axis=-1) / jnp.where(weight > 0, weight, 1), weight

    def predict(self, model: nnx.Module, batch: Mapping[str, Any]) -> jax.Array:
        """Returns the probability of each class, `float32[B, K]`.

        Raises:
            ValueError: the model does not return logits.
        """
        return jax.nn.softmax(self.logits_of(model, batch))

    def _logits(self, logits: Any) -> jax.Array:
        return _checked_logits(logits)

    def _logits_of_mean(self, logits: jax.Array) -> jax.Array:
        logs = jax.nn.log_softmax(logits)
        return jax.nn.logsumexp(logs, axis=1) - jnp.log(logits.shape[1])

    def _averages(self, num_classes: int) -> dict[str, type[Metric]]:
        return {**_METRICS, **(_METRICS_OF_MANY_CLASSES if num_classes > 10 else {})}

    def _classes(self, outputs: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
        numbers = jnp.arange(outputs["logits"].shape[-1])
        predicted = jnp.argmax(outputs["logits"], axis=-1)
        return predicted[:, None] == numbers, outputs["labels"][:, None] == numbers

    def _auroc(self) -> Callable[..., float]:
        return class_auroc

    def label_problem(
        self, labels: np.ndarray[Any, Any], outputs: Mapping[str, jax.ShapeDtypeStruct]
    ) -> str | None:
        """Returns which classes are out of range, or which rows are not probabilities."""
        if "logits" not in outputs:  # a subclass with another loss
            return None
        num_classes = int(outputs["logits"].shape[-1])
        if not jnp.issubdtype(labels.dtype, jnp.inexact):
            low, high = int(labels.min()), int(labels.max())
            if low >= 0 and high < num_classes:
                return None
            remedy = "" if low < 0 else f", or build the model with num_classes={high + 1}"
            return (
                f"has labels from {low} to {high}; a model of {num_classes} classes requires "
                f"labels from 0 to {num_classes - 1}. Number the classes from 0{remedy}."
            )
        sums = labels.sum(axis=-1, dtype=np.float64)
        lowest = float(labels.min())
        if lowest >= 0 and np.all(np.abs(sums - 1) <= _SUM_TOLERANCE):  # False for NaN
            return None
        return (
            f"has floating-point labels from {lowest:g} to {float(labels.max()):g} whose rows sum "
            f"to between {float(sums.min()):g} and {float(sums.max()):g}; `Classification` "
            "requires rows of probabilities (not negative, with a sum of 1), or integers. "
            f"{_OTHER_TASKS}"
        )
