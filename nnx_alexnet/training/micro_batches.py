"""Divides the batch of a train step into micro-batches, and adds up their gradients.

Only one micro-batch at a time needs memory for its activations. Each device keeps the rows that it
has, and every micro-batch is spread over all devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from nnx_alexnet.task import Outputs

Batch = Mapping[str, Any]
# The share of some rows in the weighted mean loss of a batch: their part of the sum of the losses,
# their part of the sum of the weights, and the outputs.
Share = tuple[jax.Array, tuple[jax.Array, Outputs]]


class MicroBatches(NamedTuple):
    """Describes how the rows of a batch are divided.

    Row `r` of a device belongs to micro-batch `r % num`. The padding at the end of the last batch
    of an epoch is therefore spread over all micro-batches.

    Attributes:
        num: the number of micro-batches (default 1).
        num_parts: the number of parts into which the devices divide a batch (default 1).

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.training.micro_batches import MicroBatches
        >>> batch = {"index": jnp.arange(5), "mask": jnp.ones(5, bool)}
        >>> divided = MicroBatches(2).divided(batch)
        >>> divided["index"].tolist(), divided["mask"].tolist()
        ([[0, 2, 4], [1, 3, 0]], [[True, True, True], [True, True, False]])
        >>> MicroBatches(2).joined(divided["index"], 5).tolist()
        [0, 1, 2, 3, 4]
    """

    num: int = 1
    num_parts: int = 1

    def check(self, batch_size: int) -> None:
        """Raises a `ValueError` if a micro-batch would have no example of a batch.

        Args:
            batch_size: the number of examples of a whole batch.
        """
        _, rows, _ = self._sizes(batch_size)
        if self.num > rows:
            raise ValueError(
                f"`num_micro_batches` (={self.num}) must be at most {rows}, the number of examples "
                "of a batch on each device."
            )

    def divided(self, batch: Batch) -> Batch:
        """Returns the micro-batches, `[num, rows, ...]`, of a batch of arrays `[B, ...]`.

        If the rows of a device are not a multiple of `num`, the last micro-batches repeat some of
        its first rows, which are masked.
        """
        parts, rows, padded = self._sizes(len(batch["mask"]))
        taken = jnp.arange(padded) % rows

        def divide(array: jax.Array) -> jax.Array:
            by_part = array.reshape(parts, rows, *array.shape[1:])
            if padded > rows:
                by_part = jnp.take(by_part, taken, axis=1)
            by_turn = by_part.reshape(parts, padded // self.num, self.num, *array.shape[1:])
            return jnp.moveaxis(by_turn, 2, 0).reshape(self.num, -1, *array.shape[1:])

        divided: dict[str, Any] = jax.tree.map(divide, dict(batch))
        if padded > rows:
            is_given = (jnp.arange(padded) < rows).reshape(-1, self.num).T
            divided["mask"] &= jnp.tile(is_given, (1, parts))
        return divided

    def joined(self, outputs: Any, size: int) -> Any:
        """Returns the outputs `[B, ...]` of a batch, given those of its micro-batches.

        Args:
            outputs: a tree of arrays `[num, rows, ...]`.
            size: B, the number of rows of the batch.
        """
        parts, rows, padded = self._sizes(size)

        def join(array: jax.Array) -> jax.Array:
            shape = array.shape[2:]
            by_part = jnp.moveaxis(array.reshape(self.num, parts, -1, *shape), 0, 2)
            return by_part.reshape(parts, padded, *shape)[:, :rows].reshape(size, *shape)

        return jax.tree.map(join, outputs)

    def _sizes(self, size: int) -> tuple[int, int, int]:
        """Returns the number of parts, and of rows in each, without and with padding."""
        parts = 1 if size % self.num_parts else self.num_parts  # else each device has all rows
        rows = size // parts
        return parts, rows, -(-rows // self.num) * self.num


WHOLE = MicroBatches()


def accumulated(
    share_of: Callable[[nnx.Module, Batch], Share],
    model: nnx.Module,
    wrt: Any,
    batch: Batch,
    micro: MicroBatches,
) -> tuple[jax.Array, Outputs, Any]:
    """Returns the loss of a batch, its outputs and its gradients, micro-batch by micro-batch.

    Args:
        share_of: returns the share of a micro-batch. The gradients are summed in float32 at least.
        model: changed in place: each micro-batch updates BatchNorm's statistics and takes new
            dropout keys.
        wrt: the filter of the parameters that have gradients.
        batch: arrays `[B, ...]`, with `mask`.
        micro: how the batch is divided.
    """
    definition, *states = nnx.split(model, wrt, True)
    parameters, kept = map(nnx.as_pure, states)
    differentiated = nnx.value_and_grad(share_of, argnums=nnx.DiffState(0, wrt), has_aux=True)
    trees: list[Any] = []

    def step(carried: Any, rows: Batch) -> tuple[Any, Any]:
        others, sums = carried
        part = nnx.merge(definition, parameters, others)
        (loss, aux), gradients = differentiated(part, rows)
        leaves, tree = jax.tree.flatten(gradients)
        trees[:] = [tree]
        nnx.pop(part, nnx.Intermediate)
        others = nnx.as_pure(nnx.state(part, nnx.Not(wrt)))
        sums = [each + leaf.astype(each.dtype) for each, leaf in zip(sums, leaves, strict=True)]
        return (others, sums), (loss, *aux)

    given = jax.tree.leaves(parameters)
    sums = [jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in given]
    # A loop that is unrolled would keep the activations of all micro-batches: XLA may interleave
    # them (2396 MiB instead of 999 for AlexNet, 256 images and four micro-batches on a CPU).
    divided = micro.divided(batch)
    (kept, sums), (losses, weights, outputs) = jax.lax.scan(step, (kept, sums), divided)
    nnx.update(model, kept)
    means = [_ratio(each, weights.sum()) for each in sums]
    gradients = [each.astype(leaf.dtype) for each, leaf in zip(means, given, strict=True)]
    joined: Outputs = micro.joined(outputs, len(batch["mask"]))
    loss = _ratio(losses.sum(), weights.sum())
    return loss, joined, jax.tree.unflatten(trees[0], gradients)


def averaged_loss(
    share_of: Callable[[Batch], Share], batch: Batch, micro: MicroBatches
) -> jax.Array:
    """Returns the loss of a batch, micro-batch by micro-batch; its gradient keeps no activations.

    Args:
        share_of: returns the share of a micro-batch.
        batch: arrays `[B, ...]`, with `mask`.
        micro: how the batch is divided.
    """

    def sums_of(rows: Batch) -> tuple[jax.Array, jax.Array]:
        loss, (weight, _) = share_of(rows)
        return loss, weight

    losses, weights = jax.lax.map(jax.checkpoint(sums_of), micro.divided(batch))
    return _ratio(losses.sum(), weights.sum())


def _ratio(total: jax.Array, weight: jax.Array) -> jax.Array:
    return total / jnp.where(weight > 0, weight, 1).astype(total.dtype)
