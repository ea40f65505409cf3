"""What is learned: the loss of each example, and the CLU metrics that accumulate over a split.

`clu.metrics.Collection` reads raw annotations, so this file must not postpone them
(no `from __future__ import annotations`).
"""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu.metrics import Accuracy, Average, Collection
from flax import nnx

Outputs = dict[str, jax.Array]

# How far the sum of a row of probabilities may be from 1: rows of bfloat16 round to that.
_NORMALISED = 1e-2


_OTHER_TASKS = (
    "Subclass `Task` for another loss: optax.squared_error(outputs, labels).mean(axis=-1) for "
    "numbers, optax.sigmoid_binary_cross_entropy(logits, labels).mean(axis=-1) for yes or no, "
    "and for several labels per example."
)


@flax.struct.dataclass
class LossMetrics(Collection):  # type: ignore[misc]  # clu ships no types
    """The mean of the per-example loss; the metrics of a `Task` that names no others."""

    loss: Average.from_output("loss")  # type: ignore[valid-type]


class Task:
    """What is learned from a model: subclass it to train anything.

    A subclass overrides `outputs`, which says the loss of each example, and, for more metrics
    than that loss, `metrics`: a `clu.metrics.Collection` whose metrics read the names that
    `outputs` returns. Metrics are sums and counts over `mask`, so they are exact on any split.

    Example:
        An autoencoder, whose target is the image itself:

        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.task.base import Task
        >>> class Autoencoder(Task):
        ...     def outputs(self, model, batch):
        ...         error = jnp.square(model(batch["image"]) - batch["image"])
        ...         return {"loss": error.mean(axis=(1, 2, 3))}
        >>> batch = {"image": jnp.ones((2, 4, 4, 1))}
        >>> Autoencoder().outputs(lambda image: image - 0.5, batch)
        {'loss': Array([0.25, 0.25], dtype=float32)}
    """

    metrics: type[Collection] = LossMetrics

    def outputs(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> Outputs:
        """Runs the model and returns the loss of each example, inside the compiled step.

        Args:
            model: the model, in training or evaluation mode; its BatchNorm statistics and
                dropout keys move as it is called.
            batch: `image` (transformed, `float32[B, ...]`), `label` and `mask` (`bool[B]`).

        Returns:
            A dict with `loss` (floating point, `[B]`, one value per example: the trainer averages
            it over the mask, in float32) and whatever else the metrics read, batch first. Another
            shape of the loss is refused before anything is compiled.
        """
        raise TypeError(f"{type(self).__name__} must override `outputs(model, batch)`.")

    def predict(self, model: nnx.Module, image: jax.Array) -> Any:
        """Returns what `Trainer.predict` collects: here, what the model returns.

        Args:
            model: the model in evaluation mode.
            image: `float32[B, ...]`, transformed.

        Returns:
            An array or a pytree of arrays, each with a first axis over the examples.
        """
        return model(image)

    def collection(self, outputs: Mapping[str, jax.ShapeDtypeStruct]) -> type[Collection]:
        """Returns the metrics to accumulate, given the shapes that `outputs` returns.

        Args:
            outputs: shapes and dtypes of what `outputs` returns.

        Returns:
            `metrics`, unless overridden.
        """
        return self.metrics

    def label_problem(
        self, labels: np.ndarray[Any, Any], outputs: Mapping[str, jax.ShapeDtypeStruct]
    ) -> str | None:
        """Returns what is wrong with labels that fit in shape and dtype, None if nothing is.

        The trainer asks before training where the labels lie in memory, and else before each
        batch; what is wrong ends the run with a `ValueError`.

        Args:
            labels: of some examples, as the data hold them, `[N, ...]`, without padding.
            outputs: shapes and dtypes of what `outputs` returns.

        Returns:
            The rest of a sentence that begins with the name of the split, and what would work.
        """
        return None


def _checked_logits(logits: Any) -> jax.Array:
    """Returns what a model returned for a batch as `float32[B, K]`, if these are logits."""
    if getattr(logits, "ndim", None) != 2:
        raise ValueError(
            f"`model` returns {jax.tree.map(jnp.shape, logits)} for a batch; "
            "`Classification` takes logits of shape (batch, num_classes). Subclass `Task` "
            "to learn from another output."
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"`model` returns {logits.dtype}{list(logits.shape)} for a batch; `Classification` "
            "takes floating-point logits, one for each class, before any argmax or comparison."
        )
    if logits.shape[-1] < 2:
        raise ValueError(
            "`model` returns one logit per example; `Classification` takes one for each class, "
            f"two or more: softmax makes every single logit a probability of 1. {_OTHER_TASKS}"
        )
    return jnp.asarray(logits, jnp.float32)


def _in_top_5(logits: jax.Array, labels: jax.Array, **_: jax.Array) -> jax.Array:
    """Whether the right class is among the five largest logits, `float32[B]`.

    As `jax.lax.top_k` has it: of equal logits the first class wins, and a NaN is larger than any
    number. But that one makes every device sort the logits of the whole batch.
    """
    right = jnp.take_along_axis(logits, labels[:, None], axis=1)
    is_before = jnp.arange(logits.shape[1], dtype=labels.dtype) < labels[:, None]
    is_nan, is_right_nan = jnp.isnan(logits), jnp.isnan(right)
    is_equal = (logits == right) | (is_nan & is_right_nan)
    is_ahead = (logits > right) | (is_nan & ~is_right_nan) | (is_equal & is_before)
    return (jnp.sum(is_ahead, axis=1) < 5).astype(jnp.float32)


@flax.struct.dataclass
class ClassificationMetrics(Collection):  # type: ignore[misc]
    """Mean cross-entropy and accuracy."""

    loss: Average.from_output("loss")  # type: ignore[valid-type]
    accuracy: Accuracy


@flax.struct.dataclass
class ManyClassesMetrics(Collection):  # type: ignore[misc]
    """Mean cross-entropy, accuracy, and whether the right class is among the best five."""

    # CLU reads the annotations of one class alone, so these cannot inherit the two above.
    loss: Average.from_output("loss")  # type: ignore[valid-type]
    accuracy: Accuracy
    top_5_accuracy: Average.from_fun(_in_top_5)  # type: ignore[valid-type]


class Classification(Task):
    """Softmax cross-entropy from integer, one-hot or soft labels, with accuracy.

    Top-5 accuracy is added when there are more than ten classes; a subclass that sets `metrics`
    has its own. The loss is computed in float32, whatever the model's precision. With integer
    labels it is the cross-entropy against their one-hot rows. Soft labels are rows of
    probabilities: other floating-point labels are refused.

    Args:
        label_smoothing: the share of each label spread evenly over all classes, in [0, 1)
            (default 0; Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, section 7).

    Raises:
        ValueError: `label_smoothing` is outside [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.task.base import Classification
        >>> batch = {"image": jnp.zeros((1, 2)), "label": jnp.array([1], dtype=jnp.int32)}
        >>> outputs = Classification().outputs(lambda image: image, batch)
        >>> print(f"{outputs['loss'][0]:.4f}")  # log(2): two classes, no opinion
        0.6931
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(
                f"`label_smoothing` (={label_smoothing}) must be in [0, 1); 0.1 is common."
            )
        self.label_smoothing = label_smoothing

    def outputs(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> Outputs:
        """Returns `loss` (`[B]`), `logits` (`[B, K]`) and `labels` (`int32[B]`).

        Raises:
            ValueError: the model returns no logits, or the labels do not fit them.
        """
        logits, label = _checked_logits(model(batch["image"])), batch["label"]
        num_classes = logits.shape[-1]
        if label.ndim == 1 and jnp.issubdtype(label.dtype, jnp.integer):
            labels, target = label, jax.nn.one_hot(label, num_classes)
        elif label.shape == logits.shape and jnp.issubdtype(label.dtype, jnp.floating):
            labels, target = jnp.argmax(label, axis=-1).astype(jnp.int32), label
        else:
            raise ValueError(
                f"`data` has labels of shape {label.shape[1:]} and dtype {label.dtype} an "
                f"example; `Classification` with a model of {num_classes} classes takes "
                f"integers, or one-hot or soft labels of shape ({num_classes},) and dtype "
                "float32. Subclass `Task` to learn from other targets."
            )
        if self.label_smoothing:
            target = optax.smooth_labels(target, self.label_smoothing)
        loss = optax.softmax_cross_entropy(logits, target)
        return {"loss": loss, "logits": logits, "labels": labels}

    def predict(self, model: nnx.Module, image: jax.Array) -> jax.Array:
        """Returns the probability of each class, `float32[B, K]`.

        Raises:
            ValueError: the model returns no logits.
        """
        return jax.nn.softmax(_checked_logits(model(image)))

    def collection(self, outputs: Mapping[str, jax.ShapeDtypeStruct]) -> type[Collection]:
        """Returns loss and accuracy, and top-5 accuracy for more than ten classes."""
        if self.metrics is not Task.metrics or "logits" not in outputs:  # those of a subclass
            return self.metrics
        many = outputs["logits"].shape[-1] > 10
        return ManyClassesMetrics if many else ClassificationMetrics

    def label_problem(
        self, labels: np.ndarray[Any, Any], outputs: Mapping[str, jax.ShapeDtypeStruct]
    ) -> str | None:
        """Returns which classes are out of range, or which rows are no probabilities."""
        if "logits" not in outputs:  # a subclass learns from something else
            return None
        num_classes = int(outputs["logits"].shape[-1])
        if np.issubdtype(labels.dtype, np.integer):
            low, high = int(labels.min()), int(labels.max())
            if low >= 0 and high < num_classes:
                return None
            remedy = "" if low < 0 else f", or build the model with num_classes={high + 1}"
            return (
                f"has labels from {low} to {high}; a model of {num_classes} classes takes 0 to "
                f"{num_classes - 1}. Number the classes from 0{remedy}."
            )
        sums = labels.sum(axis=-1, dtype=np.float64)
        lowest = float(labels.min())
        if lowest >= 0 and np.all(np.abs(sums - 1) <= _NORMALISED):  # False for NaN
            return None
        return (
            f"has floating-point labels from {lowest:g} to {float(labels.max()):g} whose rows sum "
            f"to between {float(sums.min()):g} and {float(sums.max()):g}; `Classification` takes "
            "rows of probabilities, not negative and with a sum of 1, or integers. "
            f"{_OTHER_TASKS}"
        )
