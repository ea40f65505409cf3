"""Traces the steps over shapes before a run, so that mistakes are found before compilation.

Each function returns a complete description of its trace.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from nnx_alexnet.checkpoints import fingerprint, unchanged
from nnx_alexnet.devices import is_key, named_leaves, placed
from nnx_alexnet.models import Calls, recorded_calls
from nnx_alexnet.support import logger
from nnx_alexnet.task import ContractError, SplitMetric, Task, check_same_rows, no_accidental_pairs
from nnx_alexnet.training.averaged_weights import OptimizerFactory
from nnx_alexnet.training.default_steps import Batch
from nnx_alexnet.training.flops import product_flops, training_flops
from nnx_alexnet.training.step_functions import State, StepFunctions, Update

_SIZES = itertools.count(1)


class EvaluationTrace(NamedTuple):
    """The result of tracing a forward pass of a model and a task.

    Attributes:
        outputs: the shapes and dtypes that the task returns.
        metric_names: the metrics that accumulate.
        empty: these metrics before any batch, on the devices.
        forward_flops: the FLOPs of one example's forward pass, by dtype.
        can_loop_on_device: whether several train steps may be one dispatch; False for convolutions
            on a CPU. Inside a loop, XLA runs these without its threaded kernels (4 images/s instead
            of 148 for AlexNet on two cores), and with different rounding.
        calls: the inputs and outputs of the model's layers.
        program: the jaxpr.
        num_rows: the number of examples in the batch that was traced.
        split_metrics: the metrics of a whole split in evaluation.
    """

    outputs: Mapping[str, jax.ShapeDtypeStruct]
    metric_names: tuple[str, ...]
    empty: Any
    forward_flops: Mapping[str, float]
    can_loop_on_device: bool
    calls: Calls
    program: Any
    num_rows: int
    split_metrics: Mapping[str, SplitMetric]


class TrainingTrace(NamedTuple):
    """The result of tracing a train step of a model and an optimizer.

    Attributes:
        rate_names: the metric names of the learning rates in the optimizer's state: "lr", or one
            for each group of parameters, such as "lr/head".
        still_statistics: the paths of the statistics that a train step returns unchanged.
        constants: the paths of other arrays that a train step returns unchanged, except parameters
            and keys.
        program: the jaxpr.
        num_rows: the number of examples in the batch that was traced.
        example_flops: the FLOPs that training takes for one example, by dtype.
    """

    rate_names: tuple[str, ...]
    still_statistics: list[str]
    constants: list[str]
    program: Any
    num_rows: int
    example_flops: Mapping[str, float]


def fingerprints(evaluation: EvaluationTrace, training: TrainingTrace) -> dict[str, Any]:
    """Returns digests of two traced programs, and the numbers of rows of their batches."""
    return {
        "evaluation": fingerprint(evaluation.program),
        "train_step": fingerprint(training.program),
        "rows": {"evaluation": evaluation.num_rows, "train_step": training.num_rows},
    }


def trace_evaluation(functions: StepFunctions, task: Task, example: Batch) -> EvaluationTrace:
    """Traces a forward pass, and chooses the metrics that accumulate.

    Args:
        functions: the step functions of the model.
        task: specifies the metrics.
        example: a batch, or the shapes and dtypes of one.

    Raises:
        ContractError: the task or its metrics break the contract of `Task`.
    """
    outputs: Mapping[str, jax.ShapeDtypeStruct]
    with recorded_calls() as calls:
        jaxpr, outputs = _trace_forward(functions, "evaluate", example)
    num_rows = len(example["index"])
    flops = {dtype: count / num_rows for dtype, count in product_flops(jaxpr).items()}
    has_convolution = "conv_general_dilated" in str(jaxpr)
    collection = functions.choose_metrics(task, outputs, example["mask"])
    empty = collection.empty()
    # An empty metric may have another dtype than a filled one, but a loop accepts only one dtype.
    filled = jax.eval_shape(functions.measured, empty, outputs, example)
    empty = jax.tree.map(
        lambda old, new: placed(np.asarray(old, new.dtype), functions.placement.replicated),
        empty,
        filled,
    )
    return EvaluationTrace(
        outputs=outputs,
        metric_names=functions.metric_names,
        empty=empty,
        forward_flops=flops,
        can_loop_on_device=not (has_convolution and jax.default_backend() == "cpu"),
        calls=calls,
        program=jaxpr,
        num_rows=num_rows,
        split_metrics=functions.split_metrics,
    )


def trace_prediction(functions: StepFunctions, example: Batch) -> None:
    """Traces `predict`.

    Args:
        functions: the step functions of the model.
        example: a batch, or the shapes and dtypes of one.

    Raises:
        ContractError: the first axis of the predictions is not the batch.
    """
    _trace_forward(functions, "predict", example)


def _trace_forward(functions: StepFunctions, verb: str, example: Batch) -> tuple[Any, Any]:
    """Traces a batch in evaluation mode; returns the jaxpr, and the shapes of the result."""
    model = functions.model
    functions.carried.pop(verb, None)  # not known before the trace
    moved: list[int] = []

    def forward(leaves: list[jax.Array], batch: Batch, keys: list[jax.Array]) -> Any:
        result, before, after = functions.forward(verb, leaves, keys, batch)
        pairs = enumerate(zip(before, after, strict=True))
        moved[:] = [number for number, (old, new) in pairs if old is not new]
        return result

    key = jax.eval_shape(lambda: jax.random.key(0))
    keys = [key] if functions.takes_rngs else []
    made: tuple[Any, Any]
    made = jax.make_jaxpr(forward, return_shape=True)(model.structs, example, keys)
    # If an evaluation changes parameters or statistics, the change applies to one batch only.
    statistics = nnx.filter_state(functions.definitions.state, nnx.BatchStat)
    fixed = {*functions.parameter_names, *named_leaves(statistics)}
    free = [number for number in moved if model.names[number] not in fixed]
    # A key does not change when its count does; see `CompiledSteps.begin_pass`.
    constant = [number for number, leaf in enumerate(model.structs) if is_key(leaf)]
    _check_batch_axis(
        lambda larger: jax.eval_shape(forward, model.structs, larger, keys),
        functions,
        verb,
        example,
        made[1],
    )
    functions.carried[verb] = sorted({*free, *constant}) if free else []
    return made


def _check_batch_axis(
    traced: Callable[[Batch], Any],
    functions: StepFunctions,
    verb: str,
    example: Batch,
    result: Any,
) -> None:
    """Traces a batch of another size: the first axis of the results must change with it.

    An axis that has the length of the batch by chance, such as a mean over the batch for each of B
    classes, keeps its length. The size is one that this process has not traced yet, because JAX
    does not repeat the warnings of a trace that it has cached.
    """
    size = len(example["mask"]) + next(_SIZES) * functions.placement.num_parts
    larger = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), dict(example)
    )
    try:
        with no_accidental_pairs(size) if verb == "evaluate" else nullcontext():
            other = traced(larger)
    except ContractError:
        raise
    except Exception as error:
        logger.debug("The model takes batches of one size: %r", error)
    else:
        if verb == "predict":
            check_same_rows(result, other, "`predict`")


def trace_training(
    functions: StepFunctions,
    update: Update,
    optimizers: OptimizerFactory,
    evaluation: EvaluationTrace,
    example: Batch,
) -> TrainingTrace:
    """Traces a train step; `trace_evaluation` must have chosen the metrics before.

    Args:
        functions: the step functions of the model.
        update: the compiled form of `functions.update`, which keeps this trace.
        optimizers: creates the optimizer.
        evaluation: the trace of the forward pass.
        example: shapes and dtypes of a batch.

    Raises:
        ContractError: the task breaks its contract in training mode, or the model or the
            optimizer changes the shape or dtype of an array of the state.
    """
    optimizer = _abstract_optimizer(functions, optimizers)
    layout = functions.take_optimizer(optimizer)

    def shaped(tree: Any, sharding: jax.sharding.NamedSharding) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    key = jax.eval_shape(lambda: jax.random.key(0))
    metrics, key = shaped((evaluation.empty, key), functions.placement.replicated)
    state: Any = State(functions.model.abstract(), layout.abstract())
    jaxpr = update.trace(
        state, metrics, shaped(dict(example), functions.placement.batch), key
    ).jaxpr
    names = functions.model.names
    still = {names[number] for number in unchanged(jaxpr, len(names))}

    def unmoved(*kinds: Any) -> list[str]:
        state = nnx.filter_state(functions.definitions.state, *kinds)
        return [name for name in named_leaves(state) if name in still]

    num_rows = len(example["index"])
    return TrainingTrace(
        rate_names=functions.rate_names,
        still_statistics=unmoved(nnx.BatchStat),
        constants=unmoved(nnx.Not(nnx.Any(nnx.Param, nnx.BatchStat, nnx.RngState))),
        program=jaxpr,
        num_rows=num_rows,
        example_flops=training_flops(
            evaluation.forward_flops,
            {dtype: count / num_rows for dtype, count in product_flops(jaxpr).items()},
            trains_all=optimizers.wrt is nnx.Param,
        ),
    )


def _abstract_optimizer(
    functions: StepFunctions, optimizers: OptimizerFactory
) -> nnx.Optimizer[Any]:
    """Returns an optimizer that contains shapes instead of values."""
    definition = functions.definitions.train
    state = functions.model.state(functions.model.structs)
    built: list[Any] = []

    def build(state: Any) -> Any:
        optimizer = optimizers.create(nnx.merge(definition, state))
        graph, arrays = nnx.split(optimizer)
        built.append(graph)
        return arrays

    # If flax splits a variable when it creates it, it needs the mesh at that time.
    with jax.set_mesh(functions.placement.mesh):
        arrays = jax.eval_shape(build, state)
    optimizer: nnx.Optimizer[Any] = nnx.merge(built[0], arrays)
    return optimizer
