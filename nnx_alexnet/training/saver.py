"""`Saver`: what a checkpoint contains, when it is written, and how a run resumes from it.

A checkpoint is taken between two steps, when all counters have advanced and all steps so far are
known to be finite. `(epoch, step_in_epoch, global_step)` specifies where the run continues. The
sums of the open epoch, the records, the states of the callbacks and the position in an iterable are
part of the checkpoint, so a resumed run does not differ from an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from nnx_alexnet.callbacks import ModelCheckpoint
from nnx_alexnet.checkpoints import Checkpoint
from nnx_alexnet.data import IterableBatches
from nnx_alexnet.devices import NonFiniteError
from nnx_alexnet.support import format_count, logger
from nnx_alexnet.training.dispatcher import Dispatcher
from nnx_alexnet.training.hooks import Hooks
from nnx_alexnet.training.model_arrays import ModelArrays
from nnx_alexnet.training.progress import Progress
from nnx_alexnet.training.requests import Requests, SaveRequest
from nnx_alexnet.training.run import Run
from nnx_alexnet.training.step_functions import State


class _Boundary(NamedTuple):
    """The state of a run between the last step of an epoch and the hooks that end the epoch.

    Attributes:
        state: the arrays, which a hook may change for the validation.
        callbacks: the states of the callbacks.
    """

    state: State
    callbacks: dict[str, dict[str, Any]]


class Saver:
    """Writes the state of a run to its checkpoints, and reads it back.

    Args:
        progress: the counters and records.
        arrays: the model and the optimizer.
        dispatcher: the sums of the open epoch.
        hooks: the states of the callbacks.
        requests: determine when a checkpoint is due.
        run: the folder.
        policy: the metric that ranks checkpoints, and whether a failed run saves its last step;
            None if nothing is written.
        stream: the training data if they are an iterable, whose position is saved.
    """

    def __init__(
        self,
        *,
        progress: Progress,
        arrays: ModelArrays,
        dispatcher: Dispatcher,
        hooks: Hooks,
        requests: Requests,
        run: Run,
        policy: ModelCheckpoint | None,
        stream: IterableBatches | None = None,
    ) -> None:
        self._progress = progress
        self._arrays = arrays
        self._dispatcher = dispatcher
        self._hooks = hooks
        self._requests = requests
        self._run = run
        self._policy = policy
        self._stream = stream
        self._boundary: _Boundary | None = None  # while an epoch ends

    def save_if_asked(self) -> None:
        """Saves this step if a checkpoint was requested since the last call."""
        request = self._requests.take_save()
        if request is not None and self._run.run_dir is not None:
            self._save(request)

    def _save(self, request: SaveRequest) -> None:
        self._dispatcher.read_all()  # a step that is not finite must not be saved
        arrays = self._arrays.to_host()
        checkpoints = self._run.checkpoints
        if checkpoints is None:  # another process writes
            return
        if checkpoints.has_written:
            self._run.on_saved()
        if self._progress.step_in_epoch:
            sums = self._dispatcher.sums()
            arrays |= {f"metrics/{name}": value for name, value in sums.items()}
        states = (
            self._hooks.callbacks.state_dict()
            if self._boundary is None
            else self._boundary.callbacks
        )
        loop = {
            **self._progress.to_json(),
            "callbacks": states,
            "data": self._run.about_data,
            "identity": self._run.identity,
            "model_class": self._arrays.model_class,
        }
        if self._stream is not None:
            progress = self._progress
            loop["stream"] = self._stream.position(progress.epoch, progress.step_in_epoch)
        ranked_by = None if self._policy is None else self._policy.ranked_by
        checkpoints.save(
            self._progress.global_step,
            arrays,
            loop,
            value=self._progress.current_value(ranked_by),
            gives_way=request.gives_way,
        )

    def wait(self) -> None:
        """Waits until all checkpoints are written."""
        if self._run.checkpoints is not None:
            self._run.checkpoints.wait()

    def begin_end_of_epoch(self) -> None:
        """Marks the end of an epoch, until `epoch_ended`.

        If it fails or is interrupted, the resumed run repeats all of it. Checkpoints saved until
        then therefore contain the callbacks' states of now.
        """
        self._boundary = _Boundary(self._arrays.take(), self._hooks.callbacks.state_dict())

    def epoch_ended(self) -> None:
        """Marks that the end of the epoch need not be repeated."""
        self._boundary = None

    def restore(self, saved: Checkpoint, accept: Sequence[str] = ()) -> None:
        """Continues from a checkpoint.

        Args:
            saved: the checkpoint.
            accept: "stream" accepts an iterable of training data that yields other examples.

        Raises:
            ValueError: the training data do not continue where the saved run stopped.
        """
        can_continue = self._stream is None or self._stream.restore(
            saved.loop.get("stream"),
            epoch=saved.loop["epoch"],
            step=saved.loop["step_in_epoch"],
            accepts_other="stream" in accept,
        )
        self._arrays.restore(saved.arrays)
        self._progress.restore(saved.loop, repeats_epoch=not can_continue)
        if self._progress.step_in_epoch:
            self._dispatcher.restore_sums(saved.item("metrics"))
        self._hooks.callbacks.load_state_dict(saved.loop["callbacks"])
        progress = self._progress
        place = f"{format_count(progress.epoch, 'epoch')} done"
        if progress.step_in_epoch:
            place = f"in epoch {progress.epoch + 1}"
        step = progress.global_step
        logger.info("Resuming %s after step %d, %s.", self._run.run_dir, step, place)

    # ---- When the run fails ---------------------------------------------------------------------

    @contextmanager
    def saving_on_exception(self) -> Iterator[None]:
        """Saves the last good step if data, a callback or the machine fails."""
        try:
            yield
        except NonFiniteError:  # there is no good step to save
            raise
        except Exception:
            self._save_last_step()
            raise
        except BaseException as error:
            # A callback may end a run by sys.exit(). If a signal raised it elsewhere, the arrays
            # of a step may have changed without its counters.
            if error is self._hooks.callbacks.raised and not self._requests.is_cut_short:
                self._save_last_step()
            raise
        finally:
            self._boundary = None  # it holds all arrays

    def _save_last_step(self) -> None:
        """Saves the last finished step; an error here must not hide the one that ended the run."""
        if self._progress.global_step == 0 or self._run.run_dir is None:
            return
        if self._policy is None or not self._policy.save_on_exception:
            return
        if not self._requests.is_alone:  # the other processes would not take part
            return
        try:
            self._read_what_can_be_read()
            if self._boundary is not None:
                self._arrays.put(self._boundary.state)
            self._save(self._requests.take_save() or SaveRequest(gives_way=True))
            self.wait()
        except Exception as error:
            logger.error("The last step could not be saved: %s", error)
        else:
            step = self._progress.global_step
            logger.info("Step %d is saved; fit(resume=...) continues from it.", step)

    def _read_what_can_be_read(self) -> None:
        """Reads the steps under way; does not publish the rest if a callback's `on_log` fails."""
        try:
            self._dispatcher.read_all()
        except NonFiniteError:
            raise
        except Exception as error:
            logger.error("Some metrics could not be published: %s", error)
            self._dispatcher.read_all(publishes=False)
