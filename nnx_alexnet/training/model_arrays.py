"""`ModelArrays`: keeps the arrays of a model and its optimizer in one place at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from nnx_alexnet.devices import Placement, named_leaves, on_device, on_host
from nnx_alexnet.optimizers import rate_leaves, scalable_leaves
from nnx_alexnet.support import logger
from nnx_alexnet.training.averaged_weights import OptimizerFactory
from nnx_alexnet.training.compiled_steps import CompiledSteps
from nnx_alexnet.training.step_functions import State


class ModelArrays:
    """Keeps the arrays either in the model, for hooks and the caller, or in a state for the steps.

    Traversing a module costs more than a small step. The arrays are therefore put back into the
    model only on request (`lend`), and taken out of it when the next step needs them (`take`).

    Args:
        model: the user's model.
        placement: how arrays are split over devices.

    Attributes:
        model: the user's model, which may hold older arrays; see `lend`.
        optimizer: its optimizer during `fit`, else None.
    """

    def __init__(self, model: nnx.Module, placement: Placement) -> None:
        self.model = model
        self.optimizer: nnx.Optimizer[Any] | None = None
        self._placement = placement
        self._steps: CompiledSteps | None = None
        self._state: State | None = None  # the arrays, while they are not in the model
        self._is_newer = False  # whether the state has other values than the model
        self._best: dict[str, np.ndarray[Any, Any]] = {}  # "best/conv1/kernel", on the host
        self._evaluation: tuple[State, list[jax.Array]] | None = None  # and the state it is of

    @property
    def steps(self) -> CompiledSteps:
        """The compiled steps of the model."""
        assert self._steps is not None, "call `use` first"
        return self._steps

    @property
    def model_class(self) -> str:
        """The import path of the model's class, for `load_model`."""
        return f"{type(self.model).__module__}.{type(self.model).__qualname__}"

    @property
    def num_compilations(self) -> dict[str, int]:
        """How often each step was traced."""
        return {} if self._steps is None else dict(self._steps.traces)

    def has_current_steps(self) -> bool:
        """Returns whether there are compiled steps, and the model is still built as for them."""
        return self._steps is not None and self._steps.are_of(self.model)

    def use(self, steps: CompiledSteps) -> None:
        """Sets the compiled steps for the model as it is built now."""
        self._steps = steps

    def take(self) -> State:
        """Returns the arrays for a step, which may donate them if `put` follows."""
        if self._state is None:
            self._state = self.steps.split(self.model, self.optimizer)
            self._is_newer = False
        return self._state

    def is_at(self, state: State) -> bool:
        """Returns whether the arrays are still those of a state that `take` returned."""
        return self._state is state

    def copy(self) -> State:
        """Returns a copy of the arrays on the same devices, which a step may donate."""
        state = self.take()
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        copied: State = jax.device_put(state, shardings, may_alias=False)
        return copied

    def put(self, state: State) -> None:
        """Stores the state that a step returned."""
        self._state, self._evaluation = state, None
        self._is_newer = True

    def lend(self) -> nnx.Module:
        """Puts the arrays into the model, unless no step has changed them, and returns it."""
        if self._state is not None:
            if any(leaf.is_deleted() for leaf in jax.tree.leaves(self._state)):
                # A step failed after it had taken the arrays.
                logger.error("The step failed: the model has older values, not the newest ones.")
            elif self._is_newer:
                self.steps.join(self._state, self.model, self.optimizer)
            self._state = self._evaluation = None
        return self.model

    def evaluation_leaves(self) -> list[jax.Array]:
        """Returns the model's arrays for an evaluation: the averages, if the run keeps them."""
        state = self.take()
        if self._evaluation is None or self._evaluation[0] is not state:
            self._evaluation = state, self.steps.evaluation_leaves(state)
        return self._evaluation[1]

    def begin_training(self, optimizers: OptimizerFactory) -> None:
        """Creates the optimizer on the same devices as the parameters, and split like them."""
        self._best = {}
        self.put(self.steps.split(self.model))
        self.lend()
        with jax.set_mesh(self._placement.mesh):
            self.optimizer = optimizers.create(self.model)

    def end_training(self) -> None:
        """Drops the optimizer; the model gets the arrays with which the run was evaluated."""
        try:
            self.lend()
            if self.optimizer is not None and self.steps.is_evaluated_elsewhere:
                leaves, self.optimizer = self.evaluation_leaves(), None
                self.put(State(leaves, []))
        finally:
            self.drop_optimizer()

    def drop_optimizer(self) -> None:
        """Drops the optimizer, and keeps the model's arrays as they are."""
        self.lend()
        self.optimizer = None

    def scale_rates(self, factors: Mapping[str, float]) -> None:
        """Multiplies learning rates in the optimizer's state; see `Trainer.scale_learning_rates`.

        Raises:
            ValueError: a rate is unknown or cannot be scaled.
        """
        state = self.take()
        names = [*self.named()][len(state.model) :]
        known = scalable_leaves(names, rate_leaves(names, [leaf.shape for leaf in state.optimizer]))
        leaves = [*state.optimizer]
        for name, factor in factors.items():
            if name not in known:
                raise ValueError(
                    f"The learning rate {name!r} cannot be scaled; {[*known]} can. Put the "
                    "schedule into a ScalableSchedule: "
                    "optax.inject_hyperparams(optax.adam)(ScalableSchedule(schedule))."
                )
            leaf = leaves[known[name]]
            leaves[known[name]] = on_device(on_host(leaf) * leaf.dtype.type(factor), leaf)
        self.put(State(state.model, leaves))

    def parameters(self) -> dict[str, jax.Array]:
        """Returns the parameters by their path, wherever they are now."""
        if self._state is not None:
            return self.steps.parameters(self._state)
        return named_leaves(nnx.state(self.model, nnx.Param))

    def named(self) -> dict[str, jax.Array]:
        """Returns all arrays by their path, such as "model/conv1/kernel"."""
        return self.steps.named(self.take())

    def to_host(self) -> dict[str, np.ndarray[Any, Any]]:
        """Returns copies of all arrays by their path; see `CompiledSteps.to_host`."""
        return self.steps.to_host(self.take()) | self._best

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Continues from the arrays that `to_host` returned; other entries are ignored."""
        self.put(self.steps.from_host(arrays, like=self.take()))
        self._best = {name: array for name, array in arrays.items() if name.startswith("best/")}

    def keep_best(self) -> None:
        """Copies the arrays for an evaluation to the host, for `use_best` and for checkpoints."""
        self._best = self.steps.leaves_to_host("best", self.evaluation_leaves())

    def use_best(self) -> bool:
        """Puts the arrays of `keep_best` into the model; returns False if there are none."""
        best, self._best = self._best, {}
        if best:
            names = {f"model/{name.removeprefix('best/')}": array for name, array in best.items()}
            self.restore_model(names)
            self.lend()
        return bool(best)

    def model_to_host(self) -> dict[str, np.ndarray[Any, Any]]:
        """Returns copies of the model's arrays, without those of the optimizer."""
        return self.steps.to_host(State(self.take().model, []))

    def restore_model(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Continues from the model's arrays that `model_to_host` returned."""
        state = self.take()
        model = self.steps.from_host(arrays, like=State(state.model, [])).model
        self.put(State(model, state.optimizer))
