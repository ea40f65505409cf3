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
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from nnx_alexnet.bodies import Batch, GradientRecorder, masked_mean
from nnx_alexnet.leaves import is_key, named_leaves, on_device, on_host, placed
from nnx_alexnet.performance import product_flops
from nnx_alexnet.placement import Placement
from nnx_alexnet.processes import is_main
from nnx_alexnet.task import Outputs, Task

Transform = Callable[..., jax.Array]


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
        model: its graph is read here, its arrays at each `split`; it keeps its mode.
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
            the statistics of BatchNorm) and, if the optimizer says it, `lr`.
        train_many: `(state, metrics, data, (batches, count), key)`, as `count` calls of `train`
            on the first of the `batches` (`[K, B, ...]`); returns `(state, metrics, infos, info)`,
            where each value of `infos` is `[K]`, and `info` is that of the last step.
        loops: whether `train_many` is to be used, once `measure` has traced the model: everywhere
            but for convolutions on a CPU, which XLA runs without its threaded kernels inside a
            loop (4 images a second instead of 148 for AlexNet on two cores). The two round
            differently, so a run takes one of them throughout.
        forward_flops: the FLOPs of one example's forward pass by dtype, likewise.
        evaluate: `(state.model, metrics, batch) -> (metrics, outputs)`.
        predict: `(state.model, batch) -> (predictions, mask)`, whole on each device.
        empty: the metrics before any batch, once `measure` has chosen them.
        parameter_names: the paths of the model's parameters, such as "conv1/kernel".
        traces: how often each step was traced; more than once means a recompilation.

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
        train_definition, eval_definition, model_state = _definitions(model)
        self._placement = placement = Placement() if placement is None else placement
        self._model_shardings = placement.shardings(model_state)
        self._gathered = placement.gathered(model_state)
        self._train_definition, self._eval_definition = train_definition, eval_definition
        self._transform, self._train_step, self._eval_step = transform, train_step, eval_step
        self._model_names = list(named_leaves(model_state))
        self.parameter_names = list(named_leaves(nnx.filter_state(model_state, nnx.Param)))
        self.traces: Counter[str] = Counter()
        self._model_leaves = jax.eval_shape(lambda: jax.tree.leaves(model_state))
        self._model_tree = jax.tree.structure(model_state)
        self._collection: Any = None  # set by `measure`
        # Set by the first optimizer: a model that is only evaluated has none.
        self._optimizer_definition: nnx.GraphDef[Any] | None = None

        def train(*arguments: Any) -> tuple[State, Any, Outputs]:
            self.traces["train"] += 1
            return self._one_step(*arguments)

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
                state, metrics, info = self._one_step(state, metrics, data, batch, key)
                infos = {name: all_.at[number].set(info[name]) for name, all_ in infos.items()}
                return state, metrics, infos

            # The number of rounds is not compiled in: one program serves every length.
            state, metrics, infos = jax.lax.fori_loop(0, count, step, (state, metrics, infos))
            return state, metrics, infos, {name: all_[count - 1] for name, all_ in infos.items()}

        def evaluate(leaves: list[jax.Array], metrics: Any, batch: Batch) -> tuple[Any, Outputs]:
            self.traces["evaluate"] += 1
            outputs = self._outputs(leaves, batch)
            by_row = {name: self._by_row(values, batch) for name, values in outputs.items()}
            return self._measured(metrics, outputs, batch), by_row

        def predict(leaves: list[jax.Array], batch: Batch) -> Any:
            self.traces["predict"] += 1
            predictions = predict_step(*self._in_eval_mode(leaves, batch))
            return _constrained((predictions, batch["mask"]), placement.replicated)

        # Tree mode: the steps take and return arrays alone, so no graph is traversed a call.
        self.train = nnx.jit(train, donate_argnums=0, graph=False)
        self.train_many = nnx.jit(train_many, donate_argnums=0, graph=False)
        self.evaluate = nnx.jit(evaluate, graph=False)
        self.predict = nnx.jit(predict, graph=False)
        self._gradients = nnx.jit(self._record, graph=False)

    def _one_step(
        self, state: State, metrics: Any, data: Batch, batch: Batch, key: jax.Array
    ) -> tuple[State, Any, Outputs]:
        """What `train` does; the body of its loop in `train_many`."""
        taken = {name: rows[batch["index"]] for name, rows in data.items()}
        sharding = self._placement.of_batch(len(batch["index"]))
        batch = {**batch, **_constrained(taken, sharding)}
        module = self._merged(self._train_definition, state.model)
        assert self._optimizer_definition is not None, "split comes first"
        optimizer = nnx.merge(
            self._optimizer_definition,
            jax.tree.unflatten(self._optimizer_tree, state.optimizer),
        )
        image = self._transform(batch["image"], key=key, index=batch["index"])
        image = _constrained(image, sharding)
        outputs = self._train_step(module, optimizer, {**batch, "image": image})
        new = State(_leaves(module), _leaves(optimizer))
        loss = masked_mean(outputs["loss"], batch["mask"]).astype(jnp.float32)
        # On a CPU XLA's maximum may drop a NaN, so that ReLU hides it from the loss. The
        # statistics have seen it.
        seen = [loss, *jax.tree.leaves(nnx.state(module, nnx.BatchStat))]
        is_finite = jnp.stack([jnp.isfinite(values).all() for values in seen]).all()
        info = {"loss": loss, "is_finite": is_finite}
        if (rate := self.learning_rate(new)) is not None:
            info["lr"] = rate
        new = jax.tree.map(_typed_as, new, state)
        kept = [*self._model_shardings, *self._optimizer_shardings]
        new = jax.tree.map(_constrained, new, jax.tree.unflatten(jax.tree.structure(new), kept))
        return new, self._measured(metrics, outputs, batch), info

    def are_of(self, model: nnx.Module) -> bool:
        """Whether the model is still built as it was, down to attributes such as a dropout rate."""
        return bool(_definitions(model)[0] == self._train_definition)

    def measure(self, task: Task, example: Batch) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Traces the forward pass over shapes alone, and chooses the metrics that accumulate.

        Args:
            task: says which metrics.
            example: a batch, or the shapes and dtypes of one.

        Returns:
            Shapes and dtypes of the task's outputs. Nothing is computed.
        """
        outputs: Mapping[str, jax.ShapeDtypeStruct]
        jaxpr, outputs = jax.make_jaxpr(self._outputs, return_shape=True)(
            self._model_leaves, example
        )
        has_convolution = "conv_general_dilated" in str(jaxpr)
        counted = product_flops(jaxpr)
        self.forward_flops = {k: v / len(example["index"]) for k, v in counted.items()}
        self.loops = not (has_convolution and jax.default_backend() == "cpu")
        if self._collection is None:  # one class for all verbs, or they would retrace
            self._collection = task.collection(outputs)
            empty = self._collection.empty()
            # An empty metric may count in another dtype than a filled one; a loop takes one.
            filled = jax.eval_shape(self._measured, empty, outputs, example)
            self.empty = jax.tree.map(
                lambda old, new: placed(np.asarray(old, new.dtype), self._placement.replicated),
                empty,
                filled,
            )
        return outputs

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics that `measure` chose."""
        return tuple(self.empty.compute())

    def split(self, model: nnx.Module, optimizer: nnx.Optimizer[Any] | None = None) -> State:
        """Copies the arrays out of the modules, so that donating them harms nobody's reference.

        Args:
            model: the model, of the graph given at construction.
            optimizer: its optimizer, for training.

        Returns:
            The state for the compiled steps.
        """
        leaves = list(map(_copied, _leaves(model), self._model_shardings))
        if optimizer is None:
            return State(leaves, [])
        definition, optimizer_state = nnx.split(optimizer)
        if self._optimizer_definition is None:
            self._optimizer_definition = definition
            self._optimizer_tree = jax.tree.structure(optimizer_state)
            self._optimizer_names = list(named_leaves(optimizer_state))
            rates = [n for n in self._optimizer_names if n.endswith("hyperparams/learning_rate")]
            self._rate_leaf = self._optimizer_names.index(rates[0]) if rates else None
            self._optimizer_shardings = self._placement.shardings(optimizer_state)
        return State(leaves, list(map(_copied, _leaves(optimizer), self._optimizer_shardings)))

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

    def learning_rate(self, state: State) -> jax.Array | None:
        """Returns the rate that the optimizer keeps in its state, None where it keeps none."""
        return None if self._rate_leaf is None else state.optimizer[self._rate_leaf]

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

    def _record(self, leaves: list[jax.Array], batch: Batch, key: jax.Array) -> list[jax.Array]:
        """Returns the gradients that a step hands to its optimizer."""
        self.traces["gradients"] += 1
        module = self._merged(self._train_definition, leaves)
        recorder = GradientRecorder(module, optax.identity(), wrt=nnx.Param)
        image = self._transform(batch["image"], key=key, index=batch["index"])
        self._train_step(module, recorder, {**batch, "image": image})
        return list(_constrained(_leaves(recorder.gradients), self._placement.replicated))

    def _outputs(self, leaves: list[jax.Array], batch: Batch) -> Outputs:
        return self._eval_step(*self._in_eval_mode(leaves, batch))

    def _in_eval_mode(self, leaves: list[jax.Array], batch: Batch) -> tuple[nnx.Module, Batch]:
        image = _constrained(self._transform(batch["image"]), self._placement.batch)
        return self._merged(self._eval_definition, leaves), {**batch, "image": image}

    def _measured(self, metrics: Any, outputs: Outputs, batch: Batch) -> Any:
        new = self._collection.single_from_model_output(mask=batch["mask"], **outputs)
        return _constrained(metrics.merge(new), self._placement.replicated)

    def _by_row(self, values: jax.Array, batch: Batch) -> jax.Array:
        """Keeps each row of an output where that of the batch is."""
        is_by_row = jnp.shape(values)[:1] == batch["mask"].shape
        placement = self._placement
        kept: jax.Array = _constrained(
            values, placement.batch if is_by_row else placement.replicated
        )
        return kept

    def _merged(self, definition: Any, leaves: list[jax.Array]) -> nnx.Module:
        """Merges a model whose arrays are whole, but for what its own metadata split."""
        whole = jax.tree.map(_constrained, leaves, self._gathered)
        module: nnx.Module = nnx.merge(definition, jax.tree.unflatten(self._model_tree, whole))
        return module

    def _no_info(self, state: State, num: int) -> Outputs:
        """Returns the `info` of `num` steps, before the first of them."""
        infos = {"loss": jnp.zeros(num, jnp.float32), "is_finite": jnp.ones(num, bool)}
        if (rate := self.learning_rate(state)) is not None:
            infos["lr"] = jnp.zeros(num, rate.dtype)
        return infos

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


def _definitions(model: nnx.Module) -> tuple[Any, Any, Any]:
    """Returns the graph of a model in training and in evaluation mode, and its one state."""
    # A second set of modules over the same arrays, so that the caller's keep their mode.
    twin = nnx.merge(*nnx.split(model))
    twin.eval()
    eval_definition, state = nnx.split(twin)
    twin.train()
    return nnx.split(twin)[0], eval_definition, state


def _leaves(module: Any) -> list[jax.Array]:
    return jax.tree.leaves(nnx.state(module))


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
