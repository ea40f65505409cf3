"""Checks of what a task returns, over shapes and dtypes alone.

A loss of another shape trains with another gradient than its author meant, and metrics that do not
see the mask count padding. So the contract of `Task` is checked wherever its functions are traced.
"""

from __future__ import annotations

import dataclasses
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu.metrics import CollectingMetric, Collection, Metric

from nnx_alexnet.devices import usual_promotion

_recording = threading.Lock()  # the filters of warnings are those of all threads


class ContractError(ValueError):
    """A task, its metrics or its predictions break the contract of `Task`."""


def check_outputs(outputs: Any, size: int, source: str) -> dict[str, jax.Array]:
    """Checks what `Task.outputs` returned for a batch.

    Args:
        outputs: what it returned: a dict with `loss`, `float[B]`, and other arrays `[B, ...]`.
        size: B, the examples of the batch.
        source: what returned it, for the error.

    Returns:
        The same, with a loss of at least float32, so that sums over it are exact enough.

    Raises:
        ContractError: the loss is not one float per example, or another array has no first axis
            over the examples.

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
            f"{source} returned no `loss`, only {_listed(outputs)}; it must return a dict with "
            'the `loss` of each example: {"loss": ...}.'
        )
    if "mask" in outputs:
        raise ContractError(
            f"{source} returned `mask`, a name that the trainer uses for the mask of the batch. "
            "Return it under another name."
        )
    loss = outputs["loss"]
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
    for name, value in outputs.items():
        for leaf in jax.tree.leaves(value):
            if np.shape(leaf)[:1] != (size,):
                raise ContractError(
                    f"{source} returned `{name}` of shape {np.shape(leaf)} for {size} examples; "
                    "what it returns must have a first axis over the examples, so that the mask "
                    "can leave padding out of the metrics. Return the value of each example, or "
                    "repeat one of the whole batch: "
                    f'jnp.broadcast_to(value, batch["mask"].shape).'
                )
    return {**outputs, "loss": jnp.asarray(loss, jnp.promote_types(dtype, jnp.float32))}


def _how_to_reduce(shape: tuple[int, ...], size: int) -> str:
    if not shape:
        return (
            "Leave out the mean or sum over the batch: the trainer takes the mean, and leaves "
            "padding out of it."
        )
    if shape[0] == size:
        axes = str(1) if len(shape) == 2 else str(tuple(range(1, len(shape))))
        return f"Reduce the other axes, for instance with loss.mean(axis={axes})."
    return "Its first axis must be that of the batch; reduce the others."


@contextmanager
def no_accidental_pairs(size: int) -> Iterator[None]:
    """Refuses the difference or product of arrays `[B, 1]` and `[B]` inside the block.

    It has the shape `[B, B]`, one value for each pair of examples, and a mean over its last axis
    is a loss of the right shape whose gradient pulls every output to the mean of all labels. JAX
    reports such a promotion of ranks where the axis is not written out, as in `label[None, :]`.

    Args:
        size: B, the examples of the batch that is traced in the block. One that the process has
            traced before is not noticed, since JAX remembers the trace.

    Raises:
        ContractError: there was one.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnx_alexnet.task.contract import no_accidental_pairs
        >>> with no_accidental_pairs(4):
        ...     error = jnp.zeros((4, 1)) - jnp.zeros(4)
        Traceback (most recent call last):
        nnx_alexnet.task.contract.ContractError: The task takes the difference or product of ...
    """
    of_user: str = jax.config.jax_numpy_rank_promotion  # type: ignore[attr-defined]
    if of_user != "allow":  # the user is told anyway
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
            "is the batch size. The result has a value for each pair of examples, of shape (B, B). "
            "Remove the axis, as in model(image)[:, 0], or add it to the other array, as in "
            "label[:, None]. If pairs are meant, write label[None, :]."
        )


def check_predictions(predictions: Any, size: int, source: str) -> None:
    """Checks what `Task.predict` returned for a batch.

    Args:
        predictions: a tree of arrays `[B, ...]`.
        size: B, the examples of the batch.
        source: what returned it, for the error.

    Raises:
        ContractError: an array has no first axis over the examples, or there is none.

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
                "every array that it returns must have a first axis over the examples."
            )


