"""`FitLoop`: the order of operations of `fit`.

The order matters, so change it with care. `Preparation` has checked everything before it begins.

1. The callbacks' `setup` runs. The run folder, its lock and the checkpoint to resume from are
   opened; the checkpoint is compared with this run before its arrays are read. `on_fit_start`
   runs, the saved state is restored, and `on_train_start` runs.
2. Each epoch starts with `on_train_epoch_start`, and then runs its steps (`EpochLoop`). Between
   two steps, it validates if `validate_every_n_steps` asks for it, and saves if a hook did.
3. Each epoch ends with the validation, if it is due. Then the device may start the next
   epoch (`StepsAhead`). The metrics of validation and training are published together, before
   `on_validation_end` and `on_train_epoch_end`, so that every hook sees all of them and a
   checkpoint is ranked by a value of its own step. Then a requested checkpoint is saved. After a
   signal during the validation, the epoch stays open instead, and the resumed run ends it.
4. `on_train_end` runs, and the last checkpoint is saved. The model gets the averaged or the best
   weights, and `on_fit_end` runs. However the run ends, the arrays are put back into the caller's
   model, then the callbacks' `teardown` runs, then the checkpoints and the lock are closed.

`Requests.settle` is called after every hook that may have requested something, in all processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from nnx_alexnet.callbacks import ModelCheckpoint, RunSummary
from nnx_alexnet.devices import compiled, describe, on_host
from nnx_alexnet.support import logger, start_times
from nnx_alexnet.training import initial_weights
from nnx_alexnet.training.best_weights import BestWeights
from nnx_alexnet.training.dispatcher import Dispatcher
from nnx_alexnet.training.epoch_loop import EpochLoop
from nnx_alexnet.training.evaluation_loop import EvaluationLoop
from nnx_alexnet.training.flops import peak_memory, program_memory
from nnx_alexnet.training.hooks import Hooks
from nnx_alexnet.training.lifecycle import Lifecycle
from nnx_alexnet.training.preparation import Preparation
from nnx_alexnet.training.progress import Progress
from nnx_alexnet.training.requests import Requests
from nnx_alexnet.training.run import Run
from nnx_alexnet.training.run_identity import Ingredients, check_processes_alike, identify_run
from nnx_alexnet.training.run_length import check_extension, num_steps
from nnx_alexnet.training.saver import Saver
from nnx_alexnet.training.settings import Settings
from nnx_alexnet.training.signals import graceful_stop
from nnx_alexnet.training.start_reports import report_stream
from nnx_alexnet.training.validation import Validation


class FitLoop:
    """Trains a model from the first epoch to the last.

    Args:
        ingredients: model, data, task, optimizer and settings.
        progress: the counters.
        requests: the requests of hooks, signals and other processes.
        hooks: the callbacks.
        run: the folder.
        evaluation: runs the passes of validations.
        lifecycle: calls `setup` and `teardown`.
        preparation: checks the labels of batches.

    Attributes:
        dispatcher: the steps under way.
    """

    def __init__(
        self,
        *,
        ingredients: Ingredients,
        progress: Progress,
        requests: Requests,
        hooks: Hooks,
        run: Run,
        evaluation: EvaluationLoop,
        lifecycle: Lifecycle,
        preparation: Preparation,
    ) -> None:
        made, train = ingredients, preparation.split("train")
        self.dispatcher = Dispatcher(
            arrays=made.arrays,
            progress=progress,
            settings=made.settings,
            placement=made.placement,
            evaluation=made.evaluation,
            training=made.training,
            complete=train.complete,
        )
        self._ingredients = made
        self._settings = made.settings
        self._data = made.data
        self._stream = train.stream
        self._progress = progress
        self._requests = requests
        self._hooks = hooks
        self._run = run
        self._lifecycle = lifecycle
        self._policy = _find_policy(hooks, made.settings)
        self._saver = Saver(
            progress=progress,
            arrays=made.arrays,
            dispatcher=self.dispatcher,
            hooks=hooks,
            requests=requests,
            run=run,
            policy=self._policy,
            stream=self._stream,
        )
        self._best = BestWeights(hooks.callbacks, made.arrays, progress, run)
        self._validation = self._new_validation(evaluation)
        self._epoch_loop = self._new_epoch_loop(preparation)
        self._compiled_before = compiled()

    def _new_validation(self, evaluation: EvaluationLoop) -> Validation:
        return Validation(
            data=self._data,
            settings=self._settings,
            empty=self._ingredients.evaluation.empty,
            progress=self._progress,
            requests=self._requests,
            evaluation=evaluation,
            dispatcher=self.dispatcher,
            saver=self._saver,
            best=self._best,
        )

    def _new_epoch_loop(self, preparation: Preparation) -> EpochLoop:
        return EpochLoop(
            ingredients=self._ingredients,
            progress=self._progress,
            requests=self._requests,
            hooks=self._hooks,
            run=self._run,
            dispatcher=self.dispatcher,
            saver=self._saver,
            check_batch=preparation.check_batch,
            validation=self._validation,
        )

    # ---- The order of operations ----------------------------------------------------------------

    def run(self, resume: str | Path, accept: Sequence[str]) -> None:
        """Runs all of `fit`; see `Trainer.fit` for the arguments."""
        requests, hooks = self._requests, self._hooks
        with (
            graceful_stop(requests.interrupt, requests.received),
            self._run.closing(),
            self._lifecycle.running("fit"),
            ExitStack() as stack,
        ):
            self._open(resume, accept)
            start_times.end("run folder")
            stack.callback(self.dispatcher.release)
            with self._saver.saving_on_exception():
                self._train()
            requests.settle()  # waits, so no process leaves before the first one has saved
            self._ingredients.arrays.end_training()
            self._best.use()
            hooks.call("on_fit_end")
            requests.settle()  # a signal to one process still ends all of them
            requests.end_run()

    def step_memory(self) -> int:
        """Returns the bytes that a train step needs on each device; see `Trainer.step_memory`."""
        arrays = self._ingredients.arrays
        arrays.begin_training(self._ingredients.optimizers)
        try:
            return program_memory(self._epoch_loop.lowered())
        finally:
            arrays.drop_optimizer()

    def _open(self, resume: str | Path, accept: Sequence[str]) -> None:
        """Opens the run folder, creates the optimizer, and restores the run to resume."""
        made, arrays = self._ingredients, self._ingredients.arrays
        if not self._requests.is_alone:
            check_processes_alike(made, self._hooks.callbacks, str(resume))
        arrays.begin_training(made.optimizers)
        saved = None
        if self._policy is not None:
            if self._stream is not None:
                self._stream.check_state()
            about_data = self._data.describe()
            saved, accepted = self._run.open(
                resume,
                accept,
                identity=identify_run(made, about_data),
                about_data={**about_data, "num_outputs": made.task.num_outputs(self._data)},
                policy=self._policy,
                parameter_names=arrays.steps.parameter_names,
                check_saved=lambda run_dir: self._check_extension(run_dir, accept),
            )
            report_stream(self._stream)
            if saved is not None and accepted:
                # From now on, the value in the code is used for an accepted hyperparameter.
                here = arrays.named()
                values = {name: on_host(here[name]) for name in accepted if name in here}
                saved = saved._replace(arrays={**saved.arrays, **values})
            if saved is None and self._requests.is_alone:
                assert self._run.run_dir is not None
                initial_weights.keep_or_restore(arrays, self._run.run_dir)
        self._hooks.call("on_fit_start")
        if saved is not None:  # not before `on_fit_start`, where callbacks reset their states
            self._saver.restore(saved, accept)

    def _check_extension(self, run_dir: Path, accept: Sequence[str]) -> None:
        settings, steps_per_epoch = self._settings, self._data.train.num_batches
        check_extension(
            run_dir,
            accept,
            transformation=self._ingredients.optimizers.transformation,
            run_steps=num_steps(settings.max_epochs, settings.max_steps, steps_per_epoch),
            steps_per_epoch=steps_per_epoch,
        )

    def _train(self) -> None:
        """Trains all epochs, and saves the last state."""
        self._epoch_loop.take_data(trains=self._has_more)
        self._hooks.call("on_train_start")
        self._requests.settle()
        while self._has_more:
            self._train_epoch()
        done = compiled().since(self._compiled_before)
        if done.programs:
            logger.info("%s", describe(done))
        reason = self._progress.stop_reason
        if reason is not None and not self._has_summary:
            logger.info("Stopped after step %d: %s", self._progress.global_step, reason)
        self._hooks.call("on_train_end")
        self._requests.settle()
        self._saver.save_if_asked()
        self._saver.wait()

    def _train_epoch(self) -> None:
        """Trains one epoch, or the rest of a resumed one, and ends it."""
        progress = self._progress
        self._hooks.call("on_train_epoch_start")
        self._requests.settle()
        if progress.step_in_epoch == 0:
            progress.begin_epoch()
            self.dispatcher.begin_epoch()
        is_whole = self._epoch_loop.run()
        if progress.step_in_epoch == 0:
            if is_whole:
                raise ValueError(
                    f"`data` gave no train batch in epoch {progress.epoch}; an iterable must start "
                    "again each time it is iterated over (a list or a DataLoader, not a generator)."
                )
            return  # the epoch was stopped before its first step
        self.dispatcher.read_all()
        if self._requests.interrupted:
            return
        self._saver.begin_end_of_epoch()
        if not self._end_epoch():
            return  # the epoch stays open, and the resumed run ends it
        self._saver.epoch_ended()
        progress.end_epoch(is_whole=is_whole)
        self._saver.save_if_asked()

    def _end_epoch(self) -> bool:
        """Validates if that is due, publishes all metrics of the epoch, and calls the hooks.

        Returns:
            Whether the epoch has ended: False if a signal interrupted the validation.
        """
        progress, data = self._progress, self._data
        is_done = self._validation.is_done  # a callback then stopped the run within the epoch
        validates = self._is_validation_due and data.val is not None and not is_done
        measured = self._validation.measure() if validates else {}
        if self._requests.interrupted:
            if validates:  # lets callbacks undo changes that they made for the validation
                self._validation.end()
            return False
        metrics = self.dispatcher.end_epoch() | self._costs() | measured
        self._epoch_loop.send_ahead()
        progress.begin_row()
        progress.publish(metrics, progress.global_step)
        if validates:
            self._validation.end()
        self._hooks.call("on_train_epoch_end")
        self._requests.settle()
        self._best.keep()
        has_ended = True
        if not (data.val is None or validates or is_done) and progress.stop_reason is not None:
            # A callback has just stopped the run, and the last epoch ends with a validation.
            progress.publish(self._validation.measure(), progress.global_step)
            self._validation.end()
            validates, has_ended = True, not self._requests.interrupted
        progress.end_row(keeps=has_ended and (validates or is_done or data.val is None))
        return has_ended

    # ---- Questions ------------------------------------------------------------------------------

    @property
    def _has_summary(self) -> bool:
        return any(isinstance(each, RunSummary) for each in self._hooks.callbacks)

    @property
    def _has_more(self) -> bool:
        """Whether there is an epoch to train, or an open epoch of a resumed run to end."""
        if self._requests.interrupted:
            return False
        max_epochs = self._settings.max_epochs
        is_last_done = max_epochs is not None and self._progress.epoch >= max_epochs
        return self._progress.is_epoch_open or not (self._epoch_loop.is_stopping or is_last_done)

    @property
    def _is_validation_due(self) -> bool:
        num_done = self._progress.epoch + 1
        is_last = num_done >= (self._settings.max_epochs or math.inf)
        is_due = num_done % self._settings.validate_every_n_epochs == 0
        is_due |= self._validation.is_due_by_step
        return is_due or is_last or self._epoch_loop.is_stopping

    def _costs(self) -> dict[str, float]:
        """Returns the time spent compiling and the peak memory of this fit so far."""
        costs = {"perf/compile_seconds": compiled().since(self._compiled_before).seconds}
        if (memory := peak_memory()) is not None:
            costs["perf/peak_memory_bytes"] = float(memory)
        return costs


def _find_policy(hooks: Hooks, settings: Settings) -> ModelCheckpoint | None:
    """Returns the callback that chooses which checkpoints are kept; None if nothing is written."""
    if settings.log_dir is None:
        return None
    return next(each for each in hooks.callbacks if isinstance(each, ModelCheckpoint))
