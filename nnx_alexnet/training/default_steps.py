"""The train, eval and predict step: plain functions of modules, which are traced and compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from nnx_alexnet.devices import usual_promotion
from nnx_alexnet.optimizers import extra_arguments, loss_scale
from nnx_alexnet.task import Outputs, Task, check_outputs, weighted_sums
from nnx_alexnet.training.micro_batches import (
    WHOLE,
    MicroBatches,
    Share,
    accumulated,
    averaged_loss,
)

Batch = Mapping[str, Any]
TrainStep = Callable[[nnx.Module, nnx.Optimizer[Any], Batch], Outputs]
EvalStep = Callable[[nnx.Module, Batch], Outputs]
PredictStep = Callable[[nnx.Module, Batch], Any]


class ModuleSteps(NamedTuple):
    """The functions of modules that the trainer compiles.

    Attributes:
        train: `(model, optimizer, batch) -> outputs`.
        evaluate: `(model, batch) -> outputs`.
        predict: `(model, batch) -> predictions`.
    """

    train: TrainStep
    evaluate: EvalStep
    predict: PredictStep


def masked_mean(values: jax.Array, mask: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Returns the mean of `values` (`[B]`) where `mask` (`bool[B]`) is True.

    With `weight` (`[B]`, not negative), this is sum(w x) / sum(w), and 0 if no weight is positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.training.default_steps import masked_mean
        >>> float(masked_mean(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([True, True, False])))
        2.0
    """
    if weight is not None:
        total, count = weighted_sums(values, weight, mask)
        return total / jnp.where(count > 0, count, 1)
    total = jnp.sum(jnp.where(mask, values, jnp.zeros_like(values)))
    return total / jnp.maximum(jnp.sum(mask), 1).astype(values.dtype)


def train_step(
    task: Task,
    model: nnx.Module,
    optimizer: nnx.Optimizer[Any],
    batch: Batch,
    micro: MicroBatches = WHOLE,
) -> Outputs:
    """Takes one optimizer step, in place.

    If the optimizer accepts them, it also receives the loss as `value`, the gradient as `grad`, and
    the loss as a function of the parameters as `value_fn`, which optax's line searches need.

    Args:
        task: what is learned.
        model: in training mode; its parameters, statistics and dropout keys change.
        optimizer: its state changes.
        batch: transformed, with the keys of the data, `mask` and `index`.
        micro: into how many parts the batch is divided (default one). The gradients are those of
            the mean loss of the whole batch.

    Returns:
        The outputs of `task.outputs` for the model before the update.

    Raises:
        ContractError: the task did not return one loss per example.
    """
    # A line search evaluates the loss of this batch with the dropout keys of this step. They are
    # copied, because a call changes the keys of its model.
    definition, *states = nnx.split(model, optimizer.wrt, True)
    others = nnx.as_pure(states[1])
    scale, size = loss_scale(optimizer.opt_state), len(batch["mask"])

    def loss_of(model: nnx.Module, rows: Batch) -> tuple[jax.Array, Outputs]:
        outputs = _outputs(task, model, rows)
        loss = masked_mean(outputs["loss"], rows["mask"], outputs.get("weight"))
        return loss if scale is None else loss * scale, outputs

    def share_of(model: nnx.Module, rows: Batch) -> Share:
        outputs = _outputs(task, model, rows)
        weight = outputs.get("weight", jnp.ones_like(outputs["loss"]))
        total, weight = weighted_sums(outputs["loss"], weight, rows["mask"])
        total, weight = total / size, weight / size  # in the range of a mean, also in 16 bits
        return total if scale is None else total * scale, (weight, outputs)

    def loss_at(parameters: Any) -> jax.Array:
        def model() -> nnx.Module:
            return nnx.merge(definition, parameters, others)

        if micro.num == 1:
            loss = loss_of(model(), batch)[0]
        else:
            loss = averaged_loss(lambda rows: share_of(model(), rows), batch, micro)
        return loss if scale is None else loss / scale

    outputs: Outputs
    if micro.num == 1:
        wrt = nnx.DiffState(0, optimizer.wrt)
        found = nnx.value_and_grad(loss_of, argnums=wrt, has_aux=True)(model, batch)
        (loss, outputs), gradients = found
    else:
        loss, outputs, gradients = accumulated(share_of, model, optimizer.wrt, batch, micro)
    if scale is not None:
        loss, gradients = loss / scale, jax.tree.map(lambda g: g / scale, gradients)
    gradients = jax.tree.map(_ascent, gradients)
    extra = extra_arguments(optimizer.tx, value=loss, grad=gradients, value_fn=loss_at)
    with usual_promotion():
        optimizer.update(model, gradients, **extra)
    return outputs


def _ascent(gradient: jax.Array) -> jax.Array:
    """Returns the direction of ascent; JAX's gradient of a complex parameter is its conjugate.

    Source:
    https://docs.jax.dev/en/latest/notebooks/autodiff_cookbook.html#complex-numbers-and-differentiation
    """
    return jnp.conj(gradient) if jnp.iscomplexobj(gradient) else gradient


def eval_step(task: Task, model: nnx.Module, batch: Batch) -> Outputs:
    """Returns the outputs of `task.outputs` for a model in evaluation mode."""
    return _outputs(task, model, batch)


def predict_step(task: Task, model: nnx.Module, batch: Batch) -> Any:
    """Returns the predictions of `task.predict` for a model in evaluation mode."""
    return task.predict(model, batch)


def _outputs(task: Task, model: nnx.Module, batch: Batch) -> Outputs:
    outputs = task.outputs(model, batch)
    return check_outputs(outputs, len(batch["mask"]), f"`{type(task).__name__}.outputs`")


class GradientRecorder(nnx.Optimizer[Any]):
    """Records the gradients of a step, and does not change the model."""

    def update(self, model: Any, grads: Any, /, **_: Any) -> Any:
        """Records the gradients, and returns updates of zero."""
        self.gradients = nnx.data(grads)
        return jax.tree.map(jnp.zeros_like, grads)
