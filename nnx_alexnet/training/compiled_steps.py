"""The compiled train, eval and predict steps, and the state they carry.

What one step does is a plain function of modules, in `bodies`. What makes it fast is around it: the
graph of modules is split once into definitions and flat lists of arrays; a compiled step takes
those lists, donates them, and merges the modules back only while it is traced. Training and
evaluation share one state: they differ in the definition alone. Several train steps can be one
dispatch: a loop on the device, whose length is an argument.

Over several devices it is the same program: `Placement` says what each array is split over, on the
way in and on the way out, and the compiler divides what is between.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from nnx_alexnet.checkpoints import fingerprint, unchanged
from nnx_alexnet.devices import (
    Placement,
    is_key,
    is_main,
    named_leaves,
    on_device,
    on_host,
    placed,
    usual_promotion,
)
from nnx_alexnet.models import define
from nnx_alexnet.support import logger
from nnx_alexnet.task import ContractError, Outputs, Task, check_same_rows, no_accidental_pairs
from nnx_alexnet.training.default_steps import Batch
from nnx_alexnet.training.flops import product_flops
from nnx_alexnet.training.module_layout import constrained
from nnx_alexnet.training.step_functions import State, StepFunctions, Transform

# Added to the number of a pass that a key is mixed with, so that no draw is one of training's.
_EVALUATION = 0x65766100
_SIZES = itertools.count(1)


class Steps:
    """The compiled steps of one model; each compiles once.

    Args:
        model: its graph is read here, its arrays at each `split`; it keeps its mode. A layer that
            is in evaluation mode now stays so in training.
        transform: called as `transform(image)` in evaluation and as
            `transform(image, key=..., index=...)` in training, inside the step.
        train_step: `(model, optimizer, batch) -> outputs`, what one step does to the modules.
        eval_step: `(model, batch) -> outputs`.
        predict_step: `(model, batch) -> predictions`.
        placement: over which devices, and how (default: `Placement()`).

    Attributes:
        train: `(state, metrics, data, batch, key) -> (state, metrics, info)`; the state is donated.
            `data` is empty, or the whole split's `image` and `label`, of which the batch then
            holds the `index` alone. `info` holds the scalars `loss`, `is_finite` (the loss, and
            the statistics of BatchNorm) and, if the optimizer has them in its state, learning
            rates (see `rate_names`).
        train_many: `(state, metrics, data, (batches, count), key)`, as `count` calls of `train`
            on the first of the `batches` (`[K, B, ...]`); returns `(state, metrics, infos, info)`,
            where each value of `infos` is `[K]`, and `info` is that of the last step.
        loops: whether `train_many` is to be used, once `measure` has traced the model: everywhere
            but for convolutions on a CPU, which XLA runs without its threaded kernels inside a
            loop (4 images a second instead of 148 for AlexNet on two cores). The two round
            differently, so a run takes one of them throughout.
        forward_flops: the FLOPs of one example's forward pass by dtype, also once it has.
        evaluate: `(state.model, carried, metrics, batch) -> (carried, metrics, outputs)`; see
            `begin_pass` for what is carried from batch to batch.
        predict: `(state.model, carried, batch) -> (carried, predictions, mask)`, the last two whole
            on each device.
        empty: the metrics before any batch, once `measure` has chosen them.
        metric_names: their names, also once it has.
        rate_names: the names under which `info` has learning rates, once there is an optimizer:
            "lr", or one for each group of parameters, such as "lr/head".
        parameter_names: the paths of the model's parameters, such as "conv1/kernel".
        still_statistics: the paths of the statistics that a train step returns unchanged, once
            `prepare_training` has traced one.
        constants: those of the other arrays that it returns unchanged, without parameters and keys.
        traces: how often each step was traced; more than once means a recompilation.

    Raises:
        ValueError: a variable of the model holds something that is no array.

    Example:
        >>> import functools, jax, numpy as np, optax
        >>> from flax import nnx
        >>> from nnx_alexnet import bodies
        >>> from nnx_alexnet.training.compiled_steps import Steps
        >>> from nnx_alexnet.task.base import Classification
        >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        >>> batch = {"image": np.ones((4, 3), np.float32), "label": np.zeros(4, np.int32),
        ...          "mask": np.ones(4, bool), "index": np.arange(4, dtype=np.int32)}
        >>> bodies = [functools.partial(body, Classification())
        ...           for body in (bodies.train_step, bodies.eval_step, bodies.predict_step)]
        >>> compiled = Steps(model, lambda image, **_: image, *bodies)
        >>> _ = compiled.measure(Classification(), batch)
        >>> optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
        >>> state = compiled.split(model, optimizer)
        >>> key = jax.random.key(0)
        >>> state, metrics, info = compiled.train(
        ...     state, compiled.empty, {}, jax.device_put(batch), key)
        >>> compiled.join(state, model, optimizer)
        >>> sorted(metrics.compute()), compiled.traces["train"]
        (['accuracy', 'loss'], 1)
    """

    def __init__(
        self,
        model: nnx.Module,
        transform: Transform,
        train_step: Callable[[nnx.Module, nnx.Optimizer[Any], Batch], Outputs],
        eval_step: Callable[[nnx.Module, Batch], Outputs],
        predict_step: Callable[[nnx.Module, Batch], Any],
        *,
        placement: Placement | None = None,
    ) -> None:
        self._placement = placement = Placement() if placement is None else placement
        self._functions = functions = StepFunctions(
            model, transform, train_step, eval_step, predict_step, placement=placement
        )
        self.parameter_names = functions.parameter_names
        self.still_statistics: list[str] = []
        self.constants: list[str] = []
        self.traces: Counter[str] = Counter()
        self._programs: dict[str, Any] = {}  # the jaxprs that were traced last,
        self._rows: dict[str, int] = {}  # and the rows of their batches
        # Traced before a run begins; `train` takes that trace, which is a part of its program.
        self._update = jax.jit(functions.update, inline=True)

        def train(
            state: State, metrics: Any, data: Batch, batch: Batch, key: jax.Array
        ) -> tuple[State, Any, Outputs]:
            self.traces["train"] += 1
            updated: tuple[State, Any, Outputs] = self._update(
                state, metrics, functions.completed(data, batch), key
            )
            return updated

        def train_many(
            state: State,
            metrics: Any,
            data: Batch,
            group: tuple[Batch, jax.Array],
            key: jax.Array,
        ) -> tuple[State, Any, Outputs, Outputs]:
            self.traces["train"] += 1
            batches, count = group
            infos = functions.no_info(state, len(batches["index"]))

            def step(number: jax.Array, carried: Any) -> Any:
                state, metrics, infos = carried
                batch = functions.completed(
                    data, {name: rows[number] for name, rows in batches.items()}
                )
                state, metrics, info = self._update(state, metrics, batch, key)
                infos = {name: all_.at[number].set(info[name]) for name, all_ in infos.items()}
                return state, metrics, infos

            # The number of rounds is not compiled in: one program serves every length.
            state, metrics, infos = jax.lax.fori_loop(0, count, step, (state, metrics, infos))
            return state, metrics, infos, {name: all_[count - 1] for name, all_ in infos.items()}

        def evaluate(
            leaves: list[jax.Array], carried: list[jax.Array], metrics: Any, batch: Batch
        ) -> tuple[list[jax.Array], Any, Outputs]:
            self.traces["evaluate"] += 1
            outputs, carried = functions.evaluated("evaluate", leaves, carried, batch)
            metrics = functions.measured(metrics, outputs, batch)
            return carried, metrics, constrained(outputs, placement.batch)

        def predict(
            leaves: list[jax.Array], carried: list[jax.Array], batch: Batch
        ) -> tuple[list[jax.Array], Any, jax.Array]:
            self.traces["predict"] += 1
            predictions, carried = functions.evaluated("predict", leaves, carried, batch)
            whole = constrained((predictions, batch["mask"]), placement.replicated)
            return carried, *whole

        def gradients(leaves: list[jax.Array], batch: Batch, key: jax.Array) -> list[jax.Array]:
            self.traces["gradients"] += 1
            return functions.gradients(leaves, batch, key)

        # Tree mode: the steps take and return arrays alone, so no graph is traversed a call.
        self.train = nnx.jit(train, donate_argnums=0, graph=False)
        self.train_many = nnx.jit(train_many, donate_argnums=0, graph=False)
        self.evaluate = nnx.jit(evaluate, graph=False)
        self.predict = nnx.jit(predict, graph=False)
        self._gradients = nnx.jit(gradients, graph=False)

    # ---- Before the first batch -----------------------------------------------------------------

    def are_of(self, model: nnx.Module) -> bool:
        """Whether the model is still built as it was, down to attributes such as a dropout rate."""
        now = define(model)
        return bool(now[:2] == self._functions.definitions[:2])

    def measure(self, task: Task, example: Batch) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Traces the forward pass over shapes alone, and chooses the metrics that accumulate.

        Args:
            task: says which metrics.
            example: a batch, or the shapes and dtypes of one.

        Returns:
            Shapes and dtypes of the task's outputs. Nothing is computed.

        Raises:
            ContractError: the task or its metrics break the contract of `Task`.
        """
        outputs: Mapping[str, jax.ShapeDtypeStruct]
        jaxpr, outputs = self._traced("evaluate", example)
        self._programs["evaluation"] = jaxpr
        self._rows["evaluation"] = len(example["index"])
        has_convolution = "conv_general_dilated" in str(jaxpr)
        counted = product_flops(jaxpr)
        self.forward_flops = {k: v / len(example["index"]) for k, v in counted.items()}
        self.loops = not (has_convolution and jax.default_backend() == "cpu")
        functions = self._functions
        collection = functions.choose_metrics(task, outputs, example["mask"])
        self.metric_names = tuple(collection.__annotations__)
        empty = collection.empty()
        # An empty metric may count in another dtype than a filled one; a loop takes one.
        filled = jax.eval_shape(functions.measured, empty, outputs, example)
        self.empty = jax.tree.map(
            lambda old, new: placed(np.asarray(old, new.dtype), self._placement.replicated),
            empty,
            filled,
        )
        return outputs

    def measure_predictions(self, example: Batch) -> None:
        """Traces `predict` over shapes alone.

        Args:
            example: a batch, or the shapes and dtypes of one.

        Raises:
            ContractError: what it returns has no first axis over the examples.
        """
        self._traced("predict", example)

    def _traced(self, verb: str, example: Batch) -> tuple[Any, Any]:
        """Traces what a verb does with a batch; returns the jaxpr, and the result's shapes."""
        functions, model = self._functions, self._functions.model
        functions.carried.pop(verb, None)
        moved: list[int] = []

        def forward(leaves: list[jax.Array], batch: Batch) -> Any:
            result, before, after = functions.forward(verb, leaves, [], batch)
            pairs = enumerate(zip(before, after, strict=True))
            moved[:] = [number for number, (old, new) in pairs if old is not new]
            return result

        made = jax.make_jaxpr(forward, return_shape=True)(model.structs, example)
        # Parameters and statistics that an evaluation changes, it changes for one batch alone.
        statistics = nnx.filter_state(functions.definitions.state, nnx.BatchStat)
        fixed = {*self.parameter_names, *named_leaves(statistics)}
        free = [number for number in moved if model.names[number] not in fixed]
        # A key stays as it is while its count moves; see `begin_pass`.
        keys = [number for number, leaf in enumerate(model.structs) if is_key(leaf)]
        # With another batch size: a first axis that only happens to be as long as the batch, such
        # as that of a mean over the batch for each of B classes, stays as it is. And with one that
        # this process has not traced: JAX does not repeat the warnings of what it remembers.
        size = len(example["mask"]) + next(_SIZES) * self._placement.num_parts
        larger = {
            name: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype)
            for name, leaf in example.items()
        }
        try:
            with no_accidental_pairs(size) if verb == "evaluate" else nullcontext():
                other = jax.eval_shape(forward, model.structs, larger)
        except ContractError:
            raise
        except Exception as error:
            logger.debug("The model takes batches of one size: %r", error)
        else:
            if verb == "predict":
                check_same_rows(made[1], other, "`predict`")
        functions.carried[verb] = sorted({*free, *keys}) if free else []
        return made

    def prepare_training(
        self, transformation: optax.GradientTransformation, example: Batch
    ) -> None:
        """Traces a train step over shapes alone, after `measure`.

        Args:
            transformation: the optimizer.
            example: shapes and dtypes of a batch.

        Raises:
            ContractError: the task breaks its contract in training mode, or the model or the
                optimizer changes the shape or dtype of what a step carries.
        """
        functions, placement = self._functions, self._placement
        optimizer = self._abstract_optimizer(transformation)
        layout = functions.take_optimizer(optimizer)

        def shaped(tree: Any, sharding: jax.sharding.NamedSharding) -> Any:
            return jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
            )

        key = jax.eval_shape(lambda: jax.random.key(0))
        metrics, key = shaped((self.empty, key), placement.replicated)
        state: Any = State(functions.model.abstract(), layout.abstract())
        batch = shaped(dict(example), placement.batch)
        jaxpr = self._update.trace(state, metrics, batch, key).jaxpr
        self._programs["train_step"] = jaxpr
        names = functions.model.names
        still = {names[number] for number in unchanged(jaxpr, len(names))}

        def unmoved(*kinds: Any) -> list[str]:
            state = nnx.filter_state(functions.definitions.state, *kinds)
            return [name for name in named_leaves(state) if name in still]

        self.still_statistics = unmoved(nnx.BatchStat)
        self.constants = unmoved(nnx.Not(nnx.Any(nnx.Param, nnx.BatchStat, nnx.RngState)))
        self._rows["train_step"] = len(example["index"])

    def _abstract_optimizer(
        self, transformation: optax.GradientTransformation
    ) -> nnx.Optimizer[Any]:
        """Returns an optimizer that holds shapes and no values."""
        definition = self._functions.definitions.train
        state = self._functions.model.state(self._functions.model.structs)
        built: list[Any] = []

        def build(state: Any) -> Any:
            optimizer = nnx.Optimizer(nnx.merge(definition, state), transformation, wrt=nnx.Param)
            graph, arrays = nnx.split(optimizer)
            built.append(graph)
            return arrays

        # A variable that flax splits as it is made needs the mesh there and then.
        with jax.set_mesh(self._placement.mesh), usual_promotion():
            arrays = jax.eval_shape(build, state)
        optimizer: nnx.Optimizer[Any] = nnx.merge(built[0], arrays)
        return optimizer

    def fingerprints(self) -> dict[str, Any]:
        """Returns digests of what was traced last, and for how many examples.

        Returns:
            `evaluation` and `train_step`, and `rows`, a dict of the two sizes.
        """
        digests = {name: fingerprint(jaxpr) for name, jaxpr in self._programs.items()}
        return {**digests, "rows": dict(self._rows)}

    # ---- The state ----------------------------------------------------------------------------

    def split(self, model: nnx.Module, optimizer: nnx.Optimizer[Any] | None = None) -> State:
        """Copies the arrays out of the modules, so that donating them harms nobody's reference.

        Args:
            model: the model, of the graph given at construction.
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
            state: what the last step returned.
            model: changed in place.
            optimizer: changed in place.
        """
        nnx.update(model, self._functions.model.state(state.model))
        if optimizer is not None:
            layout = self._functions.take_optimizer(optimizer)
            nnx.update(optimizer, layout.state(state.optimizer))

    def begin_pass(self, verb: str, leaves: list[jax.Array], number: int) -> list[jax.Array]:
        """Returns what the first batch of an evaluation or a prediction starts from.

        A model that samples in evaluation moves the counts of its keys, or variables of its own.
        These are carried from batch to batch, so that each batch has new noise, and are dropped
        at the end of the pass. PRNG keys are mixed with the number of the pass.

        Args:
            verb: "evaluate" or "predict".
            leaves: of the model's state.
            number: tells the passes apart.
        """
        carried = [leaves[index] for index in self._functions.carried[verb]]
        salt = np.uint32((_EVALUATION + number) % 2**32)
        return [_mixed(leaf, salt) if is_key(leaf) else leaf for leaf in carried]

    @property
    def rate_names_are_known(self) -> bool:
        """Whether an optimizer was seen, whose rates `rate_names` has."""
        return self._functions.optimizer is not None

    @property
    def rate_names(self) -> tuple[str, ...]:
        """The names of the learning rates that the optimizer keeps in its state."""
        return self._functions.rate_names

    def learning_rates(self, state: State) -> dict[str, jax.Array]:
        """Returns the rates that the optimizer keeps in its state, by the name of their metric."""
        return self._functions.learning_rates(state)

    def parameters(self, state: State) -> dict[str, jax.Array]:
        """Returns the model's parameters by their path, such as "conv1/kernel"."""
        arrays = dict(zip(self._functions.model.names, state.model, strict=True))
        return {name: arrays[name] for name in self.parameter_names}

    def gradients(self, state: State, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """Returns what a train step on a batch would hand to the optimizer, by parameter path.

        It is a program of its own, compiled at the first call; the state stays as it is.

        Args:
            state: the present state.
            batch: as for `train`, with its `image` and `label`.
            key: the epoch's, as for `train`.
        """
        found = self._gradients(state.model, batch, key)
        return dict(zip(self.parameter_names, found, strict=True))

    def to_host(self, state: State) -> dict[str, np.ndarray[Any, Any]]:
        """Returns copies of all arrays by their path, "model/conv1/kernel", for a checkpoint.

        All processes call it, to give their parts; the first one, which writes, gets the copies.
        """
        for leaf in jax.tree.leaves(state):  # all are under way before the first is waited for
            leaf.copy_to_host_async()
        gathered = ((name, self._placement.whole(leaf)) for name, leaf in self.named(state).items())
        return {name: on_host(leaf) for name, leaf in gathered if is_main()}

    def from_host(self, arrays: Mapping[str, np.ndarray[Any, Any]], like: State) -> State:
        """Returns the state that `to_host` copied.

        Args:
            arrays: by their path; those of other items are left alone.
            like: a state of the same modules, which says where the arrays go.
        """
        placed = {name: on_device(arrays[name], leaf) for name, leaf in self.named(like).items()}
        leaves = list(placed.values())
        return State(leaves[: len(like.model)], leaves[len(like.model) :])

    def named(self, state: State) -> dict[str, jax.Array]:
        """Returns the arrays by their path, first those of the model."""
        names = [f"model/{name}" for name in self._functions.model.names]
        if state.optimizer and self._functions.optimizer is not None:
            names += [f"optimizer/{name}" for name in self._functions.optimizer.names]
        return dict(zip(names, jax.tree.leaves(state), strict=True))


@jax.jit
def _mixed(keys: jax.Array, number: jax.Array) -> jax.Array:
    """Returns PRNG keys, of any shape, each folded with a number."""
    mixed = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys.reshape(-1))
    return mixed.reshape(keys.shape)
