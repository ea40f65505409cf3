"""What of a run outlives its process: its folder, and its state at a step boundary.

A checkpoint is taken between two steps, when all counters moved and all steps so far are known to
be finite. `(epoch, step_in_epoch, global_step)` says where the run goes on; the sums of the running
epoch, the records and the callbacks' states are part of it, so that a resumed run cannot be told
from one that was never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from weakref import finalize

import jax
import numpy as np
import optax
from flax import nnx

from nnx_alexnet.callbacks import Callback, ModelCheckpoint
from nnx_alexnet.checkpoints import (
    Checkpoint,
    Checkpoints,
    Difference,
    check_same,
    describe_module,
    describe_optimizer,
    identify,
    manifest_of,
    plain_attributes,
    read_checkpoint,
)
from nnx_alexnet.data import DataModule
from nnx_alexnet.devices import (
    NonFiniteError,
    Placement,
    check_alike,
    is_main,
    named_leaves,
    on_host,
    on_main,
    placed,
    usual_promotion,
)
from nnx_alexnet.runs import RunLock, check_name, choose_run_dir, write_end, write_record
from nnx_alexnet.support import first_line, logger
from nnx_alexnet.task import Task
from nnx_alexnet.training.epoch_metrics import EpochMeter
from nnx_alexnet.training.evaluator import Evaluator
from nnx_alexnet.training.history import History
from nnx_alexnet.training.step_functions import State

# What a checkpoint holds of the run, besides its arrays: the position, then the records.
_RECORDS = (
    "epoch", "step_in_epoch", "global_step", "is_epoch_open",
    "stop_reason", "metrics", "metric_steps", "history",
)  # fmt: skip


class Boundary(NamedTuple):
    """What a run holds between its last step and the hooks that end an epoch.

    Attributes:
        state: the arrays, which a hook may have changed for the validation.
        callbacks: the states of the callbacks.
    """

    state: State
    callbacks: dict[str, dict[str, Any]]


class Start(NamedTuple):
    """What a run that has no checkpoint yet began with.

    Attributes:
        run_dir: its folder.
        arrays: of the model, by their path.
    """

    run_dir: Path
    arrays: dict[str, np.ndarray[Any, Any]]


# A run that fails before its first save has trained the model already, if only by a step. In the
# same process it may be started again with this very model, also by another Trainer. By the `id` of
# the model while it lives: a model that is a dataclass cannot be hashed.
_starts: dict[int, Start] = {}


class Resumable(Evaluator):
    """The part of `Trainer` that is saved, and goes on in another process.

    Args:
        model: see `Trainer`.
        data: see `Trainer`.
        task: see `Trainer`.
        callbacks: all of them; one is the `ModelCheckpoint` if there is a `log_dir`.
        optimizer: see `Trainer`.
        seed: see `Trainer`.
        log_dir: see `Trainer`.
        name: of the run.
        check_finite: whether parameters must be finite to be saved.
        placement: see `Evaluator`.
    """

    def __init__(
        self,
        model: nnx.Module,
        data: DataModule | Sequence[Any],
        *,
        task: Task | None,
        callbacks: Sequence[Callback],
        optimizer: optax.GradientTransformation,
        seed: int,
        log_dir: str | Path | None,
        name: str,
        check_finite: bool,
        placement: Placement,
    ) -> None:
        super().__init__(model, data, task=task, callbacks=callbacks, placement=placement)
        check_name(name)
        self._transformation = optimizer
        self.seed = seed
        self.log_dir = log_dir
        self.name = name
        self.check_finite = check_finite
        self.config: dict[str, Any] = {}
        self._reset()

    def _reset(self) -> None:
        """Sets every counter and record to what it is before a run."""
        self.epoch = self.step_in_epoch = self.global_step = 0
        self.is_epoch_open = False  # from its first step until its end was published
        self.metrics, self.metric_steps = {}, {}
        self.history = History()
        self.stop_reason: str | None = None
        self.run_dir: Path | None = None
        self._began = time.monotonic()
        self.checkpoints: Checkpoints | None = None
        self._lock: RunLock | None = None
        self._saved: Checkpoint | None = None  # that was read as the folder was opened
        self._checkpoint_requested = False
        self._gives_way = True  # if every request of a checkpoint at this step does
        self._boundary: Boundary | None = None  # while an epoch ends

    def request_checkpoint(self, *, gives_way: bool = False) -> None:
        """Asks for a checkpoint at this step boundary, after every hook has run.

        Of several processes one is enough. A callback that runs between dispatches, by the clock
        for instance, gets it a dispatch or two later: at the same step in all.

        Args:
            gives_way: whether it need not be written if a better one follows before the last
                one was paid for (default False); nothing waits for it. Used if all requests
                at this step say so.
        """
        if not gives_way:
            self._gives_way = False
        self._wish(save=True)

    def _open_run(self, resume: str | Path, accept: Sequence[str]) -> Checkpoint | None:
        """Opens the run folder, creates the optimizer, and reads the checkpoint to resume from."""
        if accept and resume == "never":
            raise ValueError(
                f'`accept` (={list(accept)}) works only with `resume`: pass resume="auto" or the '
                "folder of a run."
            )
        self._check_alike(resume)
        # The optimizer's arrays are made where the parameters are, split as they are.
        self._state = self._steps.split(self._model)
        self._lend()
        with jax.set_mesh(self.placement.mesh), usual_promotion():
            self._optimizer = nnx.Optimizer(self._model, self._transformation, wrt=nnx.Param)
        if self.log_dir is None:
            if resume != "never":
                raise ValueError(f"`resume` (={str(resume)!r}) needs a `log_dir` to resume from.")
            return None
        self._about_data = self.data.describe()
        leaves = self._steps.named(self._arrays())
        self._identity = identify(
            self._model,
            leaves,
            {
                name: on_host(self.placement.whole(leaves[name]))
                for name in (f"model/{each}" for each in self._steps.constants)
            },
            task=self.task,
            metrics=self._steps.metric_names,
            data=self._about_data,
            samples=self.data.sample_digests(),
            programs=self._describe_programs(),
            seed=self.seed,
            config=self.config,
        )
        where, step, accepted = on_main(lambda: self._open_folder(resume, accept))
        # Not before it is known to be of this run: callbacks write there.
        self.run_dir = Path(where)
        if not self._split("train").indexable:
            logger.info(
                "The training data are an iterable: a resumed run repeats the epoch in which it "
                "was stopped from its first batch."
            )
        if self._saved is None and step is not None:
            self._saved = read_checkpoint(self.run_dir / "checkpoints" / str(step))
        saved, self._saved = self._saved, None
        if saved is not None and accepted:
            saved = self._with_values_of_the_code(saved, accepted)
        if saved is None and self._agreement.is_alone:
            self._begin_or_begin_again(self.run_dir)
        return saved

    def _begin_or_begin_again(self, run_dir: Path) -> None:
        """Keeps what the run begins with until its first save, or goes back to that."""
        start = _starts.get(id(self._model))
        if start is not None and start.run_dir == run_dir:
            leaves = self._steps.from_host(start.arrays, like=State(self._arrays().model, []))
            self._state = State(leaves.model, self._arrays().optimizer)
            logger.info(
                "%s has no checkpoint: the run starts again from its initial weights.", run_dir
            )
        else:
            arrays = self._steps.to_host(State(self._arrays().model, []))
            if start is None:
                finalize(self._model, _starts.pop, id(self._model), None)
            _starts[id(self._model)] = Start(run_dir, arrays)

    def _check_alike(self, resume: str | Path) -> None:
        """Raises where the processes do not run the same; each would go its own way, unnoticed."""
        if self._agreement.is_alone:
            return
        leaves = {
            name: on_host(self.placement.whole(leaf))  # an earlier `fit` may have split it
            for name, leaf in named_leaves(self._model).items()
        }
        settings = ("name", "seed", "max_steps", "max_epochs", "log_every_n_steps",
                    "validate_every_n_epochs", "steps_per_execution", "check_finite")  # fmt: skip
        check_alike(
            {
                "model": [describe_module(self._model), manifest_of(leaves, {})["arrays"]],
                "data": [self.data.describe(), self.data.label_digests()],
                "task": plain_attributes(self.task),
                "optimizer": describe_optimizer(self._transformation, self._model),
                "programs": self._steps.fingerprints(),
                "callbacks": [
                    (type(callback).__qualname__, callback.batch_period)
                    for callback in self._callbacks
                ],
                "resume": str(resume),
                **{name: str(getattr(self, name)) for name in settings},
                "mesh": self.placement.describe(),
            }
        )

    @property
    def _saver(self) -> ModelCheckpoint:
        return next(each for each in self._callbacks if isinstance(each, ModelCheckpoint))

    def _describe_programs(self) -> dict[str, Any]:
        """Returns what the optimizer, a step and an evaluation compute."""
        optimizer = describe_optimizer(self._transformation, self._model)
        return {**optimizer, **self._steps.fingerprints()}

    def _with_values_of_the_code(self, saved: Checkpoint, accepted: Sequence[str]) -> Checkpoint:
        """Returns a checkpoint with the accepted hyperparameters and constants of the code."""
        here = self._steps.named(self._arrays())
        rates = {name: on_host(here[name]) for name in accepted if name in here}
        return saved._replace(arrays={**saved.arrays, **rates})

    def _open_folder(
        self, resume: str | Path, accept: Sequence[str]
    ) -> tuple[str, int | None, list[str]]:
        """Opens the run folder for this process, which alone writes there.

        Returns:
            Its path, the step to resume from, and the paths of what was accepted.
        """
        assert self.log_dir is not None
        run_dir = choose_run_dir(self.log_dir, self.name, resume)
        self._lock = RunLock(run_dir)
        saver = self._saver
        self.checkpoints = Checkpoints(
            run_dir / "checkpoints",
            keep_latest=saver.keep_latest,
            monitor=saver.ranked_by,
            mode=saver.mode,
            keep_best=saver.save_top_k,
            on_error=saver.on_error,
            finite=self._steps.parameter_names if self.check_finite else (),
            synced=[run_dir / "metrics.jsonl"],
        )
        accepted: list[Difference] = []

        def check(loop: Mapping[str, Any]) -> None:
            accepted[:] = check_same(loop, self._identity, run_dir, accept)

        self._saved = self.checkpoints.restore(check)
        write_record(run_dir, self.config)
        step = None if self._saved is None else self._saved.step
        return str(run_dir), step, [each.name.partition(".")[2] for each in accepted]

    @contextmanager
    def _closing(self) -> Iterator[None]:
        """On every way out closes the checkpoints, records the end, and lets the lock go."""
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failure = error
            raise
        finally:
            try:
                if self.checkpoints is not None:
                    self.checkpoints.close()
                    if self.checkpoints.steps:  # the run resumes from one of them
                        _starts.pop(id(self._model), None)
            except Exception as error:
                if failure is None:
                    failure = error
                    raise
                logger.error("A checkpoint failed too: %s", error)
            finally:
                try:
                    self._record_end(failure)
                finally:
                    if self._lock is not None:
                        self._lock.close()

    def _record_end(self, failure: BaseException | None) -> None:
        """Writes how the run ended; if that fails, a warning is all that comes of it."""
        if self.run_dir is None or not is_main():  # its record is not of this start
            return
        seconds = round(time.monotonic() - self._began, 3)
        try:
            if failure is not None and not isinstance(failure, KeyboardInterrupt):
                error = f"{type(failure).__name__}: {first_line(failure)}"
                write_end(self.run_dir, "failed", seconds=seconds, error=error)
            else:
                is_cut_short = self._is_cut_short or failure is not None
                status = "interrupted" if is_cut_short else "finished"
                write_end(self.run_dir, status, seconds=seconds, stop_reason=self.stop_reason)
        except Exception as error:
            logger.warning("environment.json could not be written: %s", error)

    def _save_if_requested(self) -> None:
        is_requested, self._checkpoint_requested = self._checkpoint_requested, False
        gives_way, self._gives_way = self._gives_way, True
        if not is_requested or self.run_dir is None:
            return
        self._read_all()
        arrays = self._steps.to_host(self._arrays())
        if self.checkpoints is None:  # the first process writes
            return
        if self.checkpoints.has_written:
            _starts.pop(id(self._model), None)  # the run resumes from a checkpoint now
        boundary = self._boundary
        if self.step_in_epoch:
            for name, metrics in (("window", self._window), ("epoch", self._meter.total)):
                for number, leaf in enumerate(jax.tree.leaves(metrics)):
                    arrays[f"metrics/{name}/{number}"] = np.array(leaf)
        loop = {
            **{name: getattr(self, name) for name in _RECORDS},
            "callbacks": self._callbacks.state_dict() if boundary is None else boundary.callbacks,
            "data": self._about_data,
            "identity": self._identity,
        }
        value = self._saver.monitored_value(self)
        self.checkpoints.save(self.global_step, arrays, loop, value=value, gives_way=gives_way)

    def _read_all(self, *, publishes: bool = True) -> None:
        """Waits for all steps under way, and raises if one was not finite; here there are none."""

    @contextmanager
    def _saving_on_exception(self) -> Iterator[None]:
        """Saves the last good step when data, a callback or the machine fail."""
        try:
            yield
        except NonFiniteError:  # there is no good step to save
            raise
        except Exception:
            self._save_last_step()
            raise
        except BaseException as error:
            # A callback may end a run by sys.exit(). Raised elsewhere, by a signal, it may have
            # come between the arrays of a step and its counters.
            if error is self._callbacks.raised and not self._is_cut_short:
                self._save_last_step()
            raise

    def _save_last_step(self) -> None:
        """Saves the last finished step; an error here must not hide the one that ended the run."""
        if self.global_step == 0 or self.run_dir is None or not self._saver.save_on_exception:
            return
        if not self._agreement.is_alone:  # the others know nothing of it
            return
        try:
            self._publish_what_can_be()
            if self._boundary is not None:
                self._state = self._boundary.state
            self._checkpoint_requested = True
            self._save_if_requested()
            if self.checkpoints is not None:
                self.checkpoints.wait()
        except Exception as error:
            logger.error("The last step could not be saved: %s", error)
        else:
            logger.info("Step %d is saved; fit(resume=...) continues from it.", self.global_step)

    def _publish_what_can_be(self) -> None:
        """Reads the steps under way; of a callback whose `on_log` fails they are not published."""
        try:
            self._read_all()
        except NonFiniteError:
            raise
        except Exception as error:
            logger.error("Some metrics could not be published: %s", error)
            self._read_all(publishes=False)

    def _restore(self, saved: Checkpoint) -> None:
        """Takes the arrays, the counters, the records and the callbacks' states."""
        self._state = self._steps.from_host(saved.arrays, like=self._arrays())
        loop = saved.loop
        for name in _RECORDS:
            setattr(self, name, loop[name])
        self.history = History(self.history)
        if self.step_in_epoch and not self._split("train").indexable:
            # The sums begin with the epoch.
            self.step_in_epoch, self.is_epoch_open = 0, False
        if self.step_in_epoch:
            sums = saved.item("metrics")
            leaves, structure = jax.tree.flatten(self._steps.empty)
            window, epoch = (
                [sums[f"{name}/{number}"] for number in range(len(leaves))]
                for name in ("window", "epoch")
            )
            sent = [placed(leaf, self.placement.replicated) for leaf in window]
            self._window = jax.tree.unflatten(structure, sent)
            self._meter = EpochMeter(jax.tree.unflatten(structure, epoch))
        self._callbacks.load_state_dict(loop["callbacks"])
        logger.info(
            "Resuming %s after step %d, epoch %d.", self.run_dir, self.global_step, self.epoch + 1
        )
