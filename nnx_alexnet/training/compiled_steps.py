"""`CompiledSteps`: the compiled train, eval, predict and gradient steps of one model.

A step is a plain function of modules (`default_steps`). To run it fast, the graph of modules is
split once into definitions and flat lists of arrays. A compiled step takes those lists, donates
them, and merges the modules back only while it is traced. Training and evaluation share one state
and differ only in the definition. Several train steps can be one dispatch: a loop on the device,
whose length is an argument.

Several devices run the same program: `Placement` specifies how each argument and each result is
split, and the compiler partitions everything in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from nnx_alexnet.devices import (
    SharedProgram,
    is_key,
    is_main,
    on_device,
    on_host,
    placed,
)
from nnx_alexnet.models import define
from nnx_alexnet.task import SplitMetric, Task
from nnx_alexnet.training.averaged_weights import OptimizerFactory
from nnx_alexnet.training.default_steps import Batch
from nnx_alexnet.training.step_functions import State, StepFunctions, Update
from nnx_alexnet.training.step_programs import (
    Program,
    evaluate_program,
    gradients_program,
    predict_program,
    train_many_program,
    train_program,
)
from nnx_alexnet.training.tracing import (
    EvaluationTrace,
    TrainingTrace,
    trace_evaluation,
    trace_prediction,
    trace_training,
)

# Added to the number of a pass before it is mixed into a key, so that no draw repeats one of
# training.
_EVALUATION = 0x65766100


class CompiledSteps:
    """The compiled steps of one model; each compiles once for each batch size.

    Args:
        functions: the steps to compile. A layer that was in evaluation mode when they were created
            stays in it during training.
        seed: seeds the `rngs` of evaluation and prediction, if the model's `__call__` has such an
            argument (default 0).

    Attributes:
        train: `(state, metrics, data, batch, key) -> (state, metrics, info)`; the state is donated.
            `data` is empty, or holds the fields of the whole split; in that case the batch holds
            only its `index` and `mask`. `info` holds the scalars `loss` and `is_finite` (of the
            loss and of the BatchNorm statistics), and the learning rates that the optimizer keeps.
        train_many: `(state, metrics, data, (batches, count), key)`, like `count` calls of `train`
            on the first of the `batches` (`[K, B, ...]`); returns `(state, metrics, infos, info)`:
            each value of `infos` is `[K]`, and `info` is that of the last step.
        evaluate: `(state.model, carried, metrics, batch) -> (carried, metrics, outputs)`; see
            `begin_pass` for the arrays that are carried from batch to batch.
        predict: `(state.model, carried, batch) -> (carried, predictions)`; each device has the
            predictions for the whole batch.
        parameter_names: the paths of the model's parameters, such as "conv1/kernel".
        wrt: the nnx filter of the parameters that are trained.
        traces: how often each step was traced; more than once means a recompilation.

    Raises:
        ValueError: a variable of the model holds something that is not an array.

    Example:
        >>> import functools, jax, numpy as np, optax
        >>> from flax import nnx
        >>> from nnx_alexnet.task import Classification
        >>> from nnx_alexnet.devices import Placement
        >>> from nnx_alexnet.training import default_steps
        >>> from nnx_alexnet.training.compiled_steps import CompiledSteps
        >>> from nnx_alexnet.training.step_functions import StepFunctions
        >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        >>> batch = {"image": np.ones((4, 3), np.float32), "label": np.zeros(4, np.int32),
        ...          "mask": np.ones(4, bool), "index": np.arange(4, dtype=np.int32)}
        >>> of_modules = default_steps.ModuleSteps(*(
        ...     functools.partial(step, Classification()) for step in (
        ...         default_steps.train_step, default_steps.eval_step, default_steps.predict_step)))
        >>> steps = CompiledSteps(StepFunctions(
        ...     model, lambda batch, key: batch, of_modules, placement=Placement()))
        >>> trace = steps.trace_evaluation(Classification(), batch)
        >>> optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
        >>> state = steps.split(model, optimizer)
        >>> state, metrics, info = steps.train(
        ...     state, trace.empty, {}, jax.device_put(batch), jax.random.key(0))
        >>> steps.join(state, model, optimizer)
        >>> sorted(metrics.compute()), steps.traces["train"]
        (['accuracy', 'loss'], 1)
    """

    def __init__(
        self,
        functions: StepFunctions,
        *,
        seed: int = 0,
    ) -> None:
        self._seed = seed
        self._placement = functions.placement
        self._functions = functions
        self.parameter_names, self.wrt = functions.parameter_names, functions.wrt
        self.traces: Counter[str] = Counter()
        # The sizes of the batches with which `train` was dispatched.
        self._sizes: set[tuple[int, tuple[int, ...]]] = set()
        # Traced before a run begins; `train` takes that trace, which is a part of its program.
        self._update: Update = jax.jit(functions.update, inline=True)
        train = train_program(functions, self._update, self.traces)
        train_many = train_many_program(functions, self._update, self.traces)
        self.train = _compiled(train, donates_state=True)
        self.train_many = _compiled(train_many, donates_state=True)
        self.evaluate = _compiled(evaluate_program(functions, self.traces))
        # `nnx.jit` would search the arguments of each call for modules. That takes 0.08 ms, as long
        # as a small model takes for a batch.
        self.predict = SharedProgram(jax.jit(predict_program(functions, self.traces)))
        # A weight that is a part of the state is returned without a copy.
        self._evaluation_weights = SharedProgram(jax.jit(functions.evaluation_weights))
        self._gradients = _compiled(gradients_program(functions, self.traces))

    # ---- Before the first batch -----------------------------------------------------------------

    def are_of(self, model: nnx.Module) -> bool:
        """Returns whether the model is still built as it was, including its dropout rates."""
        return bool(define(model)[:2] == self._functions.definitions[:2])

    @property
    def split_metrics(self) -> Mapping[str, SplitMetric]:
        """The metrics of a whole split in evaluation; none before a trace."""
        return self._functions.split_metrics

    def trace_evaluation(self, task: Task, example: Batch) -> EvaluationTrace:
        """Traces a forward pass over shapes; see `tracing.trace_evaluation`."""
        return trace_evaluation(self._functions, task, example)

    def trace_prediction(self, example: Batch) -> None:
        """Traces `predict` over shapes; see `tracing.trace_prediction`."""
        trace_prediction(self._functions, example)

    def trace_training(
        self, optimizers: OptimizerFactory, evaluation: EvaluationTrace, example: Batch
    ) -> TrainingTrace:
        """Traces a train step over shapes; see `tracing.trace_training`."""
        return trace_training(self._functions, self._update, optimizers, evaluation, example)

    def note_size(self, num_rows: int, lengths: tuple[int, ...] = ()) -> bool:
        """Records a batch size of the train step; returns whether the size is new.

        Args:
            num_rows: the number of examples.
            lengths: to which their sequences are padded.
        """
        size = num_rows, lengths
        is_first = size not in self._sizes
        self._sizes.add(size)
        return is_first

    def has_size(self, num_rows: int, lengths: tuple[int, ...] = ()) -> bool:
        """Returns whether `note_size` has recorded a batch size."""
        return (num_rows, lengths) in self._sizes

    # ---- The state ----------------------------------------------------------------------------

    def split(self, model: nnx.Module, optimizer: nnx.Optimizer[Any] | None = None) -> State:
        """Copies the arrays out of the modules, so that donating them invalidates no reference.

        Args:
            model: the model, with the same graph as the one given at construction.
            optimizer: its optimizer, for training.

        Returns:
            The state for the compiled steps.
        """
        leaves = self._functions.model.copied(model)
        if optimizer is None:
            return State(leaves, [])
        return State(leaves, self._functions.take_optimizer(optimizer).copied(optimizer))

    def join(
        self, state: State, model: nnx.Module, optimizer: nnx.Optimizer[Any] | None = None
    ) -> None:
        """Puts the arrays back into the modules; the next train step donates them.

        Args:
            state: the state that the last step returned.
            model: changed in place.
            optimizer: changed in place.
        """
        nnx.update(model, self._functions.model.state(state.model))
        if optimizer is not None:
            layout = self._functions.take_optimizer(optimizer)
            nnx.update(optimizer, layout.state(state.optimizer))

    def evaluation_leaves(self, state: State) -> list[jax.Array]:
        """Returns the model's arrays with which the run is evaluated.

        Those of an average are its averages. Others may be those of the state itself, which the
        next train step donates.
        """
        if not (state.optimizer and self.is_evaluated_elsewhere):
            return state.model
        weights = self._evaluation_weights(state)
        pairs = zip(self._functions.model.names, state.model, strict=True)
        return [weights.get(name, leaf) for name, leaf in pairs]

    @property
    def is_evaluated_elsewhere(self) -> bool:
        """Whether a run is evaluated with other weights than those that it trains."""
        return self._functions.is_evaluated_elsewhere

    def begin_pass(self, verb: str, leaves: list[jax.Array], number: int) -> list[jax.Array]:
        """Returns the carried arrays for the first batch of an evaluation or a prediction.

        A model that samples in evaluation changes the counts of its keys, or variables of its own.
        These arrays are carried from batch to batch, so that each batch has new noise, and are
        dropped at the end of the pass. PRNG keys are mixed with the number of the pass. If calls of
        the model get `rngs`, the last array is the key of the pass, from which each batch has its
        own.

        Args:
            verb: "evaluate" or "predict".
            leaves: the arrays of the model.
            number: distinguishes the passes.
        """
        carried = [leaves[index] for index in self._functions.carried[verb]]
        if self._functions.takes_rngs:
            carried.append(placed(jax.random.key(self._seed), self._placement.replicated))
        salt = np.uint32((_EVALUATION + number) % 2**32)
        return [_mixed(leaf, salt) if is_key(leaf) else leaf for leaf in carried]

    def learning_rates(self, state: State) -> dict[str, jax.Array]:
        """Returns the learning rates in the optimizer's state, by the names of their metrics."""
        return self._functions.learning_rates(state)

    def parameters(self, state: State) -> dict[str, jax.Array]:
        """Returns the model's parameters by their path, such as "conv1/kernel"."""
        arrays = dict(zip(self._functions.model.names, state.model, strict=True))
        return {name: arrays[name] for name in self.parameter_names}

    def gradients(self, state: State, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """Returns the gradients that a train step would pass to the optimizer, by parameter path.

        Parameters that are not trained have none. This is a separate program, compiled at the first
        call. It does not change the state.

        Args:
            state: the current state.
            batch: as for `train`, with its fields.
            key: the key of the epoch, as for `train`.
        """
        found = self._gradients(state.model, batch, key)
        return dict(zip(self._functions.trained_names, found, strict=True))

    def to_host(self, state: State) -> dict[str, np.ndarray[Any, Any]]:
        """Returns copies of all arrays by their path, "model/conv1/kernel", for a checkpoint.

        All processes call it, because each contributes its part. The first process, which writes
        the checkpoint, gets the copies.
        """
        leaves = self.named(state)
        if state.optimizer and self.is_evaluated_elsewhere:
            for name, leaf in self._evaluation_weights(state).items():
                leaves.setdefault(f"evaluation/{name}", leaf)
        for leaf in leaves.values():  # start all copies before waiting for one
            leaf.copy_to_host_async()
        gathered = ((name, self._placement.whole(leaf)) for name, leaf in leaves.items())
        return {name: on_host(leaf) for name, leaf in gathered if is_main()}

    def leaves_to_host(
        self, item: str, leaves: Sequence[jax.Array]
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Returns copies of the model's arrays as "<item>/conv1/kernel", in every process."""
        pairs = zip(self._functions.model.names, leaves, strict=True)
        return {f"{item}/{name}": on_host(self._placement.whole(leaf)) for name, leaf in pairs}

    def from_host(self, arrays: Mapping[str, np.ndarray[Any, Any]], like: State) -> State:
        """Returns the state that `to_host` copied.

        Args:
            arrays: by their path; other entries are ignored.
            like: a state of the same modules, which specifies where the arrays go.
        """
        placed = {name: on_device(arrays[name], leaf) for name, leaf in self.named(like).items()}
        leaves = list(placed.values())
        return State(leaves[: len(like.model)], leaves[len(like.model) :])

    def named(self, state: State) -> dict[str, jax.Array]:
        """Returns all arrays by their path, those of the model first.

        Averages of the model's arrays have the paths "evaluation/conv1/kernel".
        """
        names = [f"model/{name}" for name in self._functions.model.names]
        if state.optimizer and self._functions.optimizer is not None:
            names += map(_item_name, self._functions.optimizer.names)
        return dict(zip(names, jax.tree.leaves(state), strict=True))


def _item_name(name: str) -> str:
    """Returns the path of an array of the optimizer in a checkpoint, given that within it."""
    is_average = name.startswith("averages/")
    return f"evaluation/{name.removeprefix('averages/')}" if is_average else f"optimizer/{name}"


def _compiled(program: Program, *, donates_state: bool = False) -> SharedProgram[Any]:
    """Compiles a program, in tree mode because it takes and returns only arrays."""
    donated = (0,) if donates_state else ()
    return SharedProgram(nnx.jit(program, donate_argnums=donated, graph=False))


@jax.jit
def _mixed(keys: jax.Array, number: jax.Array) -> jax.Array:
    """Returns PRNG keys, of any shape, each folded with a number."""
    mixed = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys.reshape(-1))
    return mixed.reshape(keys.shape)
