"""The base class of tasks: the loss of each example, the metrics, and the predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from clu.metrics import Collection
from flax import nnx

from nnx_alexnet.task.averages import Loss
from nnx_alexnet.task.split_metrics import SplitMetric

if TYPE_CHECKING:
    from nnx_alexnet.data import DataModule

Outputs = dict[str, jax.Array]

# The default metrics of a task: the mean of the loss over the examples.
LossMetrics: type[Collection] = Collection.create(loss=Loss)


class Task:
    """Defines what a model learns; subclass it to train anything.

    A subclass overrides `outputs`, which returns the loss of each example. To add a metric, add
    it to `metrics`, a `clu.metrics.Collection` whose metrics read the arrays that `outputs`
    returns by name. Metrics accumulate sums and counts over `mask`, so they are exact on any split.

    Example:
        This autoencoder, whose target is the image itself, has a metric in addition to the loss:

        >>> import jax.numpy as jnp
        >>> from clu.metrics import Average, Collection
        >>> from nnx_alexnet.task.base import Task
        >>> class Autoencoder(Task):
        ...     metrics = Collection.create(
        ...         loss=Average.from_output("loss"),
        ...         largest_error=Average.from_output("largest_error"),
        ...     )
        ...     def outputs(self, model, batch):
        ...         error = jnp.abs(model(batch["image"]) - batch["image"])
        ...         loss = jnp.square(error).mean(axis=(1, 2, 3))
        ...         return {"loss": loss, "largest_error": error.max(axis=(1, 2, 3))}
        >>> batch = {"image": jnp.ones((2, 4, 4, 1))}
        >>> Autoencoder().outputs(lambda image: image - 0.5, batch)["loss"]
        Array([0.25, 0.25], dtype=float32)
    """

    metrics: type[Collection] = LossMetrics

    def for_data(self, data: DataModule) -> Task:
        """Returns the task for the data of a trainer: itself, unless a subclass overrides this.

        A subclass may return a copy that knows the class names or the training labels. The trainer
        calls it once, when it is created.

        Args:
            data: the splits.
        """
        return self

    def num_outputs(self, data: DataModule) -> int | None:
        """Returns the `num_classes` with which the command builds the model, None if unknown.

        Args:
            data: the splits.
        """
        return data.num_classes

    def outputs(self, model: nnx.Module, batch: Mapping[str, Any]) -> Outputs:
        """Runs the model and returns the loss of each example, inside the compiled step.

        Args:
            model: the model, in training or evaluation mode; calling it updates its BatchNorm
                statistics and dropout keys.
            batch: pytrees of arrays `[B, ...]` with the keys of the data, transformed; and `mask`
                (`bool[B]`) and `index` (`int32[B]`).

        Returns:
            A dict with `loss`, and with all other arrays that the metrics read. `loss` is a
            floating-point array `[B]` with one value per example, which the trainer averages over
            the mask in float32. If the dict has a `weight` (`[B]`, not negative), the loss of a
            batch and of a split is the weighted mean sum(w l) / sum(w). The first axis of the
            other arrays is the batch. A loss of another shape raises an error before anything is
            compiled.
        """
        raise TypeError(f"{type(self).__name__} must override `outputs(model, batch)`.")

    def predict(self, model: nnx.Module, batch: Mapping[str, Any]) -> Any:
        """Returns the predictions that `Trainer.predict` collects.

        By default, these are the outputs of the model for `batch["image"]`.

        Args:
            model: the model in evaluation mode.
            batch: as for `outputs`; the data of a prediction may have no labels.

        Returns:
            An array, or a pytree of arrays, whose first axis is the batch.
        """
        return model(batch["image"])

    def collection(self, outputs: Mapping[str, jax.ShapeDtypeStruct]) -> type[Collection]:
        """Returns the metrics to accumulate, given the shapes that `outputs` returns.

        Args:
            outputs: the shapes and dtypes that `outputs` returns.

        Returns:
            `metrics`, unless a subclass overrides this method.
        """
        return self.metrics

    def split_metrics(
        self, outputs: Mapping[str, jax.ShapeDtypeStruct]
    ) -> Mapping[str, SplitMetric]:
        """Returns metrics that need all examples of a split at once (default: none).

        They are computed on the host at the end of a validation or test, and not in training. The
        outputs that they read are kept in the memory of the host during the pass.

        Args:
            outputs: the shapes and dtypes that `outputs` returns.
        """
        return {}

    def label_problem(
        self, labels: np.ndarray[Any, Any], outputs: Mapping[str, jax.ShapeDtypeStruct]
    ) -> str | None:
        """Returns what is wrong with the values of labels, or None.

        The trainer calls it before training for labels in memory, and before each batch for all
        other labels. A problem ends the run with a `ValueError`.

        Args:
            labels: the labels of some examples, as stored in the data, `[N, ...]`, without
                padding. Their shape and dtype are valid.
            outputs: the shapes and dtypes that `outputs` returns.

        Returns:
            The rest of a sentence that begins with the name of the split, and a remedy.
        """
        return None
