"""`TensorBoard`: metrics, pictures, histograms, texts and the HParams tab, in event files."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import jax
import jax.numpy as jnp

from nnx_alexnet.callbacks.base import Callback, Stage, check_period
from nnx_alexnet.dashboard import (
    NUM_EXAMPLES,
    ClassificationResults,
    begin_session,
    drop_steps,
    end_session,
    first_kernel,
    open_writer,
    samples,
    write_filters,
    write_histograms,
    write_inputs,
    write_results,
    write_texts,
)
from nnx_alexnet.devices import is_main, usual_promotion
from nnx_alexnet.support import logger, unknown

if TYPE_CHECKING:
    from nnx_alexnet.data import Batch
    from nnx_alexnet.trainer import Trainer

Picture = Literal[
    "train/images", "model/filters", "val/confusion_matrix", "val/class_accuracy", "val/mistakes"
]
PICTURES: tuple[Picture, ...] = get_args(Picture)

_MOST_WAITING = 8  # pictures that are still to be drawn


class TensorBoard(Callback):
    """Writes what a run does to an event file in the run's folder.

    Every published metric is written, and one chart holds each metric of training together with
    that of validation. A fit begins a session of the HParams tab with the run's configuration, and
    ends it with success or, after an exception or Ctrl-C, failure; the results that the tab shows
    are the last values of the metrics.

    Pictures and histograms are written after the epochs 1, 2, 4, 8, ... and at the end, so that
    they cost a long run nothing. A thread draws them beside training.

    What cannot be drawn or written never ends training: it is reported once, and later ones are
    tried again. Pictures that were still to be drawn when the process was killed are lost. Without
    a run folder and without `writer` this does nothing.

    Args:
        writer: an object with the methods of CLU's `MetricWriter`, for instance a CLU writer; it
            must take calls from two threads. It is flushed at the end of each run and never closed
            here. None: a `TensorBoardWriter` in `trainer.run_dir`, opened when it is first needed
            and closed at the end of each run.
        images: which pictures, by their tags (default True: all):

            - `"train/images"`: the epoch's first training images as the network sees them, with
              their augmentation and their labels;
            - `"model/filters"`: the filters of the first convolution;
            - `"val/confusion_matrix"`, `"val/class_accuracy"`: which validation examples were
              taken for what, with the names of the classes;
            - `"val/mistakes"`: those that were surely taken for another class.
        histograms: whether to write those of each parameter; of a large one, of a sample.
        gradients: whether to write those of the gradients on the epoch's first batch (default
            False: they take the compilation of a second train step, and one more step each time).
        texts: whether to write the model's layers and the configuration.
        every_n_epochs: the period of pictures and histograms in epochs; None (the default) is
            after 1, 2, 4, 8, ...

    Raises:
        ValueError: an unknown picture, or a wrong period.

    Example:
        >>> from nnx_alexnet.callbacks import TensorBoard
        >>> callbacks = [TensorBoard(images=["model/filters"])]  # then: tensorboard --logdir logs
    """

    def __init__(
        self,
        writer: Any = None,
        *,
        images: bool | Sequence[Picture] = True,
        histograms: bool = True,
        gradients: bool = False,
        texts: bool = True,
        every_n_epochs: int | None = None,
    ):
        check_period("every_n_epochs", every_n_epochs)
        pictures = [*PICTURES] if images is True else [*(images or ())]
        for picture in pictures:
            if picture not in PICTURES:
                raise unknown("images", picture, PICTURES)
        self.images = frozenset(pictures)
        self.histograms = histograms
        self.gradients = gradients
        self.texts = texts
        self.every_n_epochs = every_n_epochs
        self._given = writer
        self._writer: Any = writer
        self._artist: ThreadPoolExecutor | None = None
        self._forget()

    def _forget(self) -> None:
        self._failed_write = self._failed_picture = self._exception = False
        self._stage: Stage = "fit"
        self._drawing: deque[Future[None]] = deque()
        self._wants_batch = False
        self._logged: dict[str, int] = {}  # the step at which each metric was written last
        self._results: ClassificationResults | None = None  # of the newest validation
        self._steps: dict[str, int] = {}  # at which the newest of each kind was measured or written

    @property
    def batch_period(self) -> int | None:
        """The first step of an epoch with pictures; no other."""
        return 1 if self._wants_batch else None

    # ---- The session, and the metrics -----------------------------------------------------

    def setup(self, trainer: Trainer, stage: Stage) -> None:
        """Notes whether this is a fit: a validation alone gets no pictures."""
        self._stage = stage
        self._logged = {}  # each validation or test alone is a measurement of its own

    def on_fit_start(self, trainer: Trainer) -> None:
        """Forgets an earlier fit."""
        self._forget()

    def on_train_start(self, trainer: Trainer) -> None:
        """Begins a session, and takes out what was written of the steps that are taken again."""
        # A run that had no checkpoint yet begins anew, with its texts of step 0.
        restart = trainer.global_step + 1 if trainer.global_step else 0
        if self._given is None:
            self._attempt(trainer, lambda writer: drop_steps(writer.directory, restart))
        is_new = trainer.global_step == 0
        self._attempt(
            trainer,
            lambda writer: begin_session(
                writer,
                config=trainer.config,
                metric_names=trainer.metric_names,
                is_new_run=is_new,
            ),
        )
        if self.texts and is_new:
            self._attempt(
                trainer,
                lambda writer: write_texts(
                    writer,
                    step=0,
                    config=trainer.config,
                    model=trainer.model,
                    data=trainer.data,
                ),
            )

    def on_log(self, trainer: Trainer, metrics: Mapping[str, float], step: int) -> None:
        """Writes the metrics, each once a step: at the end of an epoch some come again."""
        new = {name: value for name, value in metrics.items() if self._logged.get(name) != step}
        self._logged.update(dict.fromkeys(metrics, step))
        self._attempt(trainer, lambda writer: writer.write_scalars(step, new))

    def on_exception(self, trainer: Trainer, exception: BaseException) -> None:
        """Notes that the run failed."""
        self._exception = True

    def teardown(self, trainer: Trainer, stage: Stage) -> None:
        """Ends the session and closes the file, however the run ended."""
        if self._artist is not None:
            self._artist.shutdown()  # when all is drawn
            self._artist = None
        self._results = None
        if self._writer is None:
            return
        if stage == "fit":
            success = not (self._exception or trainer.interrupted)
            self._attempt(trainer, partial(end_session, success=success))
        self._attempt(trainer, lambda writer: writer.flush())
        if self._given is None:
            self._attempt(trainer, lambda writer: writer.close())
            self._writer = None

    # ---- Pictures and histograms ----------------------------------------------------------

    def on_train_epoch_start(self, trainer: Trainer) -> None:
        """Asks for the first batch, if this epoch's is to be shown."""
        wanted = self._writes(trainer) and ("train/images" in self.images or self.gradients)
        is_whole = trainer.step_in_epoch == 0
        self._wants_batch = wanted and is_whole and self._is_due(trainer.epoch + 1)

    def on_train_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Draws the images of the batch, and writes its gradients."""
        self._wants_batch = False
        if "train/images" in self.images:
            inputs = partial(
                write_inputs,
                step=trainer.global_step,
                epoch=trainer.epoch,
                batch=batch,
                data=trainer.data,
                seed=trainer.seed,
            )
            self._draw(trainer, inputs)
        if self.gradients:
            self._write_histograms(trainer, "gradients", lambda: trainer.gradients(batch))

    def on_validation_start(self, trainer: Trainer) -> None:
        """Begins to gather what the validation gets right and wrong."""
        wanted = any(picture.startswith("val/") for picture in self.images)
        wanted = wanted and self._stage == "fit" and self._writes(trainer)
        self._results = ClassificationResults(NUM_EXAMPLES) if wanted else None

    def on_validation_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Gathers, without waiting for the device."""
        if self._results is not None:
            try:
                self._results.add(outputs, batch)
            except Exception as error:  # the outputs are those of a task of the user's own
                self._results = None
                self._report(error)

    def on_validation_end(self, trainer: Trainer) -> None:
        """Notes the step that the validation was of."""
        self._steps["validated"] = trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        """Draws and writes what is due."""
        number = trainer.epoch + 1
        self._steps["trained"] = trainer.global_step
        if self._is_due(number):
            self._write_parameters(trainer)
        if self._is_due(number, period=trainer.validate_every_n_epochs):
            self._write_results(trainer)

    def on_train_end(self, trainer: Trainer) -> None:
        """Draws and writes the last state; an interrupted run will do so when it is resumed."""
        if not trainer.interrupted and self._steps.get("trained") == trainer.global_step:
            self._write_parameters(trainer)
            self._write_results(trainer)

    def _is_due(self, number: int, period: int = 1) -> bool:
        """Whether an epoch with pictures is among the last `period` epochs, `number` the last."""

        def due_until(number: int) -> int:
            return number.bit_length() if self.every_n_epochs is None else number // period_

        period_ = self.every_n_epochs or 1
        return due_until(number) > due_until(max(0, number - period))

    def _is_first(self, kind: str, step: int) -> bool:
        is_first = self._steps.get(kind) != step
        self._steps[kind] = step
        return is_first

    def _write_parameters(self, trainer: Trainer) -> None:
        step = trainer.global_step
        if not self._writes(trainer) or not self._is_first("parameters", step):
            return
        if self.histograms:
            self._write_histograms(trainer, "parameters", trainer.parameters)
        if "model/filters" in self.images:
            kernel = first_kernel(trainer.parameters(), trainer.data.image_shape)
            if kernel is not None:
                # The next step takes the original.
                copy = jnp.array(trainer.placement.whole(kernel), copy=True)
                self._draw(trainer, partial(write_filters, step=step, kernel=copy))

    def _write_results(self, trainer: Trainer) -> None:
        step, results = trainer.global_step, self._results
        if results is None or self._steps.get("validated") != step:
            return
        if self._is_first("results", step):
            try:
                results.finish()
            except Exception as error:
                self._report(error)
                return
            drawn = partial(
                write_results,
                step=step,
                results=results,
                class_names=trainer.data.class_names,
                tags=self.images,
            )
            self._draw(trainer, drawn)

    def _write_histograms(
        self, trainer: Trainer, kind: str, arrays: Callable[[], Mapping[str, jax.Array]]
    ) -> None:
        step = trainer.global_step
        try:
            named = {f"{kind}/{name}": array for name, array in arrays().items()}
            taken = samples(named)
            sampled = {name: trainer.placement.whole(array) for name, array in taken.items()}
        except Exception as error:  # gradients run the user's own train step once more
            self._report(error)
            return
        self._draw(trainer, partial(write_histograms, step=step, arrays=sampled))

    # ---- What may fail ----------------------------------------------------------------------

    def _draw(self, trainer: Trainer, action: Callable[[Any], object]) -> None:
        """Draws and writes beside training."""
        self._attempt(trainer, bool)  # opens the file, if it is not open
        if self._writer is None or not is_main():
            return
        if self._artist is None:
            self._artist = ThreadPoolExecutor(1, thread_name_prefix="tensorboard")
        while len(self._drawing) >= _MOST_WAITING:
            self._drawing.popleft().result()

        def draw() -> None:
            try:
                # The settings of this thread are those of the process.
                with jax.transfer_guard("allow"), usual_promotion():
                    action(self._writer)
            except Exception as error:
                self._report(error)

        self._drawing.append(self._artist.submit(draw))

    def _writes(self, trainer: Trainer) -> bool:
        return self._given is not None or trainer.run_dir is not None

    def _report(self, error: Exception) -> None:
        if not self._failed_picture:
            self._failed_picture = True
            logger.warning("TensorBoard lacks a picture, training goes on: %r", error)

    def _attempt(self, trainer: Trainer, action: Callable[[Any], object]) -> None:
        if not is_main():
            return
        try:
            if self._writer is None and trainer.run_dir is not None:
                self._writer = open_writer(trainer.run_dir)
            if self._writer is not None:
                action(self._writer)
        except Exception as error:  # a full disk, or whatever a given writer raises
            if not self._failed_write:
                self._failed_write = True
                logger.warning("TensorBoard could not write, training goes on: %s", error)
