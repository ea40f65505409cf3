"""The programs of `CompiledSteps`: step functions that count how often they are traced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax

from nnx_alexnet.task import Outputs
from nnx_alexnet.training.default_steps import Batch
from nnx_alexnet.training.module_layout import constrained
from nnx_alexnet.training.step_functions import State, StepFunctions, Update

Program = Callable[..., Any]


def train_program(functions: StepFunctions, update: Update, traces: Counter[str]) -> Program:
    """Returns the train step; see `CompiledSteps.train`."""

    def train(
        state: State, metrics: Any, data: Batch, batch: Batch, key: jax.Array
    ) -> tuple[State, Any, Outputs]:
        traces["train"] += 1
        updated: tuple[State, Any, Outputs] = update(
            state, metrics, functions.completed(data, batch), key
        )
        return updated

    return train


def train_many_program(functions: StepFunctions, update: Update, traces: Counter[str]) -> Program:
    """Returns several train steps in one loop; see `CompiledSteps.train_many`."""

    def train_many(
        state: State, metrics: Any, data: Batch, group: tuple[Batch, jax.Array], key: jax.Array
    ) -> tuple[State, Any, Outputs, Outputs]:
        traces["train"] += 1
        batches, count = group
        infos = functions.no_info(state, len(batches["index"]))

        def step(number: jax.Array, carried: Any) -> Any:
            state, metrics, infos = carried
            batch = jax.tree.map(lambda rows: rows[number], batches)
            batch = functions.completed(data, batch)
            state, metrics, info = update(state, metrics, batch, key)
            infos = {name: all_.at[number].set(info[name]) for name, all_ in infos.items()}
            return state, metrics, infos

        # The number of iterations is an argument, so one program works for every length.
        state, metrics, infos = jax.lax.fori_loop(0, count, step, (state, metrics, infos))
        return state, metrics, infos, {name: all_[count - 1] for name, all_ in infos.items()}

    return train_many


def evaluate_program(functions: StepFunctions, traces: Counter[str]) -> Program:
    """Returns the step of an evaluation; see `CompiledSteps.evaluate`."""

    def evaluate(
        leaves: list[jax.Array], carried: list[jax.Array], metrics: Any, batch: Batch
    ) -> tuple[list[jax.Array], Any, Outputs]:
        traces["evaluate"] += 1
        outputs, carried = functions.evaluated("evaluate", leaves, carried, batch)
        metrics = functions.measured(metrics, outputs, batch)
        return carried, metrics, constrained(outputs, functions.placement.batch)

    return evaluate


def predict_program(functions: StepFunctions, traces: Counter[str]) -> Program:
    """Returns the step of a prediction; see `CompiledSteps.predict`."""

    def predict(
        leaves: list[jax.Array], carried: list[jax.Array], batch: Batch
    ) -> tuple[list[jax.Array], Any]:
        traces["predict"] += 1
        predictions, carried = functions.evaluated("predict", leaves, carried, batch)
        return carried, constrained(predictions, functions.placement.replicated)

    return predict


def gradients_program(functions: StepFunctions, traces: Counter[str]) -> Program:
    """Returns the gradients of a train step."""

    def gradients(leaves: list[jax.Array], batch: Batch, key: jax.Array) -> list[jax.Array]:
        traces["gradients"] += 1
        return functions.gradients(leaves, batch, key)

    return gradients
