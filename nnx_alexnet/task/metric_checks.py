"""Checks that the metrics of a task can be accumulated, from their shapes and dtypes.

Without these checks, a metric that cannot be computed would fail only at the end of an epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu.metrics import CollectingMetric, Collection, Metric

from nnx_alexnet.devices import usual_promotion
from nnx_alexnet.task.contract import ContractError, listed
from nnx_alexnet.task.split_metrics import SplitMetric


def check_metrics(
    collection: Any, outputs: Mapping[str, jax.ShapeDtypeStruct], mask: jax.ShapeDtypeStruct
) -> tuple[str, ...]:
    """Checks that the metrics of a task can be accumulated and computed.

    A metric may compute a dict. Its entries are then metrics of their own, named by `metric_name`.

    Args:
        collection: the result of `Task.collection`, a subclass of `clu.metrics.Collection`.
        outputs: the shapes and dtypes that `Task.outputs` returns.
        mask: shape and dtype of the batch's mask.

    Returns:
        The names of all metrics.

    Raises:
        ContractError: the collection is not such a class; or a metric reads a missing output,
            cannot be compiled, or does not compute a number or a dict of numbers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from clu.metrics import Average, Collection
        >>> from nnx_alexnet.task.metric_checks import check_metrics
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
    computed: list[str] = []
    for name, metric in names.items():
        _check_class(name, metric)
        new = _from_outputs(name, metric, outputs, mask)
        computed += (metric_name(name, key) for key in _check_value(name, metric, new))
    for name in names:
        if name.endswith("_step") and name.removesuffix("_step") in names:
            raise ContractError(
                f"The metric `{name}` has the name under which the trainer logs "
                f"`{name.removesuffix('_step')}` at log points. Choose another name."
            )
    return tuple(computed)


def check_split_metrics(
    metrics: Mapping[str, SplitMetric], outputs: Mapping[str, jax.ShapeDtypeStruct]
) -> Mapping[str, SplitMetric]:
    """Returns metrics of a whole split, whose outputs must exist.

    Args:
        metrics: the result of `Task.split_metrics`.
        outputs: the shapes and dtypes that `Task.outputs` returns.

    Raises:
        ContractError: a metric reads a missing output.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.task import SplitMetric
        >>> from nnx_alexnet.task.metric_checks import check_split_metrics
        >>> check_split_metrics({"median": SplitMetric(np.median, ("losses",))}, {"loss": ...})
        Traceback (most recent call last):
        nnx_alexnet.task.contract.ContractError: The metric `median` reads the output 'losses', ...
    """
    for name, metric in metrics.items():
        for missing in {*metric.outputs} - {*outputs}:
            raise _missing(name, missing, outputs)
    return metrics


def _missing(metric: str, name: str, outputs: Mapping[str, Any]) -> ContractError:
    return ContractError(
        f"The metric `{metric}` reads the output {name!r}, which `outputs` does not return; it "
        f"returns {listed(outputs)}."
    )


def metric_name(name: str, key: str) -> str:
    """Returns the name of an entry of the dict that a metric computes.

    Example:
        >>> from nnx_alexnet.task.metric_checks import metric_name
        >>> metric_name("f1", "cat"), metric_name("f1", "")
        ('f1/cat', 'f1')
    """
    return f"{name}/{key}" if key else name


def _annotations(collection: type[Collection]) -> Mapping[str, Any]:
    """Returns the name and class of each metric; raises if a base class has others.

    CLU does not read the annotations of base classes.
    """
    inherited = [
        name
        for base in collection.__mro__[1:]
        for name in vars(base).get("__annotations__", {})
        if base is not Collection and issubclass(base, Collection)
    ]
    own: Mapping[str, Any] = vars(collection).get("__annotations__", {})
    if missing := [name for name in inherited if name not in own]:
        raise ContractError(
            f"{collection.__name__} inherits the metrics {', '.join(missing)}, but CLU does not "
            f"read the annotations of base classes. Repeat them in {collection.__name__}."
        )
    return own


def _check_class(name: str, metric: Any) -> None:
    if isinstance(metric, str):
        raise ContractError(
            f"The metric `{name}` is the string {metric!r}: the file has `from __future__ import "
            "annotations`, and CLU does not evaluate annotations. Remove that import, or create "
            f"the class with Collection.create({name}=...)."
        )
    if not (isinstance(metric, type) and issubclass(metric, Metric)):
        raise ContractError(
            f"The metric `{name}` is {_described(metric)}; it must be a class of clu.metrics, "
            f'such as Average.from_output("{name}").'
        )
    if issubclass(metric, CollectingMetric):
        raise ContractError(
            f"The metric `{name}` is a CollectingMetric, which CLU accumulates on the host; the "
            "trainer accumulates metrics inside the compiled step. Use a metric that stores sums, "
            "or collect the outputs in a callback."
        )


def _from_outputs(
    name: str,
    metric: type[Metric],
    outputs: Mapping[str, jax.ShapeDtypeStruct],
    mask: jax.ShapeDtypeStruct,
) -> Any:
    """Returns the shapes of a metric of one batch."""
    try:
        with usual_promotion():
            return jax.eval_shape(
                lambda out, m: metric.from_model_output(mask=m, **out), outputs, mask
            )
    except KeyError as error:
        raise _missing(name, error.args[0], outputs) from error
    except Exception as error:
        if not dataclasses.is_dataclass(metric) or "__dataclass_fields__" not in vars(metric):
            raise ContractError(
                f"The metric `{name}` is the class {metric.__name__}, which is not registered "
                "with JAX as a dataclass. Decorate it with @flax.struct.dataclass."
            ) from error
        raise ContractError(
            f"The metric `{name}` cannot be computed from the outputs {listed(outputs)}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _check_value(name: str, metric: type[Metric], new: Any) -> list[str]:
    """Checks that an empty metric can be merged with `new`, and computes real numbers.

    Returns:
        The keys of the dict that it computes; an empty one for a single number.
    """
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
            f"The metric `{name}` has a different structure when it is empty; `empty` must return "
            "the same arrays as `from_model_output`."
        )
    if isinstance(value, Mapping):
        for key, each in value.items():
            _check_number(metric_name(name, key), np.asarray(each) if np.isscalar(each) else each)
        return [*value]
    _check_number(name, value)
    return [""]


def _check_number(name: str, value: Any) -> None:
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(value)]
    if not hasattr(value, "dtype") or shapes != [()]:
        what = f"an array of shape {shapes[0]}" if len(shapes) == 1 else f"{len(shapes)} values"
        raise ContractError(
            f"The metric `{name}` computes {what}; it must compute a single number. Take a mean, "
            "use one metric per entry, or return a dict of numbers."
        )
    if not jnp.issubdtype(jnp.result_type(value), jnp.number) or jnp.iscomplexobj(value):
        raise ContractError(
            f"The metric `{name}` computes a value of dtype {jnp.result_type(value)}; it must "
            "compute a real number."
        )


def _computed(metric: Any) -> Any:
    """Returns the shape of a metric's result, or its value if JAX cannot trace it (NumPy)."""
    try:
        return jax.eval_shape(lambda each: each.compute(), metric)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        with jax.debug_nans(False), np.errstate(all="ignore"):
            ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), metric)
            value = ones.compute()
            return value if isinstance(value, Mapping) else np.asarray(value)


def _described(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a {type(value).__name__}"
