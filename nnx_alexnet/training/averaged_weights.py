"""The optimizer of a run, and the weights with which the run is evaluated.

These are the trained weights, unless a `WeightAveraging` averages them, or the optimizer is
`optax.contrib.schedule_free`, which computes its gradients elsewhere than at its average.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from optax.contrib import ScheduleFreeState, schedule_free_eval_params

from nnx_alexnet.callbacks import WeightAveraging
from nnx_alexnet.devices import named_leaves, usual_promotion

_AVERAGED = nnx.Any(nnx.Param, nnx.BatchStat)


class OptimizerFactory(NamedTuple):
    """Creates the `nnx.Optimizer` of a run.

    Attributes:
        transformation: the optax optimizer.
        averaging: the average that the optimizer also keeps; None if there is none.
        steps_per_epoch: the number of optimizer steps per epoch; None if it is unknown.
        wrt: the nnx filter of the parameters that are trained.
    """

    transformation: optax.GradientTransformation
    averaging: WeightAveraging | None = None
    steps_per_epoch: int | None = None
    wrt: Any = nnx.Param

    def create(self, model: nnx.Module) -> nnx.Optimizer[Any]:
        """Returns the optimizer of a model."""
        with usual_promotion():
            if self.averaging is None:
                return nnx.Optimizer(model, self.transformation, wrt=self.wrt)
            weight = _Weight(self.averaging, self.steps_per_epoch)
            return AveragingOptimizer(model, self.transformation, wrt=self.wrt, weight=weight)

    def check(self, model: nnx.Module) -> None:
        """Raises a `ValueError` if the average cannot be computed for this model and these data."""
        if self.averaging is None:
            return
        self.averaging.check(self.steps_per_epoch)
        if _schedule_free_states(jax.eval_shape(lambda: self.create(model).opt_state)):
            raise ValueError(
                f"`callbacks` holds {self.averaging!r}, but `optimizer` is schedule-free and "
                "already averages the weights. Leave one of them out."
            )


@dataclass(frozen=True)
class _Weight:
    """The weight of the newest values as a function of the step; equal for equal arguments."""

    averaging: WeightAveraging
    steps_per_epoch: int | None

    def __call__(self, step: jax.Array) -> jax.Array:
        return self.averaging.weight(step, self.steps_per_epoch)


class AveragingOptimizer(nnx.Optimizer[Any]):
    """An optimizer that also averages the parameters and the BatchNorm statistics.

    Args:
        model: the model; the averages start with its values.
        tx: the optax optimizer.
        wrt: the variables that it trains. All parameters are averaged.
        weight: `(step) -> weight`, the weight of the newest values in the average.

    Attributes:
        averages: the averages, in 32 bits or more; by the paths of the model.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from flax import nnx
        >>> from nnx_alexnet.training.averaged_weights import AveragingOptimizer
        >>> model = nnx.Linear(1, 1, use_bias=False, kernel_init=nnx.initializers.ones,
        ...                    rngs=nnx.Rngs(0))
        >>> optimizer = AveragingOptimizer(model, optax.sgd(1.0), wrt=nnx.Param,
        ...                                weight=lambda step: 0.5)
        >>> _ = optimizer.update(model, nnx.state(model))  # the gradient is 1
        >>> float(model.kernel[0, 0]), float(optimizer.averages["kernel"][0, 0])
        (0.0, 0.5)
    """

    def __init__(
        self,
        model: nnx.Module,
        tx: optax.GradientTransformation,
        *,
        wrt: Any,
        weight: Callable[[jax.Array], Any],
    ) -> None:
        super().__init__(model, tx, wrt=wrt)
        self.weight = weight
        self.averages = nnx.data(
            jax.tree.map(
                _as_average,
                nnx.state(model, _AVERAGED),
                is_leaf=lambda node: isinstance(node, nnx.Variable),
            )
        )

    def update(self, model: Any, grads: Any, /, **kwargs: Any) -> Any:
        """Updates the model, then the averages."""
        updates = super().update(model, grads, **kwargs)
        weight = jnp.asarray(self.weight(self.step[...].astype(jnp.int32)))
        values = dict(nnx.to_flat_state(nnx.state(model, _AVERAGED)))
        for path, average in nnx.to_flat_state(self.averages):
            moved = jax.tree.map(
                lambda old, new: _moved(old, new, weight),
                average.get_value(),
                values[path].get_value(),
            )
            average.set_value(moved)
        return updates


def _as_average(variable: Any) -> nnx.OptVariable:
    """Returns a variable with the value and the sharding of one of the model."""
    value = jax.tree.map(_at_least_32_bits, variable.get_value())
    metadata = variable.get_metadata()
    return nnx.OptVariable(value, **metadata)


def _at_least_32_bits(value: Any) -> jax.Array:
    array = jnp.asarray(value)
    is_half = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4
    return array.astype(jnp.float32) if is_half else array


def _moved(average: jax.Array, value: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns an average moved towards a value; integers, such as counts, take the value."""
    value = jnp.asarray(value).astype(average.dtype)
    if not jnp.issubdtype(average.dtype, jnp.inexact):
        return value
    between = average + weight.astype(average.dtype) * (value - average)
    # Exact at both ends, also for values that are not finite.
    return jnp.where(weight == 0, average, jnp.where(weight == 1, value, between))


def is_evaluated_elsewhere(optimizer: nnx.Optimizer[Any]) -> bool:
    """Returns whether a run with this optimizer is evaluated with other weights than it trains."""
    is_averaging = isinstance(optimizer, AveragingOptimizer)
    return is_averaging or bool(_schedule_free_states(optimizer.opt_state))


def evaluation_weights(
    optimizer: nnx.Optimizer[Any], arrays: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Returns the arrays with which a model is evaluated instead of its own, by their path.

    Args:
        optimizer: the optimizer of the model.
        arrays: the model's own arrays, by their path.

    Example:
        >>> import optax
        >>> from flax import nnx
        >>> from nnx_alexnet.devices import named_leaves
        >>> from nnx_alexnet.training.averaged_weights import evaluation_weights
        >>> model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        >>> optimizer = nnx.Optimizer(model, optax.contrib.schedule_free_sgd(), wrt=nnx.Param)
        >>> list(evaluation_weights(optimizer, named_leaves(model)))
        ['bias', 'kernel']
    """
    if isinstance(optimizer, AveragingOptimizer):
        found = named_leaves(optimizer.averages)
    else:
        found = {}
        for state in map(nnx.as_pure, _schedule_free_states(optimizer.opt_state)):
            z = named_leaves(state.z)  # optax.partition may leave parameters out
            with usual_promotion():
                found |= schedule_free_eval_params(
                    state._replace(z=z), {name: arrays[name] for name in z}
                )
    return {name: leaf.astype(arrays[name].dtype) for name, leaf in found.items()}


def _schedule_free_states(state: Any) -> list[ScheduleFreeState]:
    """Returns the states of schedule-free optimizers in the state of an optax optimizer."""

    def is_found(node: Any) -> bool:
        return isinstance(node, ScheduleFreeState)

    return [node for node in jax.tree.leaves(state, is_leaf=is_found) if is_found(node)]
