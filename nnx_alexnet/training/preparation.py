"""`Preparation`: checks that model, data and task fit together, and traces the steps.

Everything here runs over shapes, so every mistake is reported before anything is compiled or
written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from nnx_alexnet.callbacks import WeightAveraging
from nnx_alexnet.data import (
    Batch,
    DataModule,
    Loader,
    example_batch,
    padded_size,
    refuse_in_worker,
    spec_text,
)
from nnx_alexnet.devices import Placement
from nnx_alexnet.optimizers import check_optimizer
from nnx_alexnet.task import Task, weight_problem
from nnx_alexnet.training.averaged_weights import OptimizerFactory
from nnx_alexnet.training.compiled_steps import CompiledSteps
from nnx_alexnet.training.default_steps import ModuleSteps
from nnx_alexnet.training.model_arrays import ModelArrays
from nnx_alexnet.training.python_side_effects import checked_trace
from nnx_alexnet.training.start_checks import check_parameters, explain
from nnx_alexnet.training.step_functions import StepFunctions
from nnx_alexnet.training.tracing import EvaluationTrace, TrainingTrace


class Preparation:
    """Checks the arguments before each verb, and traces the steps.

    Args:
        data: the splits.
        task: what is learned.
        arrays: holds the model, and receives its compiled steps.
        transformation: the optimizer.
        averaging: the average of the weights that the run keeps (default None).
        steps: returns the functions to compile.
        placement: the devices.
        seed: the seed of the run (default 0).
        trainable: the parameters that are trained; see `Trainer` (default None: all).

    Attributes:
        evaluation: the forward pass that was traced last; None before the first trace.
        training: the train step that was traced last for the current steps; None before that.
        optimizers: creates the optimizer of a run.
    """

    def __init__(
        self,
        *,
        data: DataModule,
        task: Task,
        arrays: ModelArrays,
        transformation: optax.GradientTransformation,
        steps: Callable[[], ModuleSteps],
        placement: Placement,
        averaging: WeightAveraging | None = None,
        seed: int = 0,
        trainable: Any = None,
    ) -> None:
        self.evaluation: EvaluationTrace | None = None
        self._is_weighted = False  # whether the task weights the examples of a split
        self.training: TrainingTrace | None = None
        # Traced last. A trace takes longer than evaluating a few examples.
        self._evaluated: tuple[CompiledSteps, Batch] | None = None
        self._predicted: tuple[CompiledSteps, Batch] | None = None
        self._data = data
        self._task = task
        self._arrays = arrays
        self.optimizers = OptimizerFactory(transformation, averaging)
        self._steps = steps
        self._placement = placement
        self._seed = seed
        self._trainable = trainable

    def split(self, name: str) -> Loader:
        """Returns a split of the data, the first of several validation sets.

        Raises:
            ValueError: the data have no such split.
        """
        return next(iter(self.splits(name).values()))

    def splits(self, name: str) -> dict[str, Loader]:
        """Returns the split or splits of a kind by the prefix of their metrics.

        Args:
            name: "train", "val" or "test".

        Raises:
            ValueError: the data have no such split.
        """
        data = self._data
        loader = {"train": data.train, "val": data.val, "test": data.test}[name]
        if loader is None:
            raise ValueError(
                f"`data` has no {name} split; pass one, for instance as "
                "Trainer(model, (train, val, test))."
            )
        return {**data.val_sets} if name == "val" else {name: loader}

    def for_training(self) -> tuple[EvaluationTrace, TrainingTrace]:
        """Checks that a train step and its validation are possible.

        Returns:
            The traces of the forward pass and of the train step.
        """
        loader = self.split("train")
        if loader.indexable:  # batches of an iterable may have sizes that cannot be divided
            self._placement.check_batch_size(loader.batch_size)
        self._renew_steps()
        return self._trace_training(loader)

    def for_evaluation(self, *loaders: Loader) -> EvaluationTrace:
        """Checks that the task can be evaluated on a split, or on each of several."""
        self._renew_steps()
        return [self._trace_evaluation(loader) for loader in loaders][-1]

    def for_prediction(self, loader: Loader) -> None:
        """Checks that the task can predict from a split."""
        self._renew_steps()
        with self._fitting(loader) as example:
            traced = self._arrays.steps, example
            if traced != self._predicted:
                self._predicted = None
                self._arrays.steps.trace_prediction(example)
                self._predicted = traced

    def known(self, *, is_running: bool) -> tuple[EvaluationTrace, TrainingTrace]:
        """Returns the last result of `for_training`; traces now if `fit` was not called yet.

        Args:
            is_running: whether a verb is running, so that its compiled steps must be kept.
        """
        is_current = is_running or self._arrays.has_current_steps()
        if is_current and self.evaluation is not None and self.training is not None:
            return self.evaluation, self.training
        loader = self.split("train")
        if not is_running:
            self._renew_steps()
        return self._trace_training(loader)

    def _renew_steps(self) -> None:
        """Creates new steps if the structure of the model has changed; compiles nothing yet."""
        refuse_in_worker()
        if not self._arrays.has_current_steps():
            self._placement.check_axes(nnx.state(self._arrays.model))
            self.evaluation = self.training = None
            self._arrays.use(
                CompiledSteps(
                    StepFunctions(
                        self._arrays.model,
                        self._data.transform,
                        self._steps(),
                        placement=self._placement,
                        trainable=self._trainable,
                    ),
                    seed=self._seed,
                )
            )

    def _trace_training(self, loader: Loader) -> tuple[EvaluationTrace, TrainingTrace]:
        for each in self._data.val_sets.values():
            self._trace_evaluation(each)
        # The train split comes last, because the last trace is kept.
        evaluation = self._trace_evaluation(loader)
        model, wrt = self._arrays.model, self._arrays.steps.wrt
        check_parameters(model, wrt)
        check_optimizer(self.optimizers.transformation, model, wrt)
        self.optimizers = self.optimizers._replace(steps_per_epoch=loader.num_batches, wrt=wrt)
        self.optimizers.check(model)
        with self._fitting(loader) as example:
            self.training = self._arrays.steps.trace_training(self.optimizers, evaluation, example)
        return evaluation, self.training

    def _trace_evaluation(self, loader: Loader) -> EvaluationTrace:
        if loader.has_several_lengths:  # fields may fit together at the longest lengths only
            self._evaluated = None
            with self._fitting(loader, shortest=True) as example:
                self._arrays.steps.trace_evaluation(self._task, example)
        with self._fitting(loader) as example:
            traced = self._arrays.steps, example
            if traced != self._evaluated or self.evaluation is None:
                self._evaluated = None
                self.evaluation = self._arrays.steps.trace_evaluation(self._task, example)
                self._evaluated = traced
        if (labels := loader.labels_in_memory()) is not None:
            self._check_labels(labels, loader.argument)
        self._is_weighted |= "example_weight" in self.evaluation.outputs
        self._check_weights((loader.arrays() or {}).get("weight"), loader.argument, is_split=True)
        return self.evaluation

    @contextmanager
    def _fitting(self, loader: Loader, *, shortest: bool = False) -> Iterator[Batch]:
        """Yields the shapes of a batch; converts errors of the block to a `ValueError`.

        Args:
            loader: of the batch.
            shortest: whether its sequences have the shortest lengths (default: the longest ones).
        """
        if not (loader.indexable or jax.process_count() == 1):
            raise ValueError(
                f"`{loader.argument}` is an iterable, which several processes cannot divide: its "
                "order may differ between them. Pass arrays or a map-style dataset, which are "
                "read by index; instead of a DataLoader, pass its dataset."
            )
        if loader.has_several_lengths and jax.process_count() > 1:
            raise ValueError(
                "`pad_to` has several lengths, and processes may choose different ones for their "
                "parts of a batch. With several processes, give each field a single length."
            )
        loader.check_workers()
        self._data.check(loader)  # the examples of an iterable were unknown before
        spec = loader.shortest_spec() if shortest else loader.element_spec()
        size = padded_size(loader.batch_size, self._placement.num_parts)
        example = example_batch(spec, size)
        try:
            with (
                self._placement.context(),
                jax.transfer_guard("allow"),
                checked_trace(self._task, self._arrays.model),
            ):
                yield example
        except Exception as error:  # the model and the task of the user may raise anything
            transformed = self._data.transform.check(spec, may_lack_fields=True)
            texts = ", ".join(f"`{name}` {spec_text(field)}" for name, field in spec.items())
            raise ValueError(
                f"`model`, `data` and `task` do not fit together, with examples of {texts} in "
                f"`{loader.argument}`: "
                f"{explain(error, {*transformed, 'mask', 'index'}, self._arrays.model)}"
            ) from error

    def check_batch(self, loader: Loader, batch: Batch) -> None:
        """Checks the labels and weights of a batch, unless those of the split were checked."""
        if loader.arrays() is not None:
            return
        labels, weights = batch.get("label"), batch.get("weight")
        if isinstance(labels, np.ndarray):
            self._check_labels(labels[batch["mask"]], loader.argument)
        if isinstance(weights, np.ndarray):
            self._check_weights(weights[batch["mask"]], loader.argument)

    def _check_labels(self, labels: np.ndarray[Any, Any], argument: str) -> None:
        """Raises a `ValueError` if the task cannot learn from the values of labels."""
        assert self.evaluation is not None, "labels are checked after a trace"
        outputs = self.evaluation.outputs
        if len(labels) and (problem := self._task.label_problem(labels, outputs)) is not None:
            raise ValueError(f"`{argument}` {problem}")

    def _check_weights(self, weights: Any, argument: str, *, is_split: bool = False) -> None:
        """Raises a `ValueError` if the task cannot weight its examples so."""
        problem = weight_problem(weights, is_split=is_split) if self._is_weighted else None
        if problem is not None:
            raise ValueError(f"`{argument}` {problem}")
