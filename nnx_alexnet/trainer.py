"""The Trainer: what a run is, read top to bottom.

Who owns what. The Trainer owns the loop, the order of hooks and the publishing of metrics.
`TrainLoop`, below it, takes the steps of an epoch; `Resumable`, below that, owns the counters and
what is saved of a run; `Evaluator`, at the bottom, the verbs that need no optimizer;
`steps.Steps` the compiled steps; `data` the order of examples; a callback everything that may be
left out.

The order of operations of `fit`; it matters, so change it with care:

1. The door (`_prepare`): all that can be wrong with the arguments is said before anything is
   compiled or written.
2. `setup` of the callbacks, the run folder and its lock, the checkpoint to resume from (compared
   with this run before its arrays are read), `on_fit_start`, the restored state,
   `on_train_start`.
3. An epoch: `on_train_epoch_start`, then for each dispatch: its batches, the checkpoint that a
   hook asked for, `on_train_batch_start`, the compiled steps, all counters, `on_train_batch_end`.
   A dispatch is as many steps as are left until the host has something to do (`_steps_ahead`).
   Metrics stay on the device: those of a log point are read once the next dispatch is under
   way, so the host never waits for the step it has just dispatched.
4. The end of an epoch: the train metrics, validation and its metrics are published, in one go
   before `on_validation_end` and `on_train_epoch_end`; then the checkpoint asked for. A signal
   leaves the epoch open instead: the resumed run ends it.
5. `on_train_end`, the checkpoint asked for, `on_fit_end`, and on every way out: the arrays go
   back into the caller's model, the callbacks' `teardown`, the checkpoints are closed, and the
   lock is let go.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import optax
from flax import nnx

from nnx_alexnet.callbacks import (
    Callback,
    JSONLogger,
    ModelCheckpoint,
    Profiler,
    ProgressBar,
    RunSummary,
    TensorBoard,
)
from nnx_alexnet.data import DataModule, Loader
from nnx_alexnet.devices import (
    Devices,
    MeshLike,
    Placement,
    Wishes,
    compiled,
    describe,
    one_at_a_time,
    use_compilation_cache,
)
from nnx_alexnet.models import frozen_layers
from nnx_alexnet.optimizers import (
    as_transformation,
    check_optimizer,
    create_optimizer,
    untouched_parameters,
)
from nnx_alexnet.support import as_python, check_positive, logger, open_standard_descriptors
from nnx_alexnet.task import Task
from nnx_alexnet.training import (
    Boundary,
    EpochMeter,
    History,
    Steps,
    StepsPerExecution,
    TrainLoop,
    flops_utilization,
    graceful_stop,
    peak_memory,
)

DEFAULT_EPOCHS = 10  # enough for AlexNet to learn the digits


class Trainer(TrainLoop):
    """Trains, evaluates and applies a Flax NNX model.

    `Trainer(model, data).fit()` is enough: every other argument has a default. After any way out
    of `fit`, an exception included, `model` holds the newest parameters and statistics.

    Args:
        model: any `nnx.Module` called with a batch of images, `float32[B, ...]`.
        data: a `DataModule`, or a tuple `(train, val)` or `(train, val, test)`, each of NumPy
            arrays `(images, labels)`, a map-style dataset, a torch `DataLoader`, or any iterable
            of batches.
        task: what is learned (default `Classification()`).
        optimizer: an optax optimizer (default Adam at 1e-3); clipping and schedules are part
            of it.
        callbacks: one, or several, which are called in the order of their `priority`, then as
            given. A `RunSummary`, `ProgressBar`, `TensorBoard`, `JSONLogger` and `ModelCheckpoint`
            are added where none is given.
        max_epochs: passes over the train split (default 10, or no limit with `max_steps`).
        max_steps: optimizer steps (default no limit).
        seed: of the order of examples and of their augmentation (default 0). The model's own
            seed is in the `nnx.Rngs` it was built with.
        log_dir: the folder of all runs (default `logs`); None writes nothing.
        name: the run is `<log_dir>/<name>/version_<n>` (default: the model's class, in lower
            case).
        devices: how many devices share each batch; `"auto"` (the default): all there are, of all
            processes (only that of `jax.default_device`, if it is set); of several processes no
            other will do. The batch size stays what the data say, a multiple of their number.
        mesh: the devices and what they share instead: a `jax.sharding.Mesh`, or the sizes of its
            axes by name. Its axis `data` splits the batch, each other one the parameters whose
            sharding metadata name it: `jax.make_mesh((1, 2), ("data", "model"))` splits AlexNet
            over two devices.
        shard_state: whether parameters and optimizer state are split over `data`, too, for a
            state that is too large for one device (default False: each device has a copy). A step
            gathers the parameters, and keeps them until it ends.
        log_every_n_steps: the period of `train/loss_step`, `lr` and `perf/` (default 50).
        validate_every_n_epochs: the period of validation (default 1); the last epoch always has
            one.
        steps_per_execution: the most train steps in one dispatch (default "auto": 64, or fewer
            where the host sends large batches). A dispatch ends where anything is due: a log
            point, a save, a callback's `every_n_steps`, the end of the epoch; so this changes the
            speed, and not one bit of the result (on a CPU, where that was tested), except for a
            callback that stops the run in `on_log`, which comes a dispatch late. A model with
            convolutions on a CPU always takes one, which is faster there.
        check_finite: whether a loss, or a statistic of BatchNorm, that is NaN or infinite ends the
            run (default True).
        progress_bar: whether to show one, and to say what the run will do and did (default True).
        profile: whether to trace some steps early in the run, for TensorBoard's Profile tab
            (default False; a `Profiler` in `callbacks` says which).
        config: what `config.yaml` and the HParams tab say of the run (default: what the
            Trainer knows of its arguments).

    Attributes:
        global_step: optimizer steps done.
        epoch: the current epoch, from 0.
        metrics: the newest value of each metric published.
        metric_steps: the step at which each of those was produced.
        history: what `fit` returns.
        run_dir: the folder of this run, None before `fit` or without `log_dir`.
        placement: the devices, and how batches and state are split over them.
        stop_reason: why a callback stopped the run, or None.
        interrupted: whether Ctrl-C or SIGTERM stopped it.

    Raises:
        ValueError: an argument, or what `data` holds, does not work; said before anything is
            compiled or written.

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

    def __init__(
        self,
        model: nnx.Module,
        data: DataModule | Sequence[Any],
        *,
        task: Task | None = None,
        optimizer: optax.GradientTransformation | None = None,
        callbacks: Sequence[Callback] | Callback | None = (),
        max_epochs: int | None = None,
        max_steps: int | None = None,
        seed: int = 0,
        log_dir: str | Path | None = "logs",
        name: str | os.PathLike[str] | None = None,
        devices: Devices = "auto",
        mesh: MeshLike | None = None,
        shard_state: bool = False,
        log_every_n_steps: int = 50,
        validate_every_n_epochs: int = 1,
        steps_per_execution: StepsPerExecution = "auto",
        check_finite: bool = True,
        progress_bar: bool = True,
        profile: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        max_epochs, max_steps, seed, log_every_n_steps, validate_every_n_epochs = map(
            as_python, (max_epochs, max_steps, seed, log_every_n_steps, validate_every_n_epochs)
        )
        check_positive(
            max_epochs=max_epochs,
            max_steps=max_steps,
            log_every_n_steps=log_every_n_steps,
            validate_every_n_epochs=validate_every_n_epochs,
        )
        if steps_per_execution != "auto" and (
            type(steps_per_execution) is not int or steps_per_execution < 1
        ):
            raise ValueError(
                f"`steps_per_execution` (={steps_per_execution!r}) must be a positive integer, or "
                '"auto".'
            )
        if type(seed) is not int or seed < 0:
            raise ValueError(f"`seed` (={seed!r}) must be an integer of at least 0.")
        transformation = create_optimizer() if optimizer is None else as_transformation(optimizer)
        defaults: list[Callback] = [RunSummary(), ProgressBar()] if progress_bar else []
        if profile:
            defaults.append(Profiler())
        if log_dir is not None:
            defaults += [TensorBoard(), JSONLogger(), ModelCheckpoint()]
        given = _as_list(callbacks)
        # The user's come first among those of equal priority.
        given += [each for each in defaults if not any(isinstance(c, type(each)) for c in given)]
        self._has_summary = any(isinstance(each, RunSummary) for each in given)
        if sum(isinstance(callback, ModelCheckpoint) for callback in given) > 1:
            raise ValueError(
                "`callbacks` holds more than one ModelCheckpoint; a run has one folder of "
                "checkpoints. Let one keep the best (`save_top_k`) and the latest (`keep_latest`)."
            )
        super().__init__(
            model,
            data,
            task=task,
            callbacks=given,
            optimizer=transformation,
            seed=seed,
            log_dir=log_dir,
            name=type(model).__name__.lower() if name is None else _as_name(name),
            check_finite=check_finite,
            placement=Placement(devices, mesh, shard_state=shard_state),
            max_steps=max_steps,
            log_every_n_steps=log_every_n_steps,
            steps_per_execution=steps_per_execution,
        )
        self.max_epochs = DEFAULT_EPOCHS if max_epochs is None and max_steps is None else max_epochs
        self.validate_every_n_epochs = validate_every_n_epochs
        self.config = self._own_config() if config is None else dict(config)

    def _reset(self) -> None:
        super()._reset()
        self._has_ended = False  # nothing is left that a signal could cut short
        self._reason: str | None = None  # why a callback of this process stops the run
        self._row: dict[str, Any] | None = None  # of the history, while an epoch ends

    # ---- The verbs ------------------------------------------------------------------------

    def fit(self, *, resume: str | Path = "never", accept: str | Sequence[str] = ()) -> History:
        """Trains the model, in a new run or by going on with one that was stopped or killed.

        A resumed run ends with the very parameters that it would have had without the stop, on
        the same machine and number of devices. A run that had ended stays as it was. Training
        data that are an iterable cannot be read from the middle: their epoch begins anew.

        Args:
            resume: `"never"` (the default): a new run, in a new folder, that starts from the
                model's present parameters. `"auto"`: goes on with the newest run of this name,
                or starts a new one where there is none: what a job that is started again and
                again wants. Or the folder of a run.
            accept: differences from the saved run that a resumed one may have, by the names that
                the error lists or by their beginnings: `"optimizer"`, `"versions"` (default none).
                A hyperparameter whose change is accepted is that of the code from then on.

        Returns:
            A list: one dict an epoch that ended with an evaluation (an epoch, where there is no
            validation split): `epoch`, `step`, and the metrics published there. Those of before
            a resume are part of it. `to_pandas()` makes a frame of it.

        Raises:
            ValueError: the data, the model, the task or a callback do not fit together; or the
                run to resume is another one (the message lists what differs), is being written
                by another process, or has only damaged checkpoints.
            FloatingPointError: the loss or a parameter is not finite; it was not saved.
            OSError: a checkpoint could not be written (see `ModelCheckpoint(on_error=)`).
            SystemExit: after SIGTERM, when all is saved and closed; with status 143.
        """
        open_standard_descriptors()
        self._check_idle()
        self._reset()
        loader = self._split("train")
        if loader.indexable:  # an iterable's batches have any sizes, which need not divide
            self.placement.check_batch_size(loader.batch_size)
        self._prepare(loader, *filter(None, [self.data.val]))
        self._prepare_training(loader)
        self._report_frozen_layers()
        self._report_untouched_parameters()
        use_compilation_cache()
        self._compiled_before = compiled()
        with (
            graceful_stop(self._interrupt) as self._received,
            self._closing(),
            self._stage("fit"),
            ExitStack() as stack,
        ):
            saved = self._open_run(resume, [accept] if isinstance(accept, str) else accept)
            self._callbacks.call("on_fit_start", self)
            if saved is not None:
                self._restore(saved)
            stack.callback(self._let_data_go)
            with self._saving_on_exception():
                self._train(loader)
            self._agree()  # which waits: none leaves before the first one has written
            self._callbacks.call("on_fit_end", self)
            self._agree()  # a signal to one ends all, at this late hour as well
            self._has_ended = not self.interrupted
        return self.history

    def _train(self, loader: Loader) -> None:
        """Trains all epochs, and saves the last state."""
        self._take_data(loader)
        self._callbacks.call("on_train_start", self)
        self._agree()
        while self._is_going_on:
            self._train_epoch(loader)
        logger.info("%s", describe(compiled().since(self._compiled_before)))
        if self.stop_reason is not None and not self._has_summary:
            logger.info("Stopped after step %d: %s", self.global_step, self.stop_reason)
        self._callbacks.call("on_train_end", self)
        self._agree()
        self._save_if_requested()
        if self.checkpoints is not None:
            self.checkpoints.wait()

    # ---- For callbacks --------------------------------------------------------------------

    @property
    def batch_size(self) -> int | None:
        """Examples a train batch, None where the data does not say."""
        return None if self.data.train is None else self.data.train.batch_size

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps an epoch, None where the data does not say."""
        return None if self.data.train is None else self.data.train.num_batches

    @property
    def metric_names(self) -> frozenset[str]:
        """Every metric that `fit` may publish, known before the first step.

        Raises:
            ValueError: before the first `fit`: model, data and task do not fit together.
        """
        at_log_points = {f"train/{metric}_step" for metric in self._known_steps().metric_names}
        return self.epoch_metric_names | at_log_points

    @property
    def epoch_metric_names(self) -> frozenset[str]:
        """Those of `metric_names` that are published at the ends of epochs, to be monitored."""
        steps = self._known_steps()
        names = {name for callback in self._callbacks for name in callback.metric_names}
        splits = ["train"] if self.data.val is None else ["train", "val"]
        names |= {f"{split}/{metric}" for split in splits for metric in steps.metric_names}
        names |= {*steps.rate_names, *EpochMeter.names, "perf/compile_seconds"}
        # Not every device tells these.
        if flops_utilization(1.0, steps.forward_flops) is not None:
            names.add("perf/mfu")
        if peak_memory() is not None:
            names.add("perf/peak_memory_bytes")
        return frozenset(names)

    def _known_steps(self) -> Steps:
        """Returns the steps, which are traced here if no `fit` has done so yet."""
        if self._compiled is None or not self._compiled.rate_names_are_known:
            loader = self._split("train")
            if not self._is_running:  # a hook of `validate` may ask, too
                self._begin()
            self._measure(loader, *filter(None, [self.data.val]))
            self._prepare_training(loader)
        return self._steps

    def gradients(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Returns the gradients that a train step on a batch would have now, by parameter path.

        It runs `train_step` on the present parameters and changes nothing. The program is one of
        its own: the first call compiles it, each takes about as long as a step.

        Args:
            batch: as hooks get it.

        Raises:
            RuntimeError: outside of `fit`.
        """
        if self._optimizer is None:
            raise RuntimeError("`Trainer.gradients` is for the hooks of a running `fit`.")
        batch = self.placement.send(dict(batch), self._num_rows)
        return one_at_a_time(self._steps.gradients(self._arrays(), batch, self._augmentation_key()))

    def stop(self, reason: str) -> None:
        """Asks the run to end after this step; the epoch is closed as a whole one is.

        Of several processes one is enough, as for `request_checkpoint`.

        Args:
            reason: kept in `stop_reason` and shown to the user.
        """
        self._reason = reason
        self._wish(stop=True)

    # ---- The loop -------------------------------------------------------------------------

    @property
    def _is_going_on(self) -> bool:
        """Whether there is an epoch to train, or a resumed one that is only to be ended."""
        if self.interrupted:
            return False
        return self.is_epoch_open or not (self._is_stopping or self._is_last_epoch_done)

    @property
    def _is_last_epoch_done(self) -> bool:
        return self.max_epochs is not None and self.epoch >= self.max_epochs

    def _train_epoch(self, loader: Loader) -> None:
        self._callbacks.call("on_train_epoch_start", self)
        self._agree()
        if self.step_in_epoch == 0:
            self._meter = EpochMeter(jax.device_get(self._steps.empty))
            self._window = self._steps.empty
        is_whole = self._train_batches(loader)
        if self.step_in_epoch == 0:
            if is_whole:
                raise ValueError(
                    f"`data` gave no train batch in epoch {self.epoch}; an iterable must start "
                    "anew each time it is iterated (a list, a DataLoader; not a generator)."
                )
            return  # it was stopped before its first step
        self._read_all()
        if self.interrupted:
            return
        # What fails from here on is done again by the run that resumes: all of it, from here.
        self._boundary = Boundary(self._arrays(), self._callbacks.state_dict())
        has_ended = self._end_epoch()
        self._boundary = None
        if not has_ended:
            return  # the epoch stays open: its metrics and its validation are still to come
        self.is_epoch_open = False
        if is_whole:
            self.epoch, self.step_in_epoch = self.epoch + 1, 0
        self._save_if_requested()

    def _end_epoch(self) -> bool:
        """Publishes the epoch's metrics, validation's with them if it is due, and calls hooks.

        Returns:
            Whether that was done: not if a signal cut the validation short.
        """
        is_last = self._is_stopping or (self.max_epochs or math.inf) <= self.epoch + 1
        is_due = is_last or (self.epoch + 1) % self.validate_every_n_epochs == 0
        validates = is_due and self.data.val is not None
        measured = self._evaluate("validation", "val") if validates else {}
        if self.interrupted:
            if validates:  # whoever changed the model for the validation changes it back
                self._end_pass("validation")
            return False
        self._meter.add(jax.device_get(self._window))
        self._window = self._steps.empty
        metrics = {f"train/{name}": value for name, value in self._meter.values().items()}
        metrics |= self._rates(self._meter.epoch_rates()) | self._costs() | measured
        self._row = {"epoch": self.epoch, "step": self.global_step}
        self._publish(metrics, self.global_step)
        if validates:
            self._end_pass("validation")
        self._callbacks.call("on_train_epoch_end", self)
        self._agree()
        if self.data.val is not None and not validates and self._is_stopping:
            # A callback made this the last epoch just now.
            self._publish(self._evaluate("validation", "val"), self.global_step)
            self._end_pass("validation")
            validates = True
        if validates or self.data.val is None:
            self.history.append(self._row)
        self._row = None
        return not self.interrupted

    def _publish(self, metrics: Mapping[str, float], step: int) -> None:
        if self._row is not None:
            self._row.update(metrics)
        super()._publish(metrics, step)

    def _costs(self) -> dict[str, float]:
        """Returns what this fit has cost so far, besides its steps."""
        costs = {"perf/compile_seconds": compiled().since(self._compiled_before).seconds}
        if (memory := peak_memory()) is not None:
            costs["perf/peak_memory_bytes"] = float(memory)
        return costs

    # ---- The door, and the ways out -------------------------------------------------------

    def _prepare_training(self, loader: Loader) -> None:
        """Checks that the optimizer fits too, and that a step can be taken."""
        check_optimizer(self._transformation, self._model)
        with self._fitting(loader) as example:
            self._steps.prepare_training(self._transformation, example)

    def _report_frozen_layers(self) -> None:
        frozen, are_all = frozen_layers(self._model)
        names = ", ".join(frozen[:5]) + (f" and {len(frozen) - 5} more" if len(frozen) > 5 else "")
        if are_all:
            logger.warning(
                "All layers with a mode (%s) are in evaluation mode, as after model.eval(), and "
                "stay in it: BatchNorm statistics are not updated, and dropout is off. Call "
                "model.train() before fit() unless this is intended.",
                names or "the model",
            )
        elif frozen:
            logger.info("Frozen in evaluation mode, as they were before fit(): %s.", names)
        parents = (name.rpartition("/")[0] for name in self._steps.still_statistics)
        still = [each for each in dict.fromkeys(parents) if each not in frozen]
        if still:
            logger.warning(
                "The statistics of %s are not updated in training, although these layers are not "
                "frozen: the model calls them with use_running_average=True, or not at all. Pass "
                "the mode on to them, or call their eval() before fit() if this is intended.",
                ", ".join(each or "the model" for each in still[:5]),
            )

    def _report_untouched_parameters(self) -> None:
        names, are_all = untouched_parameters(self._transformation, self._model)
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        if names and are_all:
            logger.warning(
                "`optimizer` changes no parameter, as with optax.set_to_zero(). Labels or masks "
                "of optax.partition must identify parameters by their paths "
                "(jax.tree_util.tree_map_with_path): updates are plain arrays, so a parameter's "
                "type cannot identify it."
            )
        elif names:
            logger.info("`optimizer` leaves these parameters as they are: %s.", shown)

    def _own_config(self) -> dict[str, Any]:
        """What is worth showing of a run that was started from Python."""
        names = ("max_epochs", "max_steps", "seed", "log_every_n_steps", "validate_every_n_epochs")
        return {
            "model": {"class": type(self._model).__name__},
            "task": {"class": type(self.task).__name__},
            "data": {"name": self.data.name, "batch_size": self.batch_size},
            "trainer": {name: getattr(self, name) for name in names},
        }

    def _interrupt(self, number: int) -> None:
        self._agreement.signal = number
        if self._agreement.is_alone:
            self._follow(Wishes(signal=number))

    def _follow(self, agreed: Wishes) -> None:
        if agreed.save:
            self._checkpoint_requested = True
        if agreed.stop and self._reason is not None:
            self.stop_reason = self._reason
        elif agreed.stop and self.stop_reason is None:
            self.stop_reason = "another process asked for it"
        if agreed.signal and not self._has_ended:  # else only files are being closed
            self.interrupted = self._is_cut_short = True
            self._received.signal = agreed.signal


def _as_list(callbacks: Sequence[Callback] | Callback | None) -> list[Callback]:
    """Returns the callbacks that were given in any of the forms that users write."""
    if callbacks is None:
        return []
    if isinstance(callbacks, Callback):
        return [callbacks]
    if not isinstance(callbacks, Iterable) or isinstance(callbacks, str | bytes | Mapping):
        raise TypeError(
            f"`callbacks` (={callbacks!r}) must be a `Callback`, a list of them, or None."
        )
    return [*callbacks]


def _as_name(name: object) -> str:
    """Returns the name of the run, which may be given as a path."""
    text = os.fspath(name) if isinstance(name, os.PathLike) else name
    if not isinstance(text, str):
        raise TypeError(f"`name` (={name!r}) must be a str, such as 'sweep/adam'.")
    return text
