"""The functions that `compiled_steps` compiles: one step, from arrays to arrays.

Each function merges the modules from flat lists of arrays, runs a step of `default_steps` (or the
override of a subclass of the Trainer), and splits the modules again. All of this runs only while a
step is traced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from clu.metrics import Collection
from flax import nnx

from nnx_alexnet.data import transformed_batch
from nnx_alexnet.devices import Placement, named_leaves, usual_promotion
from nnx_alexnet.models import define, drop_rngs, pass_arguments, record_calls, takes_rngs
from nnx_alexnet.optimizers import rate_leaves, scalar_leaves, skip_leaves
from nnx_alexnet.task import (
    Loss,
    Outputs,
    SplitMetric,
    Task,
    check_metrics,
    check_outputs,
    check_predictions,
    check_split_metrics,
)
from nnx_alexnet.training.averaged_weights import evaluation_weights, is_evaluated_elsewhere
from nnx_alexnet.training.default_steps import Batch, GradientRecorder, ModuleSteps, masked_mean
from nnx_alexnet.training.module_layout import Layout, constrained
from nnx_alexnet.training.python_side_effects import counters, report_counters
from nnx_alexnet.training.trainable import trainable_filter

Transform = Callable[[Batch, jax.Array | None], Any]
# Folded into the key of an epoch or a pass, so that `rngs` repeat no draw of a transform, which
# folds the indices of examples.
_RNGS = 0x726E6773

Update = Any  # the compiled form of `StepFunctions.update`, which jax does not type


class State(NamedTuple):
    """The flat arrays of a run, which a compiled train step takes, donates and returns.

    Attributes:
        model: the leaves of the model's state (parameters, statistics, dropout keys).
        optimizer: the leaves of the optimizer's state; empty outside `fit`.
    """

    model: list[jax.Array]
    optimizer: list[jax.Array]


class Forwarded(NamedTuple):
    """The result of a batch in evaluation mode, and the model's arrays before and after it."""

    result: Any
    before: list[jax.Array]
    after: list[jax.Array]


