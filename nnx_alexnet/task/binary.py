"""Binary and multi-label classification: sigmoid cross-entropy from labels of 0 and 1."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from clu.metrics import Metric
from flax import nnx
from numpy.typing import NDArray

from nnx_alexnet.support import check_number, format_count
from nnx_alexnet.task.averages import Loss, weighted_average
from nnx_alexnet.task.base import Outputs
from nnx_alexnet.task.focal import focal_factor
from nnx_alexnet.task.label_task import ClassMetric, LabelTask
from nnx_alexnet.task.pos_weights import balanced_pos_weight, checked_pos_weight
from nnx_alexnet.task.sample_weights import batch_weights
from nnx_alexnet.task.split_metrics import auroc

if TYPE_CHECKING:
    from nnx_alexnet.data import DataModule


class MultiLabelClassification(LabelTask):
    """Sigmoid cross-entropy of K independent labels per example, with accuracy.

    The labels are `[B, K]`, 0 or 1, or probabilities. The loss of an example is the mean over its
    labels, in float32; the accuracy is the share of labels that are predicted correctly. The batch
    key `weight` (`[B]`, optional) weights the examples in the loss and the metrics. The
    probabilities of several `views` of an image are averaged. Both work as in `Classification`.

    Args:
        threshold: the probability above which a label is predicted, in (0, 1) (default 0.5). It
            changes the metrics only.
        pos_weight: the factor on the loss of labels that are 1: a number, or one per label;
            `"balanced"`: the number of training labels that are 0, divided by those that are 1;
            None (the default): 1. The loss is not divided by it, as in
            `torch.nn.BCEWithLogitsLoss`.
        focal_gamma: the exponent of the focal loss (default 0: plain cross-entropy; see
            `Classification`).
        metrics: further metrics (default: none). `"precision"`, `"recall"` and `"f1"` are means
            over the labels, such as `val/f1`; with at most 100 labels, each label also has its own,
            such as `val/f1/cat`. `"auroc"` is computed in validation and test only; see
            `Classification`.

    Raises:
        ValueError: an argument is outside its range; or, when a trainer is created, a balanced
            weight is requested but the training labels are not in memory.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.task.binary import MultiLabelClassification
        >>> batch = {"image": jnp.zeros((1, 2)), "label": jnp.array([[1, 0]])}
        >>> outputs = MultiLabelClassification().outputs(lambda image: image, batch)
        >>> print(f"{outputs['loss'][0]:.4f}")  # log(2): both values are equally likely
        0.6931
    """

    def __init__(
        self,
        threshold: float = 0.5,
        *,
        pos_weight: float | Sequence[float] | Literal["balanced"] | None = None,
        focal_gamma: float = 0.0,
        metrics: Sequence[ClassMetric] = (),
    ) -> None:
        super().__init__(focal_gamma, metrics)
        check_number("threshold", threshold, "(0, 1)", reason="0.5 is common")
        self.threshold = threshold
        self.pos_weight = checked_pos_weight(pos_weight)
        self._pos_weight = None if self.pos_weight == "balanced" else self.pos_weight

    def for_data(self, data: DataModule) -> Self:
        """Returns the task with the names of the labels and the balanced weight that it needs.

        Raises:
            ValueError: the training labels are not in memory, or are not 0 and 1.
        """
        bound = super().for_data(data)
        if self.pos_weight == "balanced":
            bound = copy.copy(bound)
            bound._pos_weight = balanced_pos_weight(data.train.labels_in_memory())
        return bound

    def num_outputs(self, data: DataModule) -> int | None:
        """Returns the number of labels."""
        label: Any = data.train.element_spec().get("label")
        return int(label.shape[0]) if getattr(label, "ndim", 0) == 1 else None

    def outputs(self, model: nnx.Module, batch: Mapping[str, Any]) -> Outputs:
        """Returns `loss` (`[B]`), `logits` and `labels` (`float32[B, K]` and `int32[B, K]`).

        For `BinaryClassification`, these are `[B]`. With weights, also `weight` and
        `example_weight`, `[B]`.

        Raises:
            ValueError: the model does not return logits, or the labels do not fit them.
        """
        logits = self.logits_of(model, batch)
        target = self._target(batch["label"], logits)
        losses = self._losses(logits, target).reshape(len(logits), -1).mean(axis=1)
        labels = (target > 0.5).astype(jnp.int32)
        return {"loss": losses, "logits": logits, "labels": labels, **batch_weights(batch, None)}

    def predict(self, model: nnx.Module, batch: Mapping[str, Any]) -> jax.Array:
        """Returns the probability of each label, `float32[B, K]` (`[B]` if it is binary)."""
        return jax.nn.sigmoid(self.logits_of(model, batch))

    def label_problem(
        self, labels: np.ndarray[Any, Any], outputs: Mapping[str, jax.ShapeDtypeStruct]
    ) -> str | None:
        """Returns what is wrong with labels outside of [0, 1]."""
        if "logits" not in outputs or not labels.size:
            return None
        low, high = float(labels.min()), float(labels.max())
        if low >= 0 and high <= 1:  # False for NaN
            return None
        several = "Use `Classification` for more than two classes." if high > 1 else ""
        return (
            f"has labels from {low:g} to {high:g}; `{type(self).__name__}` requires 0 and 1, or "
            f"probabilities. {several}"
        ).rstrip()

    def _logits_of_mean(self, logits: jax.Array) -> jax.Array:
        sums = [jax.nn.logsumexp(jax.nn.log_sigmoid(each), axis=1) for each in (logits, -logits)]
        return sums[0] - sums[1]

    def _logits(self, logits: Any) -> jax.Array:
        """Returns logits as `float32[B, K]`."""
        is_matrix = getattr(logits, "ndim", None) == 2
        if not is_matrix or not jnp.issubdtype(logits.dtype, jnp.floating):
            raise ValueError(
                f"`model` returns {_described(logits)} for a batch; `{type(self).__name__}` "
                "requires floating-point logits of shape (batch, num_labels)."
            )
        return jnp.asarray(logits, jnp.float32)

    def _target(self, label: Any, logits: jax.Array) -> jax.Array:
        """Returns the labels as floats of the shape of the logits."""
        if label.shape != logits.shape or jnp.iscomplexobj(label):
            raise ValueError(
                f"`data` has labels of shape {label.shape[1:]} and dtype {label.dtype} per "
                f"example; `{type(self).__name__}` with a model of {logits.shape[-1]} logits "
                f"requires labels of 0 and 1 of shape {logits.shape[1:]}."
            )
        target: jax.Array = label.astype(jnp.float32)
        return target

    def _losses(self, logits: jax.Array, target: jax.Array) -> jax.Array:
        log_p, log_not_p = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        positive = -target * log_p * focal_factor(log_p, self.focal_gamma)
        negative = -(1 - target) * log_not_p * focal_factor(log_not_p, self.focal_gamma)
        if self.pos_weight is None:
            return positive + negative
        if self._pos_weight is None:
            raise ValueError(
                '`pos_weight` (="balanced") depends on the training labels: call for_data(data) '
                "first."
            )
        factor: NDArray[np.float32] = np.asarray(self._pos_weight, np.float32)
        if factor.shape not in ((), (1,), logits.shape[1:]):
            raise ValueError(
                f"`pos_weight` has {format_count(len(factor), 'number')} for "
                f"{format_count(logits[0].size, 'label')}; give a single number, or one per label."
            )
        return jnp.asarray(factor) * positive + negative

    def _is_predicted(self, logits: jax.Array) -> jax.Array:
        return logits > math.log(self.threshold / (1 - self.threshold))

    def _averages(self, num_classes: int) -> dict[str, type[Metric]]:
        return {"loss": Loss, "accuracy": weighted_average(self._share_right, "example_weight")}

    def _auroc(self) -> Callable[..., float]:
        return auroc

    def _share_right(self, logits: jax.Array, labels: jax.Array, **_: jax.Array) -> jax.Array:
        right = self._is_predicted(logits) == (labels > 0)
        return right.reshape(len(right), -1).mean(axis=1, dtype=jnp.float32)

    def _classes(self, outputs: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Returns the predicted and the right labels, `bool[B, K]`."""
        size = len(outputs["logits"])
        predicted = self._is_predicted(outputs["logits"]).reshape(size, -1)
        return predicted, (outputs["labels"] > 0).reshape(size, -1)


