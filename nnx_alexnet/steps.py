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

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu.metrics import Average, Collection
from flax import nnx

from nnx_alexnet.bodies import Batch, GradientRecorder, masked_mean
from nnx_alexnet.leaves import (
    as_struct,
    is_key,
    model_state,
    named_leaves,
    on_device,
    on_host,
    placed,
)
from nnx_alexnet.modes import define, tell_mode
from nnx_alexnet.optimizers import rate_leaves
from nnx_alexnet.performance import product_flops
from nnx_alexnet.placement import Placement
from nnx_alexnet.processes import is_main
from nnx_alexnet.task import Outputs, Task
from nnx_alexnet.task_checks import (
    ContractError,
    check_metrics,
    check_outputs,
    check_predictions,
)

Transform = Callable[..., jax.Array]

# Folded into the keys of an evaluation, so that its draws are none of training's.
_EVALUATION = 0x65766100


class State(NamedTuple):
    """The arrays of a run, flat: what a compiled train step takes, donates and returns.

    Attributes:
        model: the leaves of the model's state (parameters, statistics, dropout keys).
        optimizer: the leaves of the optimizer's state; empty outside `fit`.
    """

    model: list[jax.Array]
    optimizer: list[jax.Array]


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
        traces: how often each step was traced; more than once means a recompilation.

    Raises:
        ValueError: a variable of the model holds something that is no array.

    Example:
        >>> import functools, jax, numpy as np, optax
        >>> from flax import nnx
        >>> from nnx_alexnet import bodies
        >>> from nnx_alexnet.steps import Steps
        >>> from nnx_alexnet.task import Classification
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
        self._definitions = define(model)
        model_state = self._definitions.state
        self._placement = placement = Placement() if placement is None else placement
        self._model_names = list(named_leaves(model_state))
        self._model_structs = _structs(model_state)
        self._model_tree = jax.tree.structure(model_state)
        self._model_shardings = placement.shardings(model_state)
        self._gathered = placement.gathered(model_state)
        self.parameter_names = list(named_leaves(nnx.filter_state(model_state, nnx.Param)))
        statistics = named_leaves(nnx.filter_state(model_state, nnx.BatchStat))
        # An evaluation that changes one of these changes it for that batch alone.
        self._fixed = {*self.parameter_names, *statistics}
        self._transform, self._train_step = transform, train_step
        self._eval_step, self._predict_step = eval_step, predict_step
        self.traces: Counter[str] = Counter()
        self._collection: Any = None  # set by `measure`
        # By verb, the leaves that a pass carries from batch to batch; set by `measure`.
        self._carried: dict[str, list[int]] = {}
        # Set by the first optimizer: a model that is only evaluated has none.
        self._optimizer_definition: nnx.GraphDef[Any] | None = None

        def train(
            state: State, metrics: Any, data: Batch, batch: Batch, key: jax.Array
        ) -> tuple[State, Any, Outputs]:
            self.traces["train"] += 1
            return self._update(state, metrics, self._taken(data, batch), key)

        def train_many(
            state: State,
            metrics: Any,
            data: Batch,
            group: tuple[Batch, jax.Array],
            key: jax.Array,
        ) -> tuple[State, Any, Outputs, Outputs]:
            self.traces["train"] += 1
            batches, count = group
            infos = self._no_info(state, len(batches["index"]))

            def step(number: jax.Array, carried: Any) -> Any:
                state, metrics, infos = carried
                batch = {name: rows[number] for name, rows in batches.items()}
                state, metrics, info = self._update(state, metrics, self._taken(data, batch), key)
                infos = {name: all_.at[number].set(info[name]) for name, all_ in infos.items()}
                return state, metrics, infos

            # The number of rounds is not compiled in: one program serves every length.
            state, metrics, infos = jax.lax.fori_loop(0, count, step, (state, metrics, infos))
            return state, metrics, infos, {name: all_[count - 1] for name, all_ in infos.items()}

        def evaluate(
            leaves: list[jax.Array], carried: list[jax.Array], metrics: Any, batch: Batch
        ) -> tuple[list[jax.Array], Any, Outputs]:
            self.traces["evaluate"] += 1
            outputs, carried = self._evaluated("evaluate", leaves, carried, batch)
            by_row = {name: self._by_row(values, batch) for name, values in outputs.items()}
            return carried, self._measured(metrics, outputs, batch), by_row

        def predict(
            leaves: list[jax.Array], carried: list[jax.Array], batch: Batch
        ) -> tuple[list[jax.Array], Any, jax.Array]:
            self.traces["predict"] += 1
            predictions, carried = self._evaluated("predict", leaves, carried, batch)
            whole = _constrained((predictions, batch["mask"]), placement.replicated)
            return carried, *whole

        # Tree mode: the steps take and return arrays alone, so no graph is traversed a call.
        self.train = nnx.jit(train, donate_argnums=0, graph=False)
        self.train_many = nnx.jit(train_many, donate_argnums=0, graph=False)
        self.evaluate = nnx.jit(evaluate, graph=False)
        self.predict = nnx.jit(predict, graph=False)
        self._gradients = nnx.jit(self._record, graph=False)
        # It is traced before a run begins, and `train` takes that trace: it is part of its program.
        self._update = jax.jit(self._updated, inline=True)

    # ---- What the steps compute -------------------------------------------------------------

    def _taken(self, data: Batch, batch: Batch) -> Batch:
        """Returns a batch with the rows of the data that are on the device."""
        rows = {name: array[batch["index"]] for name, array in data.items()}
        return {**batch, **_constrained(rows, self._placement.batch)}

    def _updated(
        self, state: State, metrics: Any, batch: Batch, key: jax.Array
    ) -> tuple[State, Any, Outputs]:
        """Takes one optimizer step."""
        module = self._merged(self._definitions.train, state.model)
        tell_mode(module, training=True)
        assert self._optimizer_definition is not None, "split comes first"
        optimizer = nnx.merge(
            self._optimizer_definition,
            jax.tree.unflatten(self._optimizer_tree, state.optimizer),
        )
        image = self._transform(batch["image"], key=key, index=batch["index"])
        image = _constrained(image, self._placement.batch)
        outputs = self._train_step(module, optimizer, {**batch, "image": image})
        outputs = check_outputs(outputs, len(batch["mask"]), "`train_step`")
        new = State(self._leaves_of(module), jax.tree.leaves(nnx.state(optimizer)))
        self._check_types(new, state)
        loss = masked_mean(outputs["loss"], batch["mask"]).astype(jnp.float32)
        # On a CPU XLA's maximum may drop a NaN, so that ReLU hides it from the loss. The
        # statistics have seen it.
        seen = [loss, *jax.tree.leaves(nnx.state(module, nnx.BatchStat))]
        is_finite = jnp.stack([jnp.isfinite(values).all() for values in seen]).all()
        info = {"loss": loss, "is_finite": is_finite, **self.learning_rates(new)}
        new = jax.tree.map(_typed_as, new, state)
        kept = [*self._model_shardings, *self._optimizer_shardings]
        new = jax.tree.map(_constrained, new, jax.tree.unflatten(jax.tree.structure(new), kept))
        return new, self._measured(metrics, outputs, batch), info

    def _record(self, leaves: list[jax.Array], batch: Batch, key: jax.Array) -> list[jax.Array]:
        """Returns the gradients that a step hands to its optimizer."""
        self.traces["gradients"] += 1
        module = self._merged(self._definitions.train, leaves)
        tell_mode(module, training=True)
        recorder = GradientRecorder(module, optax.identity(), wrt=nnx.Param)
        image = self._transform(batch["image"], key=key, index=batch["index"])
        self._train_step(module, recorder, {**batch, "image": image})
        gradients = jax.tree.leaves(nnx.state(recorder.gradients))
        return list(_constrained(gradients, self._placement.replicated))

    def _evaluated(
        self, verb: str, leaves: list[jax.Array], carried: list[jax.Array], batch: Batch
    ) -> tuple[Any, list[jax.Array]]:
        """Returns what a batch gives in evaluation mode, and what is carried to the next one."""
        result, _, after = self._forward(verb, leaves, carried, batch)
        kept = self._carried[verb]
        shardings = [self._model_shardings[number] for number in kept]
        return result, list(map(_constrained, [after[number] for number in kept], shardings))

    def _forward(
        self, verb: str, leaves: list[jax.Array], carried: list[jax.Array], batch: Batch
    ) -> tuple[Any, list[jax.Array], list[jax.Array]]:
        """Returns what a batch gives in evaluation mode, and the leaves before and after it."""
        before = jax.tree.map(_constrained, leaves, self._gathered)
        for number, leaf in zip(self._carried.get(verb, ()), carried, strict=True):
            before[number] = leaf
        module = nnx.merge(
            self._definitions.evaluation, jax.tree.unflatten(self._model_tree, before)
        )
        tell_mode(module, training=False)
        image = _constrained(self._transform(batch["image"]), self._placement.batch)
        batch = {**batch, "image": image}
        size = len(batch["mask"])
        if verb == "evaluate":
            result = check_outputs(self._eval_step(module, batch), size, "`eval_step`")
        else:
            result = self._predict_step(module, batch)
            check_predictions(result, size, "`predict`")
        after = self._leaves_of(module)
        self._check_types(State(after, []), State(before, []))
        return result, before, after

    def _measured(self, metrics: Any, outputs: Outputs, batch: Batch) -> Any:
        # Sums of 16 bits are wrong after some hundred examples, whatever a metric adds up.
        exact = {name: jax.tree.map(_at_least_float32, value) for name, value in outputs.items()}
        with jax.numpy_dtype_promotion("standard"):  # CLU divides sums by counts
            new = self._collection.single_from_model_output(mask=batch["mask"], **exact)
            return _constrained(metrics.merge(new), self._placement.replicated)

    def _by_row(self, values: Any, batch: Batch) -> Any:
        """Keeps each row of an output where that of the batch is."""
        return _constrained(values, self._placement.batch)

    def _merged(self, definition: Any, leaves: list[jax.Array]) -> nnx.Module:
        """Merges a model whose arrays are whole, but for what its own metadata split."""
        whole = jax.tree.map(_constrained, leaves, self._gathered)
        module: nnx.Module = nnx.merge(definition, jax.tree.unflatten(self._model_tree, whole))
        return module

    def _leaves_of(self, module: nnx.Module) -> list[jax.Array]:
        """Returns the leaves of a model after a call, without what it has sown.

        Raises:
            ContractError: the call has made or removed variables.
        """
        state = model_state(module)
        if jax.tree.structure(state) != self._model_tree:
            now = named_leaves(state)
            new = [name for name in now if name not in self._model_names]
            gone = [name for name in self._model_names if name not in now]
            raise ContractError(
                "`model` makes or removes variables when it is called: "
                f"{_listed('new', new)}{_listed('gone', gone)}. A step takes and returns the same "
                "variables. If the model creates its layers in its first call, call it once "
                "(`model(images[:1])`) before the Trainer is built. What a call leaves behind for "
                "others to read belongs into a subclass of nnx.Intermediate."
            )
        return jax.tree.leaves(state)

    def _check_types(self, new: State, old: State) -> None:
        """Raises where a step would change the shape or the dtype of what it carries."""
        names = [f"`model` has a variable `{name}`" for name in self._model_names]
        if old.optimizer:
            names += [f"`optimizer` has a state `{name}`" for name in self._optimizer_names]
        pairs = zip(names, jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
        for name, after, before in pairs:
            if after.shape != before.shape or after.dtype != before.dtype:
                raise ContractError(
                    f"{name} of {before.dtype}{list(before.shape)} that becomes "
                    f"{after.dtype}{list(after.shape)} in a step; it must keep its shape and its "
                    "dtype. Initialise it with those that it shall have."
                )

    def _no_info(self, state: State, num: int) -> Outputs:
        """Returns the `info` of `num` steps, before the first of them."""
        infos = {"loss": jnp.zeros(num, jnp.float32), "is_finite": jnp.ones(num, bool)}
        rates = self.learning_rates(state).items()
        return infos | {name: jnp.zeros(num, rate.dtype) for name, rate in rates}

    # ---- Before the first batch -------------------------------------------------------------

    def are_of(self, model: nnx.Module) -> bool:
        """Whether the model is still built as it was, down to attributes such as a dropout rate."""
        now = define(model)
        return bool(
            now.train == self._definitions.train
            and now.evaluation == self._definitions.evaluation
            and _structs(now.state) == self._model_structs
        )

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
        jaxpr, outputs = self._traced("evaluate", example)
        has_convolution = "conv_general_dilated" in str(jaxpr)
        counted = product_flops(jaxpr)
        self.forward_flops = {k: v / len(example["index"]) for k, v in counted.items()}
        self.loops = not (has_convolution and jax.default_backend() == "cpu")
        if self._collection is None:  # one class for all verbs, or they would retrace
            collection = task.collection(outputs)
            check_metrics(collection, outputs, example["mask"])
            names = collection.__annotations__
            if "loss" not in names:  # what is trained on is always there to be followed
                collection = Collection.create(loss=Average.from_output("loss"), **names)
            self._collection = collection
            self.metric_names = tuple(collection.__annotations__)
            empty = self._collection.empty()
            # An empty metric may count in another dtype than a filled one; a loop takes one.
            filled = jax.eval_shape(self._measured, empty, outputs, example)
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
        self._carried.pop(verb, None)
        moved: list[int] = []

        def forward(leaves: list[jax.Array], batch: Batch) -> Any:
            result, before, after = self._forward(verb, leaves, [], batch)
            pairs = enumerate(zip(before, after, strict=True))
            moved[:] = [number for number, (old, new) in pairs if old is not new]
            return result

        made = jax.make_jaxpr(forward, return_shape=True)(self._model_structs, example)
        free = [number for number in moved if self._model_names[number] not in self._fixed]
        # A key itself stays while its count moves; each pass has its own (see `begin_pass`).
        keys = [number for number, leaf in enumerate(self._model_structs) if is_key(leaf)]
        # With another batch size: a first axis that only happens to be as long as the batch, such
        # as that of a mean over the batch for each of B classes, stays as it is.
        larger = len(example["mask"]) + self._placement.num_parts
        try:
            jax.eval_shape(forward, self._model_structs, _resized(example, larger))
        except ContractError:
            raise
        except Exception:  # the model takes no other size
            pass
        self._carried[verb] = sorted({*free, *keys}) if free else []
        return made

    def prepare_training(
        self, model: nnx.Module, transformation: optax.GradientTransformation, example: Batch
    ) -> Any:
        """Traces a train step over shapes alone, after `measure`.

        Args:
            model: the model, of the graph given at construction.
            transformation: the optimizer.
            example: shapes and dtypes of a batch.

        Returns:
            The jaxpr of the step.

        Raises:
            ContractError: the task breaks its contract in training mode, or the model or the
                optimizer changes the shape or dtype of what a step carries.
        """
        with jax.set_mesh(self._placement.mesh):
            optimizer = nnx.eval_shape(lambda: nnx.Optimizer(model, transformation, wrt=nnx.Param))
        self._take_optimizer(optimizer)
        placement = self._placement

        def shaped(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        optimizer_structs = _structs(nnx.state(optimizer))
        state = State(
            list(map(shaped, self._model_structs, self._model_shardings)),
            list(map(shaped, optimizer_structs, self._optimizer_shardings)),
        )
        metrics, key = jax.tree.map(
            lambda leaf: shaped(leaf, placement.replicated),
            (self.empty, jax.eval_shape(lambda: jax.random.key(0))),
        )
        batch = {name: shaped(leaf, placement.batch) for name, leaf in example.items()}
        return self._update.trace(state, metrics, batch, key).jaxpr

    def _take_optimizer(self, optimizer: nnx.Optimizer[Any]) -> None:
        """Notes how the optimizer's state is built."""
        definition, state = nnx.split(optimizer)
        if definition == self._optimizer_definition:
            return
        self._optimizer_definition = definition
        self._optimizer_tree = jax.tree.structure(state)
        self._optimizer_names = list(named_leaves(state))
        self._optimizer_shardings = self._placement.shardings(state)
        shapes = [struct.shape for struct in _structs(state)]
        self._rate_leaves = rate_leaves(self._optimizer_names, shapes)

    # ---- The state ----------------------------------------------------------------------------

    def split(self, model: nnx.Module, optimizer: nnx.Optimizer[Any] | None = None) -> State:
        """Copies the arrays out of the modules, so that donating them harms nobody's reference.

        Args:
            model: the model, of the graph given at construction.
            optimizer: its optimizer, for training.

        Returns:
            The state for the compiled steps.
        """
        leaves = list(map(_copied, jax.tree.leaves(model_state(model)), self._model_shardings))
        if optimizer is None:
            return State(leaves, [])
        self._take_optimizer(optimizer)
        kept = jax.tree.leaves(nnx.state(optimizer))
        return State(leaves, list(map(_copied, kept, self._optimizer_shardings)))

    def join(
        self, state: State, model: nnx.Module, optimizer: nnx.Optimizer[Any] | None = None
    ) -> None:
        """Puts the arrays back into the modules; the next train step donates them.

        Args:
            state: what the last step returned.
            model: changed in place.
            optimizer: changed in place.
        """
        nnx.update(model, jax.tree.unflatten(self._model_tree, state.model))
        if optimizer is not None:
            nnx.update(optimizer, jax.tree.unflatten(self._optimizer_tree, state.optimizer))

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
        carried = [leaves[index] for index in self._carried[verb]]
        salt = np.uint32((_EVALUATION + number) % 2**32)
        return [_mixed(leaf, salt) if is_key(leaf) else leaf for leaf in carried]

    @property
    def rate_names(self) -> tuple[str, ...]:
        """The names of the learning rates that the optimizer keeps in its state."""
        return () if self._optimizer_definition is None else tuple(self._rate_leaves)

    def learning_rates(self, state: State) -> dict[str, jax.Array]:
        """Returns the rates that the optimizer keeps in its state, by the name of their metric."""
        return {name: state.optimizer[number] for name, number in self._rate_leaves.items()}

    def parameters(self, state: State) -> dict[str, jax.Array]:
        """Returns the model's parameters by their path, such as "conv1/kernel"."""
        arrays = dict(zip(self._model_names, state.model, strict=True))
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
        names = [f"model/{name}" for name in self._model_names]
        names += [f"optimizer/{name}" for name in self._optimizer_names]
        return dict(zip(names, jax.tree.leaves(state), strict=True))


def _structs(state: nnx.State[Any, Any]) -> list[jax.ShapeDtypeStruct]:
    """Returns the shape and dtype of each leaf, as a step takes it."""
    structs = []
    for name, leaf in named_leaves(state).items():
        try:
            structs.append(as_struct(leaf))
        except TypeError as error:
            raise ValueError(
                f"`model` has a variable `{name}` that holds {leaf!r}, which is no array. Keep "
                "what is no number in an attribute that is no nnx.Variable."
            ) from error
    return structs


def _resized(example: Batch, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {k: jax.ShapeDtypeStruct((size, *v.shape[1:]), v.dtype) for k, v in example.items()}


def _listed(what: str, names: Sequence[str]) -> str:
    return f" {what} {', '.join(f'`{name}`' for name in names[:5])}" if names else ""


@jax.jit
def _mixed(keys: jax.Array, number: jax.Array) -> jax.Array:
    """Returns PRNG keys, of any shape, each folded with a number."""
    mixed = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys.reshape(-1))
    return mixed.reshape(keys.shape)


def _at_least_float32(values: Any) -> Any:
    dtype = jnp.result_type(values)
    is_half = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4
    return jnp.asarray(values, jnp.float32) if is_half else values


def _copied(leaf: Any, sharding: jax.sharding.NamedSharding) -> jax.Array:
    """Returns a copy; a weakly typed number becomes a plain array, or the step would retrace."""
    if getattr(leaf, "weak_type", not hasattr(leaf, "dtype")):
        leaf = np.asarray(leaf, jnp.result_type(leaf))
    return placed(leaf, sharding)


def _constrained(tree: Any, sharding: jax.sharding.NamedSharding) -> Any:
    """Says how the compiler divides arrays."""
    return jax.lax.with_sharding_constraint(tree, sharding) if jax.tree.leaves(tree) else tree


def _typed_as(new: jax.Array, old: jax.Array) -> jax.Array:
    """Returns `new` without a weak type, so that the next call finds the types of this one."""
    return new if is_key(old) else jax.lax.convert_element_type(new, old.dtype)
