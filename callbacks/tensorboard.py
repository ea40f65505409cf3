"""`TensorBoard`: metrics, images, histograms, texts and the HParams tab, in event files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from nnx_alexnet.callbacks.base import Callback, Stage
from nnx_alexnet.callbacks.tensorboard_output import TensorBoardOutput
from nnx_alexnet.dashboard import (
    NUM_EXAMPLES,
    ClassificationResults,
    MetricWriter,
    begin_session,
    drop_steps,
    end_session,
    write_columns,
    write_inputs,
    write_results,
    write_texts,
)
from nnx_alexnet.support import check_bools, check_integer, unknown

if TYPE_CHECKING:
    from nnx_alexnet.data import Batch
    from nnx_alexnet.trainer import Trainer

ImageKind = Literal[
    "train/images", "model/filters", "val/confusion_matrix", "val/class_accuracy", "val/mistakes"
]
IMAGE_KINDS: tuple[ImageKind, ...] = get_args(ImageKind)


class TensorBoard(Callback):
    """Writes event files for TensorBoard in the run folder.

    Every published metric is written, and one chart shows each metric of training and validation
    together. A fit begins a session of the HParams tab with the configuration of the run, and ends
    it with success or, after an exception or Ctrl-C, with failure. The tab shows the last values
    of the metrics.

    Images and histograms are written after epochs 1, 2, 4, 8, ... and at the end, so their cost
    vanishes in a long run. A background thread draws them while training continues.

    A failure to draw or write never ends training: the first one is logged, and later writes are
    attempted. If the process is killed, drawings that are not finished are lost. Without a run
    folder and without `writer`, this callback does nothing.

    Args:
        writer: an object with the methods of CLU's `MetricWriter`, such as a CLU writer. It must
            accept calls from two threads. It is flushed at the end of each run and never closed.
            None: an event file in `trainer.run_dir`, opened by the first write and closed at the
            end of each run.
        images: which images to write, by their tags (default True: all):

            - `"train/images"`: the first training images of the epoch as the network sees them,
              with augmentation and labels;
            - `"model/filters"`: the filters of the first convolution;
            - `"val/confusion_matrix"` and `"val/class_accuracy"`: how the validation examples of
              each class were classified, for a task with one logit per class;
            - `"val/mistakes"`: the most confident mistakes.

            If there are several validation sets, the first one is drawn.
        histograms: whether to write a histogram of each parameter (default True); large parameters
            are sampled.
        norms: whether to write `norm/parameters`, the Euclidean norm of all parameters, after each
            epoch (default True).
        gradients: whether to write histograms and the norm of the gradients on the first batch of
            the epoch (default False: this compiles a second train step, and costs one more step
            each time).
        texts: whether to write the layers of the model and the configuration (default True).
        every_n_epochs: the period of images and histograms in epochs; None (the default): after
            epochs 1, 2, 4, 8, ...

    Raises:
        ValueError: if `images` has an unknown tag, or `every_n_epochs` is not a positive integer.

    Example:
        >>> from nnx_alexnet.callbacks import TensorBoard
        >>> callbacks = [TensorBoard(images=["model/filters"])]  # then: tensorboard --logdir logs
    """

    def __init__(
        self,
        writer: MetricWriter | None = None,
        *,
        images: bool | Sequence[ImageKind] = True,
        histograms: bool = True,
        norms: bool = True,
        gradients: bool = False,
        texts: bool = True,
        every_n_epochs: int | None = None,
    ):
        check_bools(histograms=histograms, norms=norms, gradients=gradients, texts=texts)
        check_integer("every_n_epochs", every_n_epochs, also=(None,))
        kinds = [*IMAGE_KINDS] if images is True else [*(images or ())]
        for kind in kinds:
            if kind not in IMAGE_KINDS:
                raise unknown("images", kind, IMAGE_KINDS)
        self.images = frozenset(kinds)
        self.histograms = histograms
        self.norms = norms
        self.gradients = gradients
        self.texts = texts
        self.every_n_epochs = every_n_epochs
        self._output = TensorBoardOutput(writer)
        self._reset()

    def _reset(self) -> None:
        self._output.reset()
        self._failed = self._has_columns = False
        self._stage: Stage = "fit"
        self._wants_batch = False
        self._logged: dict[str, int] = {}  # the step at which each metric was written last
        self._results: ClassificationResults | None = None  # of the newest validation
        self._steps: dict[str, int] = {}  # at which the newest of each kind was measured or written

    @property
    def batch_period(self) -> int | None:
        """1 until the first step of an epoch with drawings, else None (never)."""
        return 1 if self._wants_batch else None

    # ---- The session and the metrics ------------------------------------------------------

    def setup(self, trainer: Trainer, stage: Stage) -> None:
        """Notes the stage: only a fit draws."""
        self._stage = stage
        self._logged = {}  # a separate validation or test measures again

    def on_fit_start(self, trainer: Trainer) -> None:
        """Forgets an earlier fit."""
        self._reset()

    def on_train_start(self, trainer: Trainer) -> None:
        """Begins a session, and removes what was written of the steps that will be repeated."""
        # A run without a checkpoint starts again, with its texts of step 0.
        restart = trainer.global_step + 1 if trainer.global_step else 0
        if self._output.owns_writer:
            self._write(trainer, lambda writer: drop_steps(writer.directory, restart))
        self._write(
            trainer,
            lambda writer: begin_session(
                writer,
                config=trainer.config,
                metric_names=trainer.metric_names,
                first_step=restart,
            ),
        )
        if self.texts and restart == 0:
            self._write(
                trainer,
                lambda writer: write_texts(
                    writer,
                    step=0,
                    config=trainer.config,
                    summary=trainer.summary(),
                ),
            )

    def on_log(self, trainer: Trainer, metrics: Mapping[str, float], step: int) -> None:
        """Writes the metrics, each once per step: the end of an epoch publishes some again."""
        values = {**metrics, **_epochs(trainer, step)} if self._stage == "fit" else metrics
        new = {name: value for name, value in values.items() if self._logged.get(name) != step}
        self._logged.update(dict.fromkeys(values, step))
        self._write(trainer, lambda writer: writer.write_scalars(step, new))

    def _write_columns(self, trainer: Trainer) -> None:
        """Writes the columns of the HParams tab once, when all metrics have been published."""
        if not self._has_columns:
            self._has_columns = True
            columns = partial(write_columns, config=trainer.config, metric_names=[*trainer.metrics])
            self._write(trainer, columns)

    def on_exception(self, trainer: Trainer, exception: BaseException) -> None:
        """Notes that the run failed."""
        self._failed = True

    def teardown(self, trainer: Trainer, stage: Stage) -> None:
        """Ends the session and closes the event file, however the run ended."""
        self._output.finish_drawing()
        self._results = None
        if not self._output.is_open:
            return
        if stage == "fit":
            self._write_columns(trainer)
            success = not (self._failed or trainer.interrupted)
            self._write(trainer, partial(end_session, success=success))
        self._output.close()

    # ---- Images and histograms ------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Trainer) -> None:
        """Requests the first batch of an epoch with drawings."""
        wanted = self._can_write(trainer) and ("train/images" in self.images or self.gradients)
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
            gradients = partial(trainer.gradients, batch)
            self._output.draw_histograms(trainer, "gradients", gradients, with_norm=True)

    def on_validation_start(self, trainer: Trainer) -> None:
        """Starts collecting results, if an image of the validation is wanted."""
        wanted = any(kind.startswith("val/") for kind in self.images)
        wanted = wanted and self._stage == "fit" and self._can_write(trainer)
        self._results = ClassificationResults(NUM_EXAMPLES) if wanted else None

    def on_validation_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Collects results of the first validation set, without waiting for the device."""
        is_first_set = trainer.evaluated_split == next(iter(trainer.data.val_sets))
        if self._results is not None and is_first_set:
            try:
                self._results.add(outputs, batch)
            except Exception as error:  # the outputs are those of any task
                self._results = None
                self._output.report_drawing(error)

    def on_validation_end(self, trainer: Trainer) -> None:
        """Notes the step that was validated."""
        self._steps["validated"] = trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        """Draws and writes what is due."""
        number = trainer.epoch + 1
        self._steps["trained"] = trainer.global_step
        if trainer.steps_per_epoch is None:
            self.on_log(trainer, {"epoch": float(number)}, trainer.global_step)
        if all(name in trainer.metrics for name in _val_names(trainer)):
            self._write_columns(trainer)
        if self.norms and self._can_write(trainer):
            self._output.draw_norm(trainer, "parameters", trainer.parameters())
        if self._is_due(number):
            self._write_parameters(trainer)
        if self._is_due(number, period=trainer.validate_every_n_epochs):
            self._write_results(trainer)

    def on_train_end(self, trainer: Trainer) -> None:
        """Draws and writes the last state; after an interruption, the resumed run will."""
        if not trainer.interrupted and self._steps.get("trained") == trainer.global_step:
            self._write_parameters(trainer)
            self._write_results(trainer)

    def _is_due(self, number: int, period: int = 1) -> bool:
        """Returns whether one of the last `period` epochs, up to epoch `number`, has drawings."""

        def num_due(number: int) -> int:
            if self.every_n_epochs is None:
                return number.bit_length()
            return number // self.every_n_epochs

        return num_due(number) > num_due(max(0, number - period))

    def _is_first(self, kind: str, step: int) -> bool:
        is_first = self._steps.get(kind) != step
        self._steps[kind] = step
        return is_first

    def _write_parameters(self, trainer: Trainer) -> None:
        step = trainer.global_step
        if not self._can_write(trainer) or not self._is_first("parameters", step):
            return
        if self.histograms:
            self._output.draw_histograms(trainer, "parameters", trainer.parameters)
        if "model/filters" in self.images:
            self._output.draw_filters(trainer)

    def _write_results(self, trainer: Trainer) -> None:
        step, results = trainer.global_step, self._results
        if results is None or self._steps.get("validated") != step:
            return
        if self._is_first("results", step):
            try:
                results.finish()
            except Exception as error:
                self._output.report_drawing(error)
                return
            drawn = partial(
                write_results,
                step=step,
                results=results,
                class_names=trainer.data.class_names,
                tags=self.images,
            )
            self._draw(trainer, drawn)

    def _can_write(self, trainer: Trainer) -> bool:
        return self._output.can_write(trainer.run_dir)

    def _write(self, trainer: Trainer, action: Callable[[Any], object]) -> None:
        self._output.write(trainer.run_dir, action)

    def _draw(self, trainer: Trainer, action: Callable[[Any], object]) -> None:
        self._output.draw(trainer.run_dir, action)


def _val_names(trainer: Trainer) -> list[str]:
    return [name for name in trainer.epoch_metric_names if name.startswith("val/")]


def _epochs(trainer: Trainer, step: int) -> dict[str, float]:
    """Returns the number of epochs up to a step, if the length of an epoch is known."""
    if trainer.steps_per_epoch is None:
        return {}
    steps = trainer.step_in_epoch - (trainer.global_step - step)
    return {"epoch": trainer.epoch + steps / trainer.steps_per_epoch}