def check_same_rows(predictions: Any, others: Any, source: str) -> None:
    """Checks that the row of an example has one shape, however many others are in its batch.

    Args:
        predictions: shapes of what was returned for a batch.
        others: the same for a batch of another size.
        source: what returned it, for the error.

    Raises:
        ContractError: an axis besides the first one is as long as the batch.

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
                f"{source} returned an array of shape {one.shape} for {one.shape[0]} examples, "
                f"and of shape {other.shape} for {other.shape[0]}; only its first axis may depend "
                "on the batch size. Return a result for each example that does not depend on the "
                "others."
            )


def check_metrics(
    collection: Any, outputs: Mapping[str, jax.ShapeDtypeStruct], mask: jax.ShapeDtypeStruct
) -> None:
    """Checks that the metrics of a task can be accumulated and computed.

    Args:
        collection: what `Task.collection` returned, a subclass of `clu.metrics.Collection`.
        outputs: shapes and dtypes of what `Task.outputs` returns.
        mask: that of the batch's mask.

    Raises:
        ContractError: the collection is no such class, or a metric of it reads an output that is
            missing, cannot be compiled, or computes no single number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from clu.metrics import Average, Collection
        >>> from nnx_alexnet.task.contract import check_metrics
        >>> loss, mask = (jax.ShapeDtypeStruct((4,), dtype) for dtype in (jnp.float32, bool))
        >>> check_metrics(Collection.create(f1=Average.from_output("f2")), {"loss": loss}, mask)
        Traceback (most recent call last):
        nnx_alexnet.task.contract.ContractError: The metric `f1` reads the output 'f2', which ...
    """
    if not (isinstance(collection, type) and issubclass(collection, Collection)):
        raise ContractError(
            f"`metrics` of the task is {_described(collection)}; it must be a subclass of "
            "clu.metrics.Collection, for instance Collection.create(loss="
            'Average.from_output("loss")), with Collection and Average from clu.metrics.'
        )
    names = _annotations(collection)
    for name, metric in names.items():
        if isinstance(metric, str):
            raise ContractError(
                f"The metric `{name}` is the text {metric!r}: the file "
                "has `from __future__ import annotations`, and CLU reads annotations as they are. "
                "Remove that import, or make the class with Collection.create("
                f"{name}=...)."
            )
        if not (isinstance(metric, type) and issubclass(metric, Metric)):
            raise ContractError(
                f"The metric `{name}` is {_described(metric)}; it must be "
                f'a class of clu.metrics, such as Average.from_output("{name}").'
            )
        if issubclass(metric, CollectingMetric):
            raise ContractError(
                f"The metric `{name}` is a CollectingMetric, which CLU "
                "accumulates on the host; the trainer accumulates metrics inside the compiled "
                "step. Use one that holds sums, or collect the outputs in a callback."
            )
        _check_metric(name, metric, outputs, mask)
    for name in names:
        if name.endswith("_step") and name.removesuffix("_step") in names:
            raise ContractError(
                f"The metric `{name}` has the name under which the trainer logs "
                f"`{name.removesuffix('_step')}` at log points. Give it another name."
            )


def _annotations(collection: type[Collection]) -> Mapping[str, Any]:
    """Returns name and class of each metric; CLU reads those of the class itself alone."""
    inherited = [
        name
        for base in collection.__mro__[1:]
        for name in vars(base).get("__annotations__", {})
        if base is not Collection and issubclass(base, Collection)
    ]
    own: Mapping[str, Any] = vars(collection).get("__annotations__", {})
    if missing := [name for name in inherited if name not in own]:
        raise ContractError(
            f"{collection.__name__} inherits the metrics {', '.join(missing)}, which CLU does not "
            "see: it reads those of one class alone. Repeat them in that class."
        )
    return own


def _check_metric(
    name: str,
    metric: type[Metric],
    outputs: Mapping[str, jax.ShapeDtypeStruct],
    mask: jax.ShapeDtypeStruct,
) -> None:
    try:
        with usual_promotion():
            new = jax.eval_shape(
                lambda out, m: metric.from_model_output(mask=m, **out), outputs, mask
            )
    except KeyError as error:
        raise ContractError(
            f"The metric `{name}` reads the output {error}, which `outputs` does not return; it "
            f"returns {_listed(outputs)}."
        ) from error
    except Exception as error:
        if not dataclasses.is_dataclass(metric) or "__dataclass_fields__" not in vars(metric):
            raise ContractError(
                f"The metric `{name}` is the class {metric.__name__}, which is not a dataclass "
                "that JAX knows. Decorate it with @flax.struct.dataclass."
            ) from error
        raise ContractError(
            f"The metric `{name}` cannot be computed from the outputs {_listed(outputs)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    try:
        with usual_promotion():
            empty = jax.eval_shape(metric.empty)
            value = _computed(jax.eval_shape(lambda other: metric.empty().merge(other), new))
    except Exception as error:
        raise ContractError(
            f"The metric `{name}` cannot be merged or computed: {type(error).__name__}: {error}"
        ) from error
    if jax.tree.structure(empty) != jax.tree.structure(new):  # type: ignore[operator]
        raise ContractError(
            f"The metric `{name}` has another structure when it is empty; what `empty` returns "
            "must hold the arrays that `from_model_output` returns."
        )
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(value)]
    if not hasattr(value, "dtype") or shapes != [()]:
        what = f"an array of shape {shapes[0]}" if len(shapes) == 1 else f"{len(shapes)} values"
        raise ContractError(
            f"The metric `{name}` computes {what}; it must compute a single number. Take a mean, "
            "or use a metric of its own for each entry."
        )
    if not jnp.issubdtype(jnp.result_type(value), jnp.number) or jnp.iscomplexobj(value):
        raise ContractError(
            f"The metric `{name}` computes a value of dtype {jnp.result_type(value)}; it must "
            "compute a real number."
        )


def _computed(metric: Any) -> Any:
    """Returns what a metric computes, or its shape: NumPy, on the host, cannot be traced."""
    try:
        return jax.eval_shape(lambda each: each.compute(), metric)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        with jax.debug_nans(False), np.errstate(all="ignore"):
            ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), metric)
            return np.asarray(ones.compute())


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing"


def _described(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a {type(value).__name__}"
