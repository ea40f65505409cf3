"""Validation, test and prediction, and the checks with which every verb begins."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import numpy as np
from flax import nnx

from nnx_alexnet.callbacks import Callback, CallbackList, Stage
from nnx_alexnet.data import Batch, DataModule, Loader, as_data_module, refuse_in_worker
from nnx_alexnet.devices import Agreement, Placement, Wishes, named_leaves, one_at_a_time
from nnx_alexnet.support import as_number, check_metric_name, logger
from nnx_alexnet.task import Classification, Outputs, Task
from nnx_alexnet.training import default_steps as bodies
from nnx_alexnet.training.compiled_steps import Steps
from nnx_alexnet.training.epoch_metrics import computed
from nnx_alexnet.training.python_side_effects import checked_trace
from nnx_alexnet.training.start_checks import check_types, explain
from nnx_alexnet.training.step_functions import State

# Dispatched steps whose results are still awaited: enough to keep the device busy, few enough to
# bound the batches held in memory.
MAX_IN_FLIGHT = 2


class Evaluator:
    """Evaluates and applies a model; the part of `Trainer` below training.

    Args:
        model: any `nnx.Module` called with a batch of images.
        data: see `Trainer`.
        task: see `Trainer`.
        callbacks: all of them, in any order.
        placement: the devices, and how the arrays are split over them.
    """

    def __init__(
        self,
        model: nnx.Module,
        data: DataModule | Sequence[Any],
        *,
        task: Task | None,
        callbacks: Sequence[Callback],
        placement: Placement,
    ) -> None:
        check_types(model, data, task)
        self.data = as_data_module(data)
        self.task = Classification() if task is None else task
        self.global_step = 0
        self.metrics: dict[str, float] = {}
        self.metric_steps: dict[str, int] = {}
        self.placement = placement
        self._callbacks = CallbackList(callbacks)
        self._model = model
        self._optimizer: nnx.Optimizer[Any] | None = None  # there is one during `fit`
        self._compiled: Steps | None = None
        self._state: State | None = None  # the arrays, while they are not in the model
        self._outputs: Mapping[str, jax.ShapeDtypeStruct] = {}  # of the task, once it was traced
        self._num_passes = 0  # of `validate`, `test` and `predict`, each with draws of its own
        self._is_cut_short = False  # set by Ctrl-C during `fit`
        self._agreement = Agreement()
        self._is_running = False

    def validate(self) -> dict[str, float]:
        """Evaluates the model on the validation split.

        Returns:
            `{"val/loss": ..., "val/accuracy": ...}`, exact over the split.
        """
        return self._evaluate_alone("validate", "validation", "val")

    def test(self) -> dict[str, float]:
        """Evaluates the model on the test split.

        Returns:
            `{"test/loss": ..., "test/accuracy": ...}`, exact over the split.
        """
        return self._evaluate_alone("test", "test", "test")

    def predict(self, images: np.ndarray[Any, Any] | None = None) -> Any:
        """Applies the model, by default to the test split.

        Args:
            images: uint8 or float32 `[N, ...]`, as the train split holds them; None (the
                default) takes those of the test split.

        Returns:
            What `task.predict` returns, as NumPy, one row an example and in order: for
            `Classification` the probabilities, `float32[N, num_classes]`.
        """
        loader = self._split("test") if images is None else self.data.unlabelled(images)
        self._prepare_prediction(loader)
        parts: list[Any] = []
        masks: deque[jax.Array] = deque()
        carried: list[jax.Array] | None = None

        def step(batch: Any) -> Any:
            nonlocal carried
            leaves = self._arrays().model
            if carried is None:
                carried = self._steps.begin_pass("predict", leaves, self._pass_number())
            carried, predictions, mask = self._steps.predict(leaves, carried, batch)
            masks.append(mask)
            return predictions

        with self._stage("predict"):
            for predictions in self._pass("predict", loader, step):
                rows, keep = jax.device_get((predictions, masks.popleft()))
                parts.append(jax.tree.map(lambda row, keep=keep: row[keep], rows))
            self._end_pass("predict")
        return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)

    # ---- For callbacks --------------------------------------------------------------------

    @property
    def model(self) -> nnx.Module:
        """The model with the present values, which a hook may read and change.

        Inside a hook of `fit` its arrays are good until the hook returns: the next step takes
        them. Copy what must last (`jax.tree.map(jnp.copy, nnx.state(trainer.model))`).
        """
        self._lend()
        return self._model

    def parameters(self) -> dict[str, jax.Array]:
        """Returns the present parameters by their path, such as "conv1/kernel", on the device.

        Unlike `model` this costs nothing. The next step takes the arrays: copy what must last.
        """
        if self._state is not None:
            return self._steps.parameters(self._state)
        return named_leaves(nnx.state(self._model, nnx.Param))

    @property
    def callbacks(self) -> tuple[Callback, ...]:
        """Every callback, in calling order."""
        return tuple(self._callbacks)

    @property
    def num_compilations(self) -> dict[str, int]:
        """How often each of the steps used so far was compiled: once, unless shapes changed."""
        return {} if self._compiled is None else dict(self._compiled.traces)

    def log(self, metrics: Mapping[str, float]) -> None:
        """Publishes metrics of a callback's own, at the present step.

        Args:
            metrics: name to number. A callback that wants its names known to `monitor=`
                lists them in its `metric_names`.

        Raises:
            ValueError: a name belongs to the trainer: `step`, `epoch`, or a metric of the task.
            TypeError: a name is not text, or a value is not a number.
        """
        own = self._task_metric_names()
        for name in metrics:
            check_metric_name(name)
            if name in own:
                raise ValueError(
                    f"`metrics` has the name {name!r}, which the trainer publishes itself. Log "
                    "yours under another name."
                )
        values = {name: as_number(name, value) for name, value in metrics.items()}
        self._publish(values, self.global_step)

    def _task_metric_names(self) -> set[str]:
        names = () if self._compiled is None else self._compiled.metric_names
        at_log_points = {f"train/{name}_step" for name in names}
        return at_log_points | {f"{s}/{name}" for s in ("train", "val", "test") for name in names}

    # ---- What a subclass may replace ------------------------------------------------------

    def train_step(
        self, model: nnx.Module, optimizer: nnx.Optimizer[Any], batch: Mapping[str, jax.Array]
    ) -> Outputs:
        """What one train step does to the modules; traced once and compiled.

        Args:
            model: in training mode; changed in place.
            optimizer: changed in place.
            batch: `image` (transformed), `label`, `mask`, `index`, batch first.

        Returns:
            The `loss` of each example, `float32[B]`, and what the task's metrics read.
        """
        return bodies.train_step(self.task, model, optimizer, batch)

    def eval_step(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> Outputs:
        """What one step of validation and test computes; as `train_step`, without an update."""
        return bodies.eval_step(self.task, model, batch)

    def predict_step(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> Any:
        """What one step of `predict` returns, batch first; `label` means nothing here."""
        return bodies.predict_step(self.task, model, batch)

    # ---- A pass over a split ---------------------------------------------------------------

    def _evaluate(self, kind: str, split: str) -> dict[str, float]:
        """Returns the metrics over a split; none if Ctrl-C cut it short."""
        metrics = self._steps.empty
        carried: list[jax.Array] | None = None

        def step(batch: Any) -> Outputs:
            nonlocal carried, metrics
            leaves = self._arrays().model
            if carried is None:  # not before the hooks that may change the model
                carried = self._steps.begin_pass("evaluate", leaves, self._pass_number())
            carried, metrics, outputs = self._steps.evaluate(leaves, carried, metrics, batch)
            return outputs

        for _ in self._pass(kind, self._split(split), step):
            pass
        if self._is_cut_short:
            return {}
        return {f"{split}/{name}": value for name, value in computed(metrics).items()}

    def _pass_number(self) -> int:
        """Returns a number that tells this pass over a split from others.

        In `fit` it is the step, so that a resumed run draws what the unbroken one would have.
        """
        if self._optimizer is not None:
            return self.global_step
        self._num_passes += 1
        return -self._num_passes

    def _pass(self, kind: str, loader: Loader, step: Callable[[Any], Any]) -> Iterator[Any]:
        """Yields `step(batch)` for each batch of a split, between the hooks of that kind.

        The results come `MAX_IN_FLIGHT` batches late, when they are ready.
        """
        placement, smallest = self.placement, self.placement.padded(loader.batch_size)
        batches = loader.batches(
            multiple=placement.num_parts, part=placement.rows, skips=kind != "predict"
        )
        part = placement.rows(smallest)
        self._callbacks.call(f"on_{kind}_start", self)
        self._callbacks.call(f"on_{kind}_epoch_start", self)
        in_flight: deque[Any] = deque()
        for index, batch in enumerate(batches):
            if self._is_cut_short:
                break
            if kind != "predict":
                self._check_batch(loader, batch)
            self._callbacks.call(f"on_{kind}_batch_start", self, batch, index)
            size = max(smallest, len(batch["index"]))  # an iterable may have larger ones
            outputs = one_at_a_time(step(placement.send(batch, size)))
            in_flight.append(outputs)
            # What `predict` returns is whole everywhere.
            own = placement.own_rows(outputs, part if kind == "predict" else None)
            self._callbacks.call(f"on_{kind}_batch_end", self, own, batch, index)
            self._agree(at_most=MAX_IN_FLIGHT)
            if len(in_flight) > MAX_IN_FLIGHT:
                yield jax.block_until_ready(in_flight.popleft())
        yield from in_flight
        self._agree()

    def _end_pass(self, kind: str) -> None:
        self._callbacks.call(f"on_{kind}_epoch_end", self)
        self._callbacks.call(f"on_{kind}_end", self)

    def _evaluate_alone(self, stage: Stage, kind: str, split: str) -> dict[str, float]:
        self._prepare(self._split(split))
        with self._stage(stage):
            metrics = self._evaluate(kind, split)
            self._publish(metrics, self.global_step)
            self._end_pass(kind)
        return metrics

    def _publish(self, metrics: Mapping[str, float], step: int) -> None:
        self.metrics.update(metrics)
        self.metric_steps.update(dict.fromkeys(metrics, step))
        self._callbacks.call("on_log", self, metrics, step)

    # ---- What all processes do alike --------------------------------------------------------

    def _wish(self, **wishes: Any) -> None:
        """Asks all processes for something; alone, it is done at once."""
        self._agreement.wish(**wishes)
        if self._agreement.is_alone:
            self._agree()

    def _agree(self, *, at_most: int = 0) -> None:
        """Does what any process wishes; all of them call this at the same places.

        Args:
            at_most: see `Agreement.settle`.
        """
        agreed = self._agreement.settle(at_most=at_most)
        if any(agreed):
            self._follow(agreed)

    def _follow(self, agreed: Wishes) -> None:
        """Does what any process wishes; outside `fit` there is nothing to wish for."""

    # ---- The start and the end of a verb -------------------------------------------------------

    def _split(self, name: str) -> Loader:
        loader: Loader | None = getattr(self.data, name)
        if loader is None:
            raise ValueError(
                f"`data` has no {name} split; pass one, for instance as "
                "Trainer(model, (train, val, test))."
            )
        return loader

    def _prepare(self, *loaders: Loader) -> None:
        """Checks that data, model and task fit together, over shapes alone."""
        self._begin()
        self._measure(*loaders)

    def _measure(self, *loaders: Loader) -> None:
        for loader in reversed(loaders):  # what is traced last is of the first one: of training
            with self._fitting(loader) as example:
                self._outputs = self._steps.measure(self.task, example)
            if (labels := loader.labels_in_memory()) is not None:
                self._check_labels(labels, loader.argument)

    def _prepare_prediction(self, loader: Loader) -> None:
        """Checks that data, model and what the task predicts fit together."""
        self._begin()
        with self._fitting(loader) as example:
            self._steps.measure_predictions(example)

    def _begin(self) -> None:
        """Forgets an earlier verb, and compiles anew if the model is built in another way now."""
        refuse_in_worker()
        self._check_idle()
        self._is_cut_short = False
        self._agreement.forget()  # a signal of an earlier `fit`, and what was wished as that ended
        if self._compiled is None or not self._compiled.are_of(self._model):
            bodies = self.train_step, self.eval_step, self.predict_step
            self.placement.check_axes(nnx.state(self._model))
            self._compiled = Steps(
                self._model, self.data.transform, *bodies, placement=self.placement
            )

    @contextmanager
    def _fitting(self, loader: Loader) -> Iterator[dict[str, jax.ShapeDtypeStruct]]:
        """Yields the shapes of a batch; what is raised over them is a `ValueError` that says so."""
        if not (loader.indexable or self._agreement.is_alone):
            raise ValueError(
                f"`{loader.argument}` is an iterable, which several processes cannot divide: its "
                "order may differ between them. Pass arrays or a map-style dataset, which are "
                "read by index; instead of a DataLoader, pass its dataset."
            )
        loader.check_workers()
        self.data.check(loader)  # of an iterable nothing was known before
        spec = loader.element_spec()
        fields = {**spec, "mask": ((), np.bool_), "index": ((), np.int32)}
        size = self.placement.padded(loader.batch_size)
        example = {k: jax.ShapeDtypeStruct((size, *s), d) for k, (s, d) in fields.items()}
        try:
            with (
                self.placement.context(),
                jax.transfer_guard("allow"),
                checked_trace(self.task, self._model),
            ):
                yield example
        except Exception as error:  # the model and the task are the user's, and raise all kinds
            shape, dtype = spec["image"]
            raise ValueError(
                f"`model`, `data` and `task` do not fit together, with images of shape {shape} and "
                f"dtype {dtype}, {self.data.image_shape} after the transform: "
                f"{explain(error, example)}"
            ) from error

    def _check_idle(self) -> None:
        if self._is_running:
            raise RuntimeError(
                "This Trainer is running: a hook cannot call its `fit`, `validate`, `test` or "
                "`predict`. Ask for validation with `validate_every_n_epochs`, or apply "
                "`trainer.model` itself."
            )

    def _check_batch(self, loader: Loader, batch: Batch) -> None:
        """Checks the labels of a batch, unless `_prepare` has seen those of the whole split."""
        if loader.arrays() is None:
            self._check_labels(batch["label"][batch["mask"]], loader.argument)

    def _check_labels(self, labels: np.ndarray[Any, Any], argument: str) -> None:
        """Raises where the task cannot learn from labels of the right shape and dtype."""
        if len(labels) and (problem := self.task.label_problem(labels, self._outputs)) is not None:
            raise ValueError(f"`{argument}` {problem}")

    @contextmanager
    def _stage(self, stage: Stage) -> Iterator[None]:
        """Sets the callbacks up, and on every way out puts the arrays back into the model."""
        failure: BaseException | None = None
        self._is_running = True
        try:
            # What the trainer sends and reads, it means to.
            with self.placement.context(), jax.transfer_guard("allow"):
                self._callbacks.call("setup", self, stage)
                yield
        except BaseException as error:
            failure = error
            raise
        finally:
            with ExitStack() as stack:  # all of it is done, whatever a part of it raises
                stack.callback(setattr, self, "_is_running", False)
                stack.callback(self._clean_up, failure, "teardown", self, stage)
                if failure is not None:
                    stack.callback(self._clean_up, failure, "on_exception", self, failure)
                stack.callback(self.data.close)
                stack.callback(setattr, self, "_optimizer", None)
                self._lend()

    def _clean_up(self, failure: BaseException | None, hook: str, *arguments: Any) -> None:
        """Calls a hook whose own error must not hide the one that ended the run."""
        try:
            self._callbacks.call(hook, *arguments)
        except Exception as error:
            if failure is None:
                raise
            logger.error("`%s` failed too: %r", hook, error)

    @property
    def _steps(self) -> Steps:
        assert self._compiled is not None, "_prepare comes first"
        return self._compiled

    def _arrays(self) -> State:
        """Returns the arrays for a step, taking them out of the model if a hook had them."""
        if self._state is None:
            self._state = self._steps.split(self._model, self._optimizer)
        return self._state

    def _lend(self) -> None:
        """Puts the arrays into the model, where hooks and the caller find them."""
        if self._state is None:
            return
        if any(leaf.is_deleted() for leaf in jax.tree.leaves(self._state)):
            # A step failed while it ran, after it had taken the arrays: the model has those that
            # it was lent last.
            logger.error("The step failed: the model has the values of before, not the newest.")
        else:
            self._steps.join(self._state, self._model, self._optimizer)
        self._state = None