class StepFunctions:
    """The functions of one model, one transform and one optimizer.

    Args:
        model: its graph is read now; it keeps its mode.
        transform: called as `transform(batch, key)`; `key` is None in evaluation.
        steps: the steps of modules.
        placement: the devices, and how arrays are split over them.
        trainable: see `Trainer` (default None: all parameters).

    Attributes:
        definitions: the graphs of the model.
        wrt: the nnx filter of the parameters that are trained.
        placement: the devices, and how arrays are split over them.
        model: the layout of the model's arrays.
        optimizer: the layout of the optimizer's arrays; None before `take_optimizer`.
        parameter_names: the paths of the model's parameters.
        trained_names: the paths of those that are trained.
        carried: by verb, which of the model's arrays a pass carries from batch to batch; set by
            `tracing`.
        metric_names: the metrics that accumulate, by their names in the logs.
        split_metrics: the metrics of a whole split in evaluation.
        takes_rngs: whether calls of the model get `rngs`; a pass then also carries their key.
        is_evaluated_elsewhere: whether a run is evaluated with other weights than it trains.
    """

    def __init__(
        self,
        model: nnx.Module,
        transform: Transform,
        steps: ModuleSteps,
        *,
        placement: Placement,
        trainable: Any = None,
    ) -> None:
        self.definitions = define(model)
        self.wrt = trainable_filter(model, trainable)
        state = self.definitions.state
        self.model = Layout(state, placement, "model")
        self.optimizer: Layout | None = None  # a model that is only evaluated has none
        self.parameter_names = list(named_leaves(nnx.filter_state(state, nnx.Param)))
        self.trained_names = list(named_leaves(nnx.filter_state(state, self.wrt)))
        self.carried: dict[str, list[int]] = {}
        self.takes_rngs = takes_rngs(model)
        self.is_evaluated_elsewhere = False
        self.metric_names: tuple[str, ...] = ()  # before `choose_metrics`
        self.split_metrics: Mapping[str, SplitMetric] = {}
        self._rate_leaves: dict[str, int] = {}
        self._skip_leaves: tuple[int, int] | None = None
        self._optimizer_definition: Any = None
        self._collection: type[Collection] | None = None
        self._transform = transform
        self._steps = steps
        self.placement = placement
        self._gathered = placement.gathered(state)

    # ---- Before a step is traced ------------------------------------------------------------

    def take_optimizer(self, optimizer: nnx.Optimizer[Any]) -> Layout:
        """Records how an optimizer is built, and returns the layout of its state."""
        definition, state = nnx.split(optimizer)
        if self.optimizer is None or definition != self._optimizer_definition:
            self._optimizer_definition = definition
            self.optimizer = Layout(state, self.placement, "optimizer")
            shapes = [struct.shape for struct in self.optimizer.structs]
            names = self.optimizer.names
            self._rate_leaves = rate_leaves(names, shapes) | scalar_leaves(names, shapes)
            self._skip_leaves = skip_leaves(names)
            self.is_evaluated_elsewhere = is_evaluated_elsewhere(optimizer)
        return self.optimizer

    def choose_metrics(
        self, task: Task, outputs: Mapping[str, jax.ShapeDtypeStruct], mask: jax.ShapeDtypeStruct
    ) -> type[Collection]:
        """Returns the metrics that accumulate: those of the task, and always the loss.

        The first choice is kept, because another class would require another program.

        Raises:
            ContractError: the metrics cannot be computed from the outputs.
        """
        if self._collection is None:
            collection = task.collection(outputs)
            self.metric_names = check_metrics(collection, outputs, mask)
            self.split_metrics = check_split_metrics(task.split_metrics(outputs), outputs)
            if "loss" not in collection.__annotations__:
                self.metric_names = ("loss", *self.metric_names)
                collection = Collection.create(loss=Loss, **collection.__annotations__)
            self._collection = collection
        return self._collection

    @property
    def rate_names(self) -> tuple[str, ...]:
        """The metric names of the learning rates in the optimizer's state."""
        return tuple(self._rate_leaves)

    def learning_rates(self, state: State) -> dict[str, jax.Array]:
        """Returns the learning rates in the optimizer's state, by the names of their metrics."""
        # `optax.inject_hyperparams` converts them to the dtype of the first parameter, which may
        # be complex.
        rates = {name: state.optimizer[number] for name, number in self._rate_leaves.items()}
        return {name: jnp.real(rate) for name, rate in rates.items()}

    # ---- Training -----------------------------------------------------------------------------

    def completed(self, data: Batch, batch: Batch) -> Batch:
        """Adds the rows of a batch from the data on the device, and shards the batch."""
        rows = jax.tree.map(lambda array: array[batch["index"]], dict(data))
        sharding = self.placement.of_batch(len(batch["index"]))
        whole: Batch = constrained({**batch, **rows}, sharding)
        return whole

    def update(
        self, state: State, metrics: Any, batch: Batch, key: jax.Array
    ) -> tuple[State, Any, Outputs]:
        """Runs one optimizer step.

        Returns:
            The state, the metrics, and the scalars: `loss`, `is_finite` and the learning rates.
        """
        assert self.optimizer is not None, "call `take_optimizer` first"
        model = self._training_model(state.model, batch, key)
        optimizer = nnx.merge(self._optimizer_definition, self.optimizer.state(state.optimizer))
        numbers = counters(model)
        transformed = self._transformed(batch, key)
        try:
            outputs = self._steps.train(model, optimizer, transformed)
        except Exception:
            drop_rngs(model)
            self.model.check_variables(model)  # new variables are the cause of many errors
            raise
        drop_rngs(model)
        outputs = check_outputs(outputs, len(batch["mask"]), "`train_step`")
        new = State(
            self.model.leaves(model, state.model),
            self.optimizer.leaves(optimizer, state.optimizer),
        )
        report_counters(model, numbers)
        loss = masked_mean(outputs["loss"], batch["mask"], outputs.get("weight"))
        loss = loss.astype(jnp.float32)
        # On a CPU, XLA's maximum may drop a NaN. ReLU can therefore hide a NaN from the loss, but
        # not from the statistics.
        seen = [loss, *jax.tree.leaves(nnx.state(model, nnx.BatchStat))]
        is_finite = jnp.stack([jnp.isfinite(values).all() for values in seen]).all()
        measured = self.measured(metrics, outputs, batch)
        if self._skip_leaves is not None:
            parameters = jax.tree.leaves(nnx.state(model, nnx.Param))
            is_finite &= jnp.stack([jnp.isfinite(leaf).all() for leaf in parameters]).all()
            new, measured = self._unless_skipped(is_finite, (new, measured), (state, metrics))
        info = {"loss": loss, "is_finite": is_finite, **self.learning_rates(new)}
        if self._skip_leaves is not None:
            info["skipped_in_row"] = new.optimizer[self._skip_leaves[1]]
        kept = State(
            self.model.kept(new.model, state.model),
            self.optimizer.kept(new.optimizer, state.optimizer),
        )
        return kept, measured, info

    def _unless_skipped(self, is_finite: jax.Array, new: Any, old: Any) -> Any:
        """Returns the state and the metrics after a step, or those before it and its count."""
        assert self._skip_leaves is not None
        state, measured = jax.tree.map(lambda one, two: jnp.where(is_finite, one, two), new, old)
        total, in_row = self._skip_leaves
        before = old[0].optimizer
        state.optimizer[total] = jnp.where(is_finite, before[total], before[total] + 1)
        state.optimizer[in_row] = jnp.where(is_finite, 0, before[in_row] + 1)
        return state, measured

    def no_info(self, state: State, num: int) -> Outputs:
        """Returns the scalars of `num` steps, before the first of them."""
        infos = {"loss": jnp.zeros(num, jnp.float32), "is_finite": jnp.ones(num, bool)}
        if self._skip_leaves is not None:
            infos["skipped_in_row"] = jnp.zeros(num, jnp.int32)
        rates = self.learning_rates(state).items()
        return infos | {name: jnp.zeros(num, rate.dtype) for name, rate in rates}

    def evaluation_weights(self, state: State) -> dict[str, jax.Array]:
        """Returns the arrays with which the model is evaluated instead of its own, by path."""
        assert self.optimizer is not None, "call `take_optimizer` first"
        optimizer = nnx.merge(self._optimizer_definition, self.optimizer.state(state.optimizer))
        return evaluation_weights(optimizer, dict(zip(self.model.names, state.model, strict=True)))

    def gradients(self, leaves: list[jax.Array], batch: Batch, key: jax.Array) -> list[jax.Array]:
        """Returns the gradients that a step passes to its optimizer."""
        model = self._training_model(leaves, batch, key)
        recorder = GradientRecorder(model, optax.identity(), wrt=self.wrt)
        self._steps.train(model, recorder, self._transformed(batch, key))
        gradients: list[jax.Array] = jax.tree.leaves(nnx.state(recorder.gradients))
        return [constrained(each, self.placement.replicated) for each in gradients]

    def _training_model(self, leaves: list[jax.Array], batch: Batch, key: jax.Array) -> nnx.Module:
        whole = self._whole(leaves)
        model: nnx.Module = nnx.merge(self.definitions.train, self.model.state(whole))
        pass_arguments(model, training=True, key=self._key_of_rngs(key, batch))
        return model

    def _key_of_rngs(self, key: jax.Array, batch: Batch) -> jax.Array | None:
        """Returns the key of `rngs` for a batch, given that of the epoch or of the pass."""
        if not self.takes_rngs:
            return None
        # An example is in one batch of an epoch, so the index of the first one identifies a batch,
        # whatever the number of steps per dispatch.
        return jax.random.fold_in(jax.random.fold_in(key, _RNGS), batch["index"][0])

    # ---- Evaluation and prediction --------------------------------------------------------------

    def evaluated(
        self, verb: str, leaves: list[jax.Array], carried: list[jax.Array], batch: Batch
    ) -> tuple[Any, list[jax.Array]]:
        """Returns the result of a batch in evaluation mode, and the arrays for the next batch.

        Args:
            verb: "evaluate" or "predict".
            leaves: the model's arrays before the pass.
            carried: the values, after the previous batch, of the arrays that `self.carried` lists;
                then the key of the pass, if `takes_rngs`.
            batch: the batch before the transform.
        """
        result, _, after = self.forward(verb, leaves, carried, batch)
        numbers = self.carried[verb]
        shardings = [self.model.shardings[number] for number in numbers]
        moved = list(map(constrained, [after[number] for number in numbers], shardings))
        return result, [*moved, *carried[len(numbers) :]]

    def forward(
        self, verb: str, leaves: list[jax.Array], carried: Sequence[jax.Array], batch: Batch
    ) -> Forwarded:
        """Runs a batch in evaluation mode; see `evaluated`."""
        before = self._whole(leaves)
        numbers = self.carried.get(verb, ())
        for number, leaf in zip(numbers, carried, strict=False):
            before[number] = leaf
        model = nnx.merge(self.definitions.evaluation, self.model.state(before))
        key = self._key_of_rngs(carried[-1], batch) if carried else None
        pass_arguments(model, training=False, key=key)
        record_calls(model)
        batch, size = self._transformed(batch), len(batch["mask"])
        counts = counters(model)
        if verb == "predict":
            result = self._steps.predict(model, batch)
            check_predictions(result, size, "`predict`")
        else:
            result = check_outputs(self._steps.evaluate(model, batch), size, "`eval_step`")
        drop_rngs(model)
        after = self.model.leaves(model, before)
        report_counters(model, counts)
        return Forwarded(result, before, after)

    def measured(self, metrics: Any, outputs: Outputs, batch: Batch) -> Any:
        """Returns the metrics with those of a batch added."""
        assert self._collection is not None, "call `choose_metrics` first"
        # Sums in 16 bits are wrong after a few hundred examples, for any metric.
        exact = {name: jax.tree.map(_at_least_float32, value) for name, value in outputs.items()}
        with usual_promotion():
            new = self._collection.single_from_model_output(mask=batch["mask"], **exact)
            return constrained(metrics.merge(new), self.placement.replicated)

    def _transformed(self, batch: Batch, key: jax.Array | None = None) -> Batch:
        """Applies the transform to a batch, and splits the result over the devices."""
        with usual_promotion():
            result = transformed_batch(self._transform, batch, key)
        return constrained(result, self.placement.of_batch(len(batch["index"])))  # type: ignore[no-any-return]

    def _whole(self, leaves: list[jax.Array]) -> list[jax.Array]:
        """Gathers arrays that are split over `data`; keeps splits set by their own metadata."""
        return list(map(constrained, leaves, self._gathered))


def _at_least_float32(values: Any) -> Any:
    dtype = jnp.result_type(values)
    is_half = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4
    return jnp.asarray(values, jnp.float32) if is_half else values
