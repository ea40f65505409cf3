"""Checks the shapes and dtypes that a task returns.

A loss of the wrong shape trains with a gradient that its author did not intend. The contract of
`Task` is therefore checked wherever its functions are traced.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_recording = threading.Lock()  # needed because all threads share the warning filters


class ContractError(ValueError):
    """A task, its metrics or its predictions break the contract of `Task`."""


def check_outputs(outputs: Any, size: int, source: str) -> dict[str, jax.Array]:
    """Checks the outputs that `Task.outputs` returned for a batch.

    Args:
        outputs: a dict with `loss`, `float[B]`, and other arrays `[B, ...]`.
        size: B, the number of examples in the batch.
        source: the function that returned the outputs, for the error.

    Returns:
        The same dict, with a loss of at least float32, so that its sums are accurate enough.

    Raises:
        ContractError: the loss is not one float per example, or the first axis of another array
            is not the batch.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.task.contract import check_outputs
        >>> check_outputs({"loss": jnp.zeros((4, 1))}, 4, "`Mine.outputs`")
        Traceback (most recent call last):
        nnx_alexnet.task.contract.ContractError: `Mine.outputs` returned a `loss` of shape (4, 1)...
    """
    if not isinstance(outputs, Mapping):
        is_array = isinstance(outputs, jax.Array)
        what = f"an array of shape {outputs.shape}" if is_array else f"a {type(outputs).__name__}"
        raise ContractError(
            f"{source} returned {what}; it must return a dict with the `loss` of each example: "
            '{"loss": ...}.'
        )
    if "loss" not in outputs:
        raise ContractError(
            f"{source} returned no `loss`, only {listed(outputs)}; it must return a dict with "
            'the `loss` of each example: {"loss": ...}.'
        )
    if "mask" in outputs:
        raise ContractError(
            f"{source} returned `mask`, a name that the trainer uses for the mask of the batch. "
            "Return it under another name."
        )
    loss = _checked_loss(outputs["loss"], size, source)
    for name, value in outputs.items():
        for leaf in jax.tree.leaves(value):
            if np.shape(leaf)[:1] != (size,):
                raise ContractError(
                    f"{source} returned `{name}` of shape {np.shape(leaf)} for {size} examples; "
                    "the first axis of every output must be that of the batch, so that the mask "
                    "can leave padding out of the metrics. Return one value per example, or "
                    "repeat a value of the whole batch: "
                    'jnp.broadcast_to(value, batch["mask"].shape).'
                )
    if "weight" in outputs and np.shape(outputs["weight"]) != (size,):
        raise ContractError(
            f"{source} returned a `weight` of shape {np.shape(outputs['weight'])} for {size} "
            f"examples; the loss is averaged with it, so it must have the shape ({size},)."
        )
    return {**outputs, "loss": loss}


def _checked_loss(loss: Any, size: int, source: str) -> jax.Array:
    if not hasattr(loss, "shape") and not isinstance(loss, bool | int | float):
        raise ContractError(
            f"{source} returned a `loss` that is a {type(loss).__name__}; it must be an array with "
            "one float per example."
        )
    shape, dtype = np.shape(loss), jnp.result_type(loss)
    if shape != (size,):
        raise ContractError(
            f"{source} returned a `loss` of shape {shape} for {size} examples; it must be one "
            f"float per example, of shape ({size},). {_how_to_reduce(shape, size)}"
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ContractError(
            f"{source} returned a `loss` of dtype {dtype}; it must be floating point. "
            "Compute it from the model's floating-point outputs."
        )
    return jnp.asarray(loss, jnp.promote_types(dtype, jnp.float32))


def _how_to_reduce(shape: tuple[int, ...], size: int) -> str:
    if not shape:
        return (
            "Leave out the mean or sum over the batch: the trainer takes the mean, without the "
            "padding."
        )
    if shape[0] == size:
        axes = str(1) if len(shape) == 2 else str(tuple(range(1, len(shape))))
        return f"Reduce the other axes, for instance with loss.mean(axis={axes})."
    return "Its first axis must be that of the batch; reduce the others."


@contextmanager
def no_accidental_pairs(size: int) -> Iterator[None]:
    """Raises an error for the difference or product of arrays `[B, 1]` and `[B]` in the block.

    Its shape is `[B, B]`, with one value per pair of examples. A mean over the last axis turns it
    into a loss of the right shape, whose gradient pulls every output to the mean of all labels. JAX
    reports such a rank promotion unless the axis is explicit, as in `label[None, :]`.

    Args:
        size: B, the number of examples in the batch that is traced in the block. A function that
            the process has traced before is not checked, because JAX caches the trace.

    Raises:
        ContractError: the block computed such a difference or product.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.task.contract import no_accidental_pairs
        >>> with no_accidental_pairs(4):
        ...     error = jnp.zeros((4, 1)) - jnp.zeros(4)
        Traceback (most recent call last):
        nnx_alexnet.task.contract.ContractError: The task takes the difference or product of ...
    """
    of_user: str = jax.config.jax_numpy_rank_promotion  # type: ignore[attr-defined]
    if of_user != "allow":  # JAX itself reports it
        yield
        return
    with (
        _recording,
        warnings.catch_warnings(record=True) as caught,
        jax.numpy_rank_promotion("warn"),
    ):
        warnings.simplefilter("always")
        yield
    column, row = f"({size}, 1)", f"({size},)"
    shapes = f"{re.escape(column)} {re.escape(row)}|{re.escape(row)} {re.escape(column)}"
    promoted = re.compile(rf"rank promotion for (subtract|multiply) on shapes ({shapes})\.")
    if any(promoted.search(str(warning.message)) for warning in caught):
        raise ContractError(
            "The task takes the difference or product of arrays of shape (B, 1) and (B,), where B "
            "is the batch size. The result has one value per pair of examples, of shape (B, B). "
            "Remove the axis, as in model(image)[:, 0], or add it to the other array, as in "
            "label[:, None]. If you intend pairs, write label[None, :]."
        )


def check_predictions(predictions: Any, size: int, source: str) -> None:
    """Checks the predictions that `Task.predict` returned for a batch.

    Args:
        predictions: a tree of arrays `[B, ...]`.
        size: B, the number of examples in the batch.
        source: the function that returned the predictions, for the error.

    Raises:
        ContractError: there is no array, or the first axis of an array is not the batch.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.task.contract import check_predictions
        >>> check_predictions({"logits": jnp.zeros((4, 3))}, 4, "`Mine.predict`")
        >>> check_predictions(jnp.zeros(()), 4, "`Mine.predict`")
        Traceback (most recent call last):
        nnx_alexnet.task.contract.ContractError: `Mine.predict` returned an array of shape () ...
    """
    leaves = jax.tree_util.tree_leaves_with_path(predictions)
    if not leaves:
        raise ContractError(f"{source} returned no array; it must return arrays [B, ...].")
    for path, leaf in leaves:
        if np.shape(leaf)[:1] != (size,):
            where = f" at {jax.tree_util.keystr(path)}" if path else ""
            raise ContractError(
                f"{source} returned an array of shape {np.shape(leaf)}{where} for {size} examples; "
                "the first axis of every array must be that of the batch."
            )


def check_same_rows(predictions: Any, others: Any, source: str) -> None:
    """Checks that the shape of the prediction for an example does not depend on the batch size.

    Args:
        predictions: shapes of the predictions for a batch.
        others: shapes of the predictions for a batch of another size.
        source: the function that returned the predictions, for the error.

    Raises:
        ContractError: an axis other than the first depends on the batch size.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.task.contract import check_same_rows
        >>> check_same_rows(jnp.zeros((4, 3)), jnp.zeros((5, 3)), "`Mine.predict`")
        >>> check_same_rows(jnp.zeros((4, 4)), jnp.zeros((5, 5)), "`Mine.predict`")
        Traceback (most recent call last):
        nnx_alexnet.task.contract.ContractError: `Mine.predict` returned an array of shape (4, 4)...
    """
    for one, other in zip(jax.tree.leaves(predictions), jax.tree.leaves(others), strict=False):
        if one.shape[1:] != other.shape[1:]:
            raise ContractError(
                f"{source} returned an array of shape {one.shape} for {one.shape[0]} examples and "
                f"of shape {other.shape} for {other.shape[0]}; only its first axis may depend on "
                "the batch size. Return one result per example, which does not depend on the "
                "other examples."
            )


def listed(names: Mapping[str, Any]) -> str:
    """Returns names as text for an error message.

    Example:
        >>> from nnx_alexnet.task.contract import listed
        >>> listed({"loss": 0, "logits": 0}), listed({})
        ('`loss`, `logits`', 'nothing')
    """
    return ", ".join(f"`{name}`" for name in names) or "nothing"