class BinaryClassification(MultiLabelClassification):
    """Sigmoid cross-entropy of one logit per example, with accuracy.

    The model returns `[B]` or `[B, 1]`. The labels are `[B]` or `[B, 1]`, 0 or 1, or probabilities.
    Precision, recall and F1 are those of class 1.

    Args:
        threshold: the probability above which class 1 is predicted, in (0, 1) (default 0.5). It
            changes the metrics only.
        pos_weight: the factor on the loss of examples of class 1; `"balanced"`: the number of
            training examples of class 0, divided by those of class 1; None (the default): 1. The
            loss is not divided by it, as in `torch.nn.BCEWithLogitsLoss`.
        focal_gamma: the exponent of the focal loss (default 0: plain cross-entropy; see
            `Classification`).
        metrics: further metrics: `"precision"`, `"recall"`, `"f1"`, and in validation and test
            `"auroc"` (default: none).

    Raises:
        ValueError: see `MultiLabelClassification`.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.task.binary import BinaryClassification
        >>> batch = {"image": jnp.array([[2.0]]), "label": jnp.array([1])}
        >>> print(f"{BinaryClassification().predict(lambda image: image, batch)[0]:.4f}")
        0.8808
    """

    def __init__(
        self,
        threshold: float = 0.5,
        *,
        pos_weight: float | Literal["balanced"] | None = None,
        focal_gamma: float = 0.0,
        metrics: Sequence[ClassMetric] = (),
    ) -> None:
        super().__init__(threshold, pos_weight=pos_weight, focal_gamma=focal_gamma, metrics=metrics)

    def num_outputs(self, data: DataModule) -> int | None:
        """Returns 1."""
        return 1

    def _logits(self, logits: Any) -> jax.Array:
        """Returns logits as `float32[B]`."""
        shape: tuple[int, ...] = getattr(logits, "shape", ())
        is_column = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
        if not is_column or not jnp.issubdtype(logits.dtype, jnp.floating):
            raise ValueError(
                f"`model` returns {_described(logits)} for a batch; `BinaryClassification` "
                "requires one floating-point logit per example, of shape (batch,) or (batch, 1). "
                "For two logits use `Classification`."
            )
        return jnp.asarray(logits, jnp.float32).reshape(shape[0])

    def _target(self, label: Any, logits: jax.Array) -> jax.Array:
        is_column = label.ndim == 2 and label.shape[1] == 1
        label = label[:, 0] if is_column else label
        if label.ndim != 1 or jnp.iscomplexobj(label):
            raise ValueError(
                f"`data` has labels of shape {label.shape[1:]} and dtype {label.dtype} per "
                "example; `BinaryClassification` requires a single 0 or 1. MixUp and CutMix turn "
                "integer labels into rows of two classes, but mix float32 labels as they are. For "
                "several labels use `MultiLabelClassification`."
            )
        target: jax.Array = label.astype(jnp.float32)
        return target


def _described(outputs: Any) -> str:
    if hasattr(outputs, "dtype"):
        return f"{outputs.dtype}{list(outputs.shape)}"
    return str(jax.tree.map(jnp.shape, outputs))
