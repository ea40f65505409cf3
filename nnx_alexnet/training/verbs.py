"""`Verbs`: what `fit`, `validate`, `test` and `predict` do with the parts of a Trainer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import optax

from nnx_alexnet.callbacks import Stage
from nnx_alexnet.data import DataModule, Loader, prediction_loader
from nnx_alexnet.devices import Placement, use_compilation_cache
from nnx_alexnet.optimizers import count_skipped
from nnx_alexnet.support import open_standard_descriptors, start_times, unknown
from nnx_alexnet.task import Task
from nnx_alexnet.training import initial_weights
from nnx_alexnet.training.default_callbacks import find_averaging
from nnx_alexnet.training.default_steps import ModuleSteps
from nnx_alexnet.training.dispatcher import Dispatcher
from nnx_alexnet.training.evaluation_loop import EvaluationLoop
from nnx_alexnet.training.fit_loop import FitLoop
from nnx_alexnet.training.history import History, Metrics
from nnx_alexnet.training.hooks import Hooks
from nnx_alexnet.training.joined_rows import joined
from nnx_alexnet.training.lifecycle import Lifecycle
from nnx_alexnet.training.micro_batches import MicroBatches
from nnx_alexnet.training.mistakes import MistakeCollector
from nnx_alexnet.training.model_arrays import ModelArrays
from nnx_alexnet.training.preparation import Preparation
from nnx_alexnet.training.progress import Progress
from nnx_alexnet.training.requests import Agreement, Requests
from nnx_alexnet.training.run import Run
from nnx_alexnet.training.run_identity import Ingredients
from nnx_alexnet.training.settings import Settings
from nnx_alexnet.training.start_reports import report_frozen_layers, report_trained_parameters
from nnx_alexnet.training.tracing import EvaluationTrace, TrainingTrace


class Verbs:
    """Creates the parts that the verbs need, and runs the verbs on them.

    Each `fit` has new counters, requests and outputs; the other verbs use those of the last `fit`.

    Args:
        settings: the plain arguments of the Trainer.
        config: the content of `config.yaml`.
        hooks: the callbacks.
        arrays: the model.
        data: the splits.
        task: what is learned.
        placement: the devices.
        transformation: the optimizer, as the callbacks have configured it.
        steps: returns the functions to compile. It is called only when they are compiled, so that
            they can be replaced until then.
        trainable: which parameters are trained; see `Trainer`.

    Attributes:
        progress: the counters.
        requests: the requests of hooks, signals and other processes.
        run: the folder.
        preparation: the checks and traces before a verb.
        micro_batches: how a train step divides its batch.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        config: Mapping[str, object],
        hooks: Hooks,
        arrays: ModelArrays,
        data: DataModule,
        task: Task,
        placement: Placement,
        transformation: optax.GradientTransformation,
        steps: Callable[[], ModuleSteps],
        trainable: Any = None,
    ) -> None:
        self.micro_batches = MicroBatches(settings.num_micro_batches, placement.num_parts)
        self._settings = settings
        self._config = config
        self._hooks = hooks
        self._arrays = arrays
        self._data = data
        self._task = task
        self._placement = placement
        if settings.max_skipped:
            transformation = count_skipped(transformation)
        self.preparation = Preparation(
            data=data,
            task=task,
            arrays=arrays,
            transformation=transformation,
            averaging=find_averaging([*hooks.callbacks]),
            steps=steps,
            placement=placement,
            seed=settings.seed,
            trainable=trainable,
        )
        self._lifecycle = Lifecycle(hooks, arrays, data, placement)
        self._passes = itertools.count(1)  # of evaluations outside `fit`, each with its own noise
        self._agreement = Agreement()
        self._begin_run()

    def _begin_run(self) -> None:
        """Creates the parts that each `fit` has of its own."""
        self._fit_loop: FitLoop | None = None  # the newest one
        self.progress = Progress(partial(self._hooks.call, "on_log"))
        self.requests = Requests(self.progress.stop, self._agreement)
        forget = partial(initial_weights.forget, self._arrays.model)
        self.run = Run(self._settings, self._config, self.progress, self.requests, on_saved=forget)
        self._evaluation = self._new_evaluation(self._hooks)

    def _new_evaluation(self, hooks: Hooks) -> EvaluationLoop:
        return EvaluationLoop(
            arrays=self._arrays,
            progress=self.progress,
            requests=self.requests,
            hooks=hooks,
            placement=self._placement,
            check_batch=self.preparation.check_batch,
            passes=self._passes,
        )

    @property
    def dispatcher(self) -> Dispatcher | None:
        """The steps under way of the last `fit`; None before it."""
        return None if self._fit_loop is None else self._fit_loop.dispatcher

    def traces(self) -> tuple[EvaluationTrace, TrainingTrace]:
        """Returns the traces of the last `fit`; makes them now if there are none.

        Raises:
            ValueError: model, data and task do not fit together.
        """
        return self.preparation.known(is_running=self._lifecycle.is_running)

    # ---- Training -----------------------------------------------------------------------------

    def fit(self, resume: str | Path, accept: str | Sequence[str]) -> History:
        """Trains the model; see `Trainer.fit`."""
        open_standard_descriptors()
        self._lifecycle.check_idle()
        accepted = [accept] if isinstance(accept, str) else accept
        self._begin_run()
        self.run.check_resume(resume, accepted)
        evaluation, training = self.preparation.for_training()
        self.micro_batches.check(self.preparation.split("train").batch_size)
        report_frozen_layers(self._arrays.model, training.still_statistics)
        optimizers = self.preparation.optimizers
        report_trained_parameters(optimizers.transformation, self._arrays.model, optimizers.wrt)
        use_compilation_cache()
        start_times.end("checks")
        self._fit_loop = self._new_fit_loop(evaluation, training)
        self._fit_loop.run(resume, accepted)
        return self.progress.history

    def step_memory(self) -> int:
        """Compiles the train step, and returns its memory; see `Trainer.step_memory`."""
        self._lifecycle.check_idle()
        self._begin_run()
        return self._new_fit_loop(*self.preparation.for_training()).step_memory()

    def _new_fit_loop(self, evaluation: EvaluationTrace, training: TrainingTrace) -> FitLoop:
        ingredients = Ingredients(
            arrays=self._arrays,
            data=self._data,
            task=self._task,
            optimizers=self.preparation.optimizers,
            settings=self._settings,
            config=self._config,
            placement=self._placement,
            evaluation=evaluation,
            training=training,
        )
        return FitLoop(
            ingredients=ingredients,
            progress=self.progress,
            requests=self.requests,
            hooks=self._hooks,
            run=self.run,
            evaluation=self._evaluation,
            lifecycle=self._lifecycle,
            preparation=self.preparation,
        )

    # ---- Evaluation and prediction --------------------------------------------------------------

    def evaluate(self, stage: Stage, kind: str, split: str) -> Metrics:
        """Evaluates a split, or each of several, and publishes the metrics.

        Args:
            stage: the verb, as hooks receive it.
            kind: names the hooks: "validation" or "test".
            split: "val" or "test".

        Raises:
            ValueError: there is no such split, or it does not fit model and task.
        """
        self._begin_verb()
        loaders = self.preparation.splits(split)
        empty = self.preparation.for_evaluation(*loaders.values()).empty
        with self._lifecycle.running(stage):
            metrics = Metrics(self._evaluation.evaluate(kind, loaders, empty))
            self.progress.publish(metrics, self.progress.global_step)
            self._evaluation.end(kind)
        return metrics

    def show_mistakes(self, split: str, count: int) -> Any:
        """Shows the most confident mistakes on a split; see `Trainer.show_mistakes`."""
        sets = self._data.val_sets
        if split not in (known := dict.fromkeys(["val", "test", *sets])):
            raise unknown("split", split, known)
        collector = MistakeCollector(count)
        self._begin_verb()
        loader = sets[split] if split in sets else self.preparation.split(split)
        empty = self.preparation.for_evaluation(loader).empty
        hooks = self._hooks.of([collector])
        with Lifecycle(hooks, self._arrays, self._data, self._placement).running("test"):
            self._new_evaluation(hooks).evaluate("test", {split: loader}, empty)
        return collector.show(self._data.class_names)

    def predict(self, data: Any) -> Any:
        """Returns the predictions for all examples; see `Trainer.predict`."""
        loader = self._to_predict(data)
        batches = self._evaluation.predict(loader, at_once=True)
        with self._lifecycle.running("predict"), closing(batches):
            return joined(batches, loader.num_examples)

    def predict_batches(self, data: Any) -> Generator[Any, None, None]:
        """Returns an iterator over the predictions for each batch; see `Trainer`."""
        batches = self._evaluation.predict(self._to_predict(data))
        return self._lifecycle.stream("predict", batches)

    def _to_predict(self, data: Any) -> Loader:
        """Returns the loader of data to predict; the test split for None."""
        self._begin_verb()
        if data is None:
            loader = self.preparation.split("test").limited(None)
        else:
            loader = prediction_loader(self._data, data)
        self.preparation.for_prediction(loader)
        return loader

    def _begin_verb(self) -> None:
        """Begins a verb that continues with the parts of the last `fit`."""
        self._lifecycle.check_idle()
        self.requests.begin_verb()
