"""Describes a run, to compare it with a saved run, and between the processes of a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from flax import nnx

from nnx_alexnet.callbacks import CallbackList
from nnx_alexnet.checkpoints import (
    describe_module,
    describe_optimizer,
    identify,
    manifest_of,
    plain_attributes,
)
from nnx_alexnet.data import DataModule
from nnx_alexnet.devices import Placement, check_alike, named_leaves, on_host
from nnx_alexnet.task import Task
from nnx_alexnet.training.averaged_weights import OptimizerFactory
from nnx_alexnet.training.model_arrays import ModelArrays
from nnx_alexnet.training.settings import Settings
from nnx_alexnet.training.tracing import EvaluationTrace, TrainingTrace, fingerprints


class Ingredients(NamedTuple):
    """The parts that define a run, after the steps were traced."""

    arrays: ModelArrays
    data: DataModule
    task: Task
    optimizers: OptimizerFactory
    settings: Settings
    config: Mapping[str, object]
    placement: Placement
    evaluation: EvaluationTrace
    training: TrainingTrace


def check_processes_alike(run: Ingredients, callbacks: CallbackList, resume: str) -> None:
    """Raises an error if the processes differ; each would silently train another model.

    Args:
        run: the run in this process.
        callbacks: the callbacks of this process; their types and periods are compared.
        resume: the argument of `fit`.

    Raises:
        ValueError: the message names what differs.
    """
    model = run.arrays.model
    leaves = {
        name: on_host(run.placement.whole(leaf))  # an earlier `fit` may have split it
        for name, leaf in named_leaves(model).items()
    }
    check_alike(
        {
            "model": [describe_module(model), manifest_of(leaves, {})["arrays"]],
            "data": [run.data.describe(), run.data.label_digests()],
            "task": plain_attributes(run.task),
            "optimizer": describe_optimizer(
                run.optimizers.transformation, model, run.optimizers.wrt
            ),
            "programs": fingerprints(run.evaluation, run.training),
            "callbacks": [
                (type(callback).__qualname__, callback.batch_period) for callback in callbacks
            ],
            "resume": resume,
            **run.settings.shared(),
            "mesh": run.placement.describe(),
        }
    )


def identify_run(run: Ingredients, about_data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values that must equal those of a saved run for this run to resume it.

    Args:
        run: this run.
        about_data: the result of `DataModule.describe`.
    """
    arrays = run.arrays
    optimizer = describe_optimizer(run.optimizers.transformation, arrays.model, run.optimizers.wrt)
    leaves = arrays.named()
    constants = [f"model/{name}" for name in run.training.constants]
    stream = run.data.train.stream
    kind = None if stream is None else stream.kind
    identity = identify(
        arrays.model,
        leaves,
        {name: on_host(run.placement.whole(leaves[name])) for name in constants},
        task=run.task,
        metrics=run.evaluation.metric_names,
        data=about_data,
        samples=run.data.sample_digests(),
        programs={**optimizer, **fingerprints(run.evaluation, run.training)},
        seed=run.settings.seed,
        config=run.config,
    )
    trained = {
        "trainable": [*named_leaves(nnx.state(arrays.model, arrays.steps.wrt))]
        if arrays.steps.wrt is not nnx.Param
        else "all"
    }
    return {**trained, **identity} | ({} if kind is None else {"stream": kind})
