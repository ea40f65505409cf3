"""`Trainer`: the object that users call and that hooks receive.

It contains the arguments of a run and their documentation. The parts that do the work are in
`training/`, whose README lists them. To see the order of operations of `fit`, start reading in
`training/fit_loop.py`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import optax
from flax import nnx

from nnx_alexnet.callbacks import Callback, CallbackList
from nnx_alexnet.checkpoints import Checkpoints
from nnx_alexnet.data import DataModule, LimitBatches, as_data_module, limited_data
from nnx_alexnet.devices import Devices, Placement, named_leaves
from nnx_alexnet.models import layer_table
from nnx_alexnet.optimizers import as_transformation, create_optimizer
from nnx_alexnet.support import as_python, html_facts
from nnx_alexnet.task import Classification, Outputs, Task
from nnx_alexnet.training import (
    DEFAULT_EPOCHS,
    History,
    Hooks,
    ModelArrays,
    ModuleSteps,
    Settings,
    StepsPerExecution,
    Trainable,
    Verbs,
    as_name,
    as_tags,
    check_types,
    checked_metrics,
    eval_step,
    explains_unknown_arguments,
    names_at_epoch_ends,
    names_at_log_points,
    predict_step,
    recorded_config,
    train_step,
    trainable_filter,
    trainer_facts,
    trainer_text,
    with_defaults,
    without_outputs,
)


class Trainer:
    """Trains, evaluates and applies a Flax NNX model.

    `Trainer(model, data).fit()` is enough: every other argument has a default. However `fit` ends,
    even by an exception, `model` holds the newest parameters and statistics afterwards: the
    averages, if the run keeps any (`EMA`, `SWA`). With `restore_best` of a callback, it holds the
    best ones, unless an exception ended `fit`.

    Args:
        model: any `nnx.Module`. The task calls it; its mode and `rngs` are passed if its `__call__`
            has arguments for them.
        data: a `DataModule`, or a tuple `(train, val)` or `(train, val, test)`. Each split is a
            dict of arrays, a tuple `(images, labels)`, a map-style dataset, a torch `DataLoader`,
            any other iterable of batches, or another form that `DataModule` accepts.
        task: what is learned (default `Classification()`).
        optimizer: an optax optimizer (default Adam at 1e-3); clipping and schedules are part
            of it.
        callbacks: one or several. They are called in the order of their `priority`, and callbacks
            of equal priority in the given order. A `RunSummary`, `ProgressBar`, `TensorBoard`,
            `JSONLogger` and `ModelCheckpoint` are each added unless one is given.
        max_epochs: passes over the train split (default 10, or no limit with `max_steps`).
        max_steps: optimizer steps (default no limit).
        seed: determines the order of examples, their augmentation, and the `rngs` that are passed
            to a model's `__call__` (default 0). The model's own seed is in the `nnx.Rngs` that it
            was built with.
        log_dir: the parent folder of all runs (default `logs`); None writes nothing.
        name: the folder of the run is `<log_dir>/<name>/version_<n>` (default: the name of the
            model's class, in lower case).
        tags: one or several words about the run, which `nnx-alexnet runs` and the HParams tab show
            (default none).
        devices: how many devices share each batch. `"auto"` (the default) means all devices of all
            processes, or only `jax.default_device` if that is set; with several processes, a number
            does not work. The batch size of the data is that of the whole batch, and must be a
            multiple of the number of devices. A `jax.sharding.Mesh`, or the sizes of its axes by
            name, can also split the model. The axis `data` splits the batch, and every other axis
            the parameters whose sharding metadata name it: `{"data": 1, "model": 2}` splits
            AlexNet over two devices.
        shard_state: whether parameters and optimizer state are also split over `data`, for a state
            that is too large for one device (default False: each device has a copy). A step
            gathers the parameters and keeps them until it ends.
        log_every_n_steps: the period of `train/loss_step`, `lr` and `perf/` (default 50).
        validate_every_n_epochs: the period of validation (default 1); the last epoch always ends
            with a validation.
        validate_every_n_steps: the period of validations within an epoch, in optimizer steps, in
            addition to those at its end (default None: there are none).
        limit_batches: batches per pass over each split: a number such as 10, a fraction such as
            0.1, or a dict of them by split, `{"train": 0.1, "val": 10}` (default: all). A shuffled
            train split has other examples in each epoch.
        fast_dev_run: whether to try everything on one batch of each split, for one epoch, without
            a run folder, checkpoints and early stopping (default False); or the number of batches.
        overfit_batches: the number of batches to overfit on: training and validation both use
            these batches of the train split, unshuffled and without augmentation (default None).
        trainable: which parameters are trained: a prefix of their paths, such as `"dense3"`; a list
            of prefixes; or an nnx filter, such as a function of the path (a tuple) and the variable
            (default None: all). The others are frozen: they have no gradients, no weight
            decay and no optimizer state. Their layers stay in training mode: BatchNorm statistics
            are updated, unless `layer.eval()` was called before `fit`.
        num_micro_batches: the number of parts into which a train step divides its batch (default
            1). Only one part at a time takes memory for activations. The step averages the
            gradients of all parts and updates the parameters once, as for the undivided batch;
            BatchNorm's statistics are those of each part.
        steps_per_execution: the most train steps in one dispatch (default "auto": 64, or fewer if
            the host sends large batches). A dispatch ends where something is due: a log point, a
            save, a callback's `every_n_steps`, the end of the epoch. Only the speed changes, not
            the results (verified on a CPU). Exception: a callback that stops the run in `on_log`
            stops it one dispatch later. On a CPU, a model with convolutions always takes single
            steps, which are faster there.
        check_finite: whether a loss or a BatchNorm statistic that is NaN or infinite ends the run
            (default True). A number n skips up to n such steps in a row, and ends the run at the
            next one: the state stays as it was before the step.
        progress_bar: whether to show a progress bar, and to log a summary of the run before and
            after it (default True).
        config: the content of `config.yaml` and of the HParams tab (default: a summary of the
            Trainer's arguments).

    Raises:
        ValueError: an argument or the data are invalid; raised before anything is compiled or
            written.

    Example:
        >>> import numpy as np
        >>> from flax import nnx
        >>> from nnx_alexnet import Trainer
        >>> images = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
        >>> labels = (images[:, 0] > 0).astype(np.int32)
        >>> model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
        >>> train, val = (images, labels), (images, labels)
        >>> trainer = Trainer(model, (train, val), max_epochs=2, log_dir=None, progress_bar=False)
        >>> [row["step"] for row in trainer.fit()]
        [1, 2]
        >>> sorted(trainer.validate())
        ['val/accuracy', 'val/loss']
    """

    @explains_unknown_arguments
    def __init__(
        self,
        model: nnx.Module,
        data: DataModule | Sequence[object],
        *,
        task: Task | None = None,
        optimizer: optax.GradientTransformation | None = None,
        callbacks: Sequence[Callback] | Callback | None = (),
        max_epochs: int | None = None,
        max_steps: int | None = None,
        seed: int = 0,
        log_dir: str | Path | None = "logs",
        name: str | os.PathLike[str] | None = None,
        tags: str | Sequence[str] = (),
        devices: Devices = "auto",
        shard_state: bool = False,
        log_every_n_steps: int = 50,
        validate_every_n_epochs: int = 1,
        validate_every_n_steps: int | None = None,
        limit_batches: LimitBatches | None = None,
        fast_dev_run: bool | int = False,
        overfit_batches: int | None = None,
        trainable: Trainable = None,
        num_micro_batches: int = 1,
        steps_per_execution: StepsPerExecution = "auto",
        check_finite: bool | int = True,
        progress_bar: bool = True,
        config: Mapping[str, object] | None = None,
    ) -> None:
        check_types(model, data, task)
        self._data = limited_data(
            as_data_module(data),
            limit_batches=limit_batches,
            overfit_batches=overfit_batches,
            fast_dev_run=fast_dev_run,
        )
        if fast_dev_run:
            log_dir, max_epochs, max_steps, callbacks = None, 1, None, without_outputs(callbacks)
        self._trained = (*named_leaves(nnx.state(model, trainable_filter(model, trainable))),)
        self._settings = Settings(
            name=type(model).__name__.lower() if name is None else as_name(name),
            log_dir=log_dir,
            max_epochs=DEFAULT_EPOCHS if max_epochs is max_steps is None else as_python(max_epochs),
            max_steps=as_python(max_steps),
            seed=as_python(seed),
            log_every_n_steps=as_python(log_every_n_steps),
            validate_every_n_epochs=as_python(validate_every_n_epochs),
            validate_every_n_steps=as_python(validate_every_n_steps),
            num_micro_batches=as_python(num_micro_batches),
            steps_per_execution=steps_per_execution,
            check_finite=as_python(check_finite),
            tags=as_tags(tags),
        )
        transformation = create_optimizer() if optimizer is None else as_transformation(optimizer)
        self._placement = Placement(devices, shard_state=shard_state)
        self._task = (Classification() if task is None else task).for_data(self._data)
        given = with_defaults(callbacks, progress_bar=progress_bar, writes=log_dir is not None)
        self._hooks = Hooks(CallbackList(given), self)
        self._arrays = ModelArrays(model, self._placement)
        self._config = recorded_config(
            config,
            settings=self._settings,
            model=model,
            task=self._task,
            data=self._data,
            transformation=transformation,
            callbacks=self._hooks.callbacks,
        )
        self._verbs = self._new_verbs(transformation, trainable)

    def _new_verbs(
        self, transformation: optax.GradientTransformation, trainable: Trainable
    ) -> Verbs:
        configured = self._hooks.callbacks.configure_optimizer(self, transformation)
        return Verbs(
            settings=self._settings,
            config=self._config,
            hooks=self._hooks,
            arrays=self._arrays,
            data=self._data,
            task=self._task,
            placement=self._placement,
            transformation=configured,
            steps=lambda: ModuleSteps(self.train_step, self.eval_step, self.predict_step),
            trainable=trainable,
        )

    def __repr__(self) -> str:
        return f"<{trainer_text(self, type(self._arrays.model).__name__)}>"

    def _repr_html_(self) -> str:
        return html_facts(trainer_facts(self))

    # ---- The verbs ------------------------------------------------------------------------

    @explains_unknown_arguments
    def fit(self, *, resume: str | Path = "never", accept: str | Sequence[str] = ()) -> History:
        """Trains the model, in a new run or in a resumed one.

        A resumed run ends with exactly the parameters that it would have had without the stop, on
        the same machine and number of devices. A finished run does not change. Training data that
        are an iterable without a state are read again up to the position of the saved run; if
        they then differ from those of the saved run, the interrupted epoch starts again.

        Args:
            resume: `"never"` (the default) starts a new run in a new folder, from the model's
                current parameters. `"auto"` resumes the newest run of this name, or starts a new
                one if there is none; use it for jobs that are restarted automatically. The folder
                of a run resumes that run.
            accept: differences from the saved run that the resumed run may have. Pass the names
                that the error lists, or prefixes of them: `"optimizer"`, `"versions"` (default
                none). `"schedule"` lets an extended run train after its schedule has ended at a
                learning rate of 0. For an accepted hyperparameter, the value in the code is used
                from then on.

        Returns:
            A list with one dict per validation, or per epoch if there is no validation split. Each
            dict holds `epoch`, `step`, the metrics of the validation and, at the end of an epoch,
            those of the epoch. The list includes the epochs before a resume. `to_pandas()` converts
            it to a `DataFrame`.

        Raises:
            ValueError: the data, the model, the task or a callback do not fit together; or the
                run to resume differs from this one (the message lists the differences), is being
                written by another process, or has only damaged checkpoints.
            FloatingPointError: the loss or a parameter is not finite; it was not saved.
            OSError: a checkpoint could not be written (see `ModelCheckpoint(on_error=)`).
            SystemExit: after SIGTERM, once everything is saved and closed; with status 143.
        """
        return self._verbs.fit(resume, accept)

    def step_memory(self) -> int:
        """Compiles the train step, and returns the bytes that it needs on each device.

        These include the parameters, the optimizer state, the batch and the training data that are
        kept on the device, but not the memory that validation may need. Nothing is trained.

        Raises:
            ValueError: model, data and task do not fit together, or the size of a batch is unknown.
            RuntimeError: a verb of this Trainer is running.
        """
        return self._verbs.step_memory()

    def validate(self) -> dict[str, float]:
        """Evaluates the model on the validation split, or on each of several.

        Returns:
            `{"val/loss": ..., "val/accuracy": ...}`, exact over the split. If the data have several
            sets, `{"val/clean/loss": ..., "val/shifted/loss": ..., ...}`.
        """
        return self._verbs.evaluate("validate", "validation", "val")

    def test(self) -> dict[str, float]:
        """Evaluates the model on the test split.

        Returns:
            `{"test/loss": ..., "test/accuracy": ...}`, exact over the split.
        """
        return self._verbs.evaluate("test", "test", "test")

    def show_mistakes(self, split: str = "val", *, count: int = 16) -> Any:
        """Shows the images that the model misclassifies with the highest probability.

        Each caption gives the predicted class with its probability, and the true class. The images
        are drawn with `matplotlib.pyplot`: a notebook shows them below the cell, and a script calls
        `plt.show()` or `plt.savefig("mistakes.png")` afterwards. No metrics are published, and no
        callbacks are called.

        Args:
            split: "val" (the default), of several sets the first one; a set such as "val/shifted";
                or "test".
            count: the largest number of images (default 16).

        Returns:
            The `matplotlib.axes.Axes`.

        Raises:
            ValueError: there is no such split, its examples have no images, or the task is not a
                classification.
            RuntimeError: a verb of this Trainer is running.
        """
        return self._verbs.show_mistakes(split, count)

    def predict(self, data: Any = None) -> Any:
        """Applies the model, by default to the test split.

        Args:
            data: a split of any form that a `DataModule` accepts, or one of the splits, such as
                `trainer.data.val`. Fields that `task.predict` does not read, such as labels, may
                be missing. A single array is the first field, by default `image`. Images may also
                be given as the path of a file or of a folder, as a PIL image, or as a list of
                them; see `find_images` for the files of a folder. They are resized and converted
                to the size and the channels of the training images. None (the default) means the
                test split.

        Returns:
            The results of `task.predict` as NumPy arrays, with one row per example, in order. For
            `Classification` these are the probabilities, `float32[N, num_classes]`.

        Raises:
            ValueError: `data` does not fit the model or the training data, or lacks a field; raised
                before anything is compiled.
            FileNotFoundError: there is no such image file.
            RuntimeError: a verb of this Trainer is running.
        """
        return self._verbs.predict(data)

    def predict_batches(self, data: Any = None) -> Generator[Any, None, None]:
        """Returns an iterator that predicts batch by batch, as the caller takes the results.

        Only a few batches are in memory at a time, so the data may be larger than the memory, or
        endless. The verb runs from this call until the last batch, or until the iterator is closed
        or dropped; other verbs are refused meanwhile. Changes to the model after the first batch
        have no effect on this iterator. With several processes, all of them must take the same
        number of batches.

        To know to which example a row belongs, return a field of the batch with the predictions:
        `{"id": batch["id"], "probability": ...}` from `task.predict`.

        Args:
            data: see `predict`.

        Returns:
            An iterator over the results of `task.predict` for each batch as NumPy arrays, in order
            and without padding.

        Raises:
            ValueError: see `predict`.

        Example:
            >>> import numpy as np
            >>> from flax import nnx
            >>> from nnx_alexnet import Trainer
            >>> images, labels = np.zeros((64, 4), np.float32), np.zeros(64, np.int32)
            >>> split = (images, labels)
            >>> model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
            >>> trainer = Trainer(model, (split, split), log_dir=None, progress_bar=False)
            >>> for probabilities in trainer.predict_batches([images[:40], images[40:]]):
            ...     print(probabilities.shape)
            (40, 2)
            (24, 2)
        """
        return self._verbs.predict_batches(data)

    # ---- Methods for callbacks ------------------------------------------------------------

    @property
    def model(self) -> nnx.Module:
        """The model with its current values, which a hook may read and change.

        Inside a hook of `fit`, its arrays are valid until the hook returns: the next step donates
        them. Copy what you need later (`jax.tree.map(jnp.copy, nnx.state(trainer.model))`).
        """
        return self._arrays.lend()

    def parameters(self) -> dict[str, jax.Array]:
        """Returns the current parameters by their path, such as "conv1/kernel", on the device.

        Unlike `model`, this costs nothing. The next step donates the arrays: copy what you need
        later.
        """
        return self._arrays.parameters()

    def gradients(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Returns the gradients of a train step at the current parameters, by parameter path.

        Parameters that are not `trainable` have none. Runs `train_step` without changing anything.
        This is a separate program: the first call compiles it, and each call takes about as long
        as a step.

        Args:
            batch: a batch as hooks receive it.

        Raises:
            RuntimeError: outside of `fit`.
        """
        dispatcher = self._verbs.dispatcher
        if dispatcher is None or self._arrays.optimizer is None:
            raise RuntimeError("`Trainer.gradients` is for the hooks of a running `fit`.")
        return dispatcher.gradients(batch)

    def learning_rates(self) -> dict[str, float]:
        """Returns the learning rates of the newest step, by the names of their metrics.

        Waits for the step. A rate is known if optax stores it in the state of the optimizer, as
        for `optax.inject_hyperparams(optax.adam)(rate)`; its name is `lr`. If several parts of an
        optimizer store a rate, each name is `lr/<part>`.
        """
        dispatcher = self._verbs.dispatcher
        found = {} if dispatcher is None else dispatcher.learning_rates()
        return {name: rate for name, rate in found.items() if name.partition("/")[0] == "lr"}

    def learning_rate(self) -> float | None:
        """Returns the learning rate of the newest step; None if optax stores none, or several."""
        return self.learning_rates().get("lr")

    def scale_learning_rates(self, factors: Mapping[str, float]) -> None:
        """Multiplies the learning rates of later steps, in a hook of `fit` between two epochs.

        The result is part of the optimizer's state, and so of every checkpoint.

        Args:
            factors: factors by the names that `learning_rates` returns.

        Raises:
            ValueError: optax does not store such a rate, or a schedule sets it that is not in a
                `ScalableSchedule`.
        """
        self._arrays.scale_rates(factors)

    def log(self, metrics: Mapping[str, float]) -> None:
        """Publishes a callback's own metrics at the current step.

        The row of the epoch in `history` holds the last value of each metric that was logged in
        the epoch, also of those from batch hooks.

        Args:
            metrics: name to number. To let other callbacks monitor them, list the names in the
                callback's `metric_names`.

        Raises:
            ValueError: the trainer publishes a name itself: `step`, `epoch`, or a metric of the
                task.
            TypeError: a name is not text, or a value is not a number.
        """
        values = checked_metrics(metrics, self._verbs.preparation.evaluation, self.data.val_sets)
        self._verbs.progress.log(values)

    def stop(self, reason: str | None) -> None:
        """Stops the run after this step; the epoch then ends like a complete one.

        With several processes, a call in one of them is enough.

        Args:
            reason: kept in `stop_reason` and shown to the user. None lets a resumed run continue
                that was stopped before: call it in `on_train_start`, in all processes.
        """
        if reason is None:
            self._verbs.progress.stop_reason = None
        else:
            self._verbs.requests.stop(reason)

    def request_validation(self) -> None:
        """Requests a validation before the next step, unless this step has been validated.

        With several processes, all of them must call it at the same step, such as in
        `on_train_start`.
        """
        self._verbs.progress.is_validation_asked = True

    def request_checkpoint(self, *, gives_way: bool = False) -> None:
        """Requests a checkpoint of this step, which is saved after every hook has run.

        With several processes, a call in one of them is enough. If a callback that runs between
        dispatches requests it, the checkpoint is saved one or two dispatches later, at the same
        step in all processes.

        Args:
            gives_way: whether the checkpoint may be dropped if a better one follows while the last
                save is running, or has taken more than 5% of the time since (default False). It is
                never dropped if another request at this step does not give way.
        """
        self._verbs.requests.save(gives_way=gives_way)

    # ---- Properties for callbacks ---------------------------------------------------------

    @property
    def data(self) -> DataModule:
        """The splits of the data."""
        return self._data

    @property
    def task(self) -> Task:
        """The task, which defines the loss and the metrics."""
        return self._task

    @property
    def placement(self) -> Placement:
        """The devices, and how batches and state are split over them."""
        return self._placement

    @property
    def callbacks(self) -> tuple[Callback, ...]:
        """All callbacks, in the order in which they are called."""
        return tuple(self._hooks.callbacks)

    @property
    def global_step(self) -> int:
        """The number of optimizer steps so far."""
        return self._verbs.progress.global_step

    @property
    def epoch(self) -> int:
        """The current epoch, from 0."""
        return self._verbs.progress.epoch

    @property
    def step_in_epoch(self) -> int:
        """The number of optimizer steps in this epoch so far."""
        return self._verbs.progress.step_in_epoch

    @property
    def num_examples(self) -> int:
        """The number of examples of this epoch that were trained on since this start of the run."""
        return self._verbs.progress.num_examples

    @property
    def is_validating_within_epoch(self) -> bool:
        """Whether a validation is running between two steps, as `validate_every_n_steps` asks."""
        return self._verbs.progress.is_validating_within_epoch

    @property
    def evaluated_split(self) -> str | None:
        """The prefix of the metrics of the pass that is running, such as "val" or "val/clean"."""
        return self._verbs.progress.evaluated_split

    @property
    def metrics(self) -> dict[str, float]:
        """The newest value of each published metric."""
        return self._verbs.progress.metrics

    def current_value(self, name: str | None) -> float | None:
        """Returns a metric if it was measured at the current step, else None."""
        return self._verbs.progress.current_value(name)

    @property
    def metric_steps(self) -> dict[str, int]:
        """The step at which each of `metrics` was measured."""
        return self._verbs.progress.metric_steps

    @property
    def history(self) -> History:
        """The list that `fit` returns."""
        return self._verbs.progress.history

    @property
    def stop_reason(self) -> str | None:
        """Why a callback stopped the run, or None."""
        return self._verbs.progress.stop_reason

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C or SIGTERM stopped the run."""
        return self._verbs.requests.interrupted

    @property
    def run_dir(self) -> Path | None:
        """The folder of this run; None before `fit`, or without a `log_dir`."""
        return self._verbs.run.run_dir

    @property
    def checkpoints(self) -> Checkpoints | None:
        """The checkpoints of this run; None without a run folder or in other processes."""
        return self._verbs.run.checkpoints

    @property
    def config(self) -> dict[str, Any]:
        """The content of `config.yaml`."""
        return self._config

    @property
    def max_epochs(self) -> int | None:
        """The number of passes over the train split after which the run ends."""
        return self._settings.max_epochs

    @property
    def max_steps(self) -> int | None:
        """The number of optimizer steps after which the run ends."""
        return self._settings.max_steps

    @property
    def seed(self) -> int:
        """The seed of the order of examples and of their augmentation."""
        return self._settings.seed

    @property
    def log_dir(self) -> str | Path | None:
        """The parent folder of all runs."""
        return self._settings.log_dir

    @property
    def name(self) -> str:
        """The name of the run."""
        return self._settings.name

    @property
    def log_every_n_steps(self) -> int:
        """The period of `train/loss_step`, `lr` and `perf/`."""
        return self._settings.log_every_n_steps

    @property
    def validate_every_n_epochs(self) -> int:
        """The period of validation."""
        return self._settings.validate_every_n_epochs

    @property
    def batch_size(self) -> int:
        """The number of examples per train batch."""
        return self.data.train.batch_size

    @property
    def steps_per_epoch(self) -> int | None:
        """The number of optimizer steps per epoch; None if it is unknown."""
        return self.data.train.num_batches

    @property
    def trained_parameters(self) -> tuple[str, ...]:
        """The paths of the parameters that are trained: all, unless `trainable` selects some."""
        return self._trained

    @property
    def data_is_on_device(self) -> bool:
        """Whether the train split stays on the device, so that only indices are sent."""
        dispatcher = self._verbs.dispatcher
        return dispatcher is not None and bool(dispatcher.data)

    @property
    def num_compilations(self) -> dict[str, int]:
        """How often each of the steps used so far was compiled: once, unless shapes changed."""
        return self._arrays.num_compilations

    @property
    def metric_names(self) -> frozenset[str]:
        """Every metric that `fit` may publish, known before the first step.

        Raises:
            ValueError: before the first `fit`: model, data and task do not fit together.
        """
        evaluation, _ = self._verbs.traces()
        return self.epoch_metric_names | names_at_log_points(evaluation)

    @property
    def epoch_metric_names(self) -> frozenset[str]:
        """The metrics that are published at the end of an epoch, and can be monitored."""
        evaluation, training = self._verbs.traces()
        callbacks, val_sets = self._hooks.callbacks, self.data.val_sets
        return names_at_epoch_ends(evaluation, training, callbacks, val_sets=val_sets)

    def summary(self, *, width: int = 120) -> str:
        """Returns a table of the model's layers, with their inputs and outputs in the task.

        See `summarize` for the columns. The shapes are those of a batch of the train split in
        evaluation mode.

        Args:
            width: the number of columns of text (default 120); longer cells are folded.

        Raises:
            ValueError: `width` is less than 60; or, before the first `fit`, model, data and task
                do not fit together.
        """
        evaluation, _ = self._verbs.traces()
        return layer_table(self.model, evaluation.calls, width=width)

    # ---- Methods that a subclass may override -----------------------------------------------

    def train_step(
        self, model: nnx.Module, optimizer: nnx.Optimizer[Any], batch: Mapping[str, jax.Array]
    ) -> Outputs:
        """Runs one train step on the modules; traced once and compiled.

        An override has no micro-batches, unless it calls this method: `num_micro_batches` is used
        here.

        Args:
            model: in training mode; changed in place.
            optimizer: changed in place.
            batch: transformed, with the keys of the data, `mask` and `index`; batch first.

        Returns:
            The `loss` of each example, `float32[B]`, and the values that the task's metrics read.
        """
        return train_step(self.task, model, optimizer, batch, self._verbs.micro_batches)

    def eval_step(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> Outputs:
        """Runs one step of validation or test: like `train_step`, without an update."""
        return eval_step(self.task, model, batch)

    def predict_step(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> Any:
        """Returns the predictions for a batch, batch first; ignore the `label` of the batch."""
        return predict_step(self.task, model, batch)
