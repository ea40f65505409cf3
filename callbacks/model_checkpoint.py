"""`ModelCheckpoint`: when to save, and which checkpoints to keep."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nnx_alexnet.callbacks.base import BETWEEN_DISPATCHES, Callback, Stage
from nnx_alexnet.callbacks.metric_monitor import MissedValues, check_direction, check_monitor
from nnx_alexnet.devices import is_main
from nnx_alexnet.support import (
    Mode,
    check_bools,
    check_integer,
    check_mode,
    check_number,
    logger,
    unknown,
)

if TYPE_CHECKING:
    from nnx_alexnet.checkpoints import Checkpoints, OnSaveError
    from nnx_alexnet.data import Batch
    from nnx_alexnet.trainer import Trainer


class ModelCheckpoint(Callback):
    """Requests checkpoints, and decides which to keep: the latest, and the best by a metric.

    A checkpoint is kept if it is one of the `keep_latest` newest OR one of the `save_top_k` best,
    so the newest state can always be resumed. Saves by epochs and steps depend only on
    `trainer.epoch` and `trainer.global_step`, so a resumed run saves at the same steps as an
    uninterrupted one. The last state of a fit is always saved. A value is never the best if it is
    not finite, or if it was measured at another step. If values are equal, the earliest is the
    best.

    Args:
        monitor: the metric that ranks checkpoints, such as `"val/accuracy"`; None: no ranking.
            `"auto"` (the default): `"val/loss"`, or the loss of the first of several validation
            sets, if the fit publishes it; otherwise no ranking.
        mode: `"min"` (the default) if smaller is better, `"max"` if larger is; `"max"` needs the
            name of a `monitor`.
        save_top_k: how many of the best to keep (default 1); 0: no ranking.
        keep_latest: how many of the newest to keep (default 2); 1 or more. With 2, there is a
            fallback if the newest is damaged.
        every_n_epochs: save at the end of every n-th epoch; None: not at the ends of epochs.
            `"auto"` (the default): at the end of every epoch and after each validation within it,
            as long as saving takes at most 5% of the time. While a save is running, and for 19
            times as long as it took, only checkpoints among the `save_top_k` best are requested.
            Such a checkpoint waits in memory for that time, while training continues. If better
            ones have replaced it by then, it is not written. Only one checkpoint waits: if the
            next one is among the `save_top_k` best too, the first one is written at once.
        every_n_steps: save after every n-th optimizer step; None (the default): not by steps.
        every_n_seconds: save at the next step once this many seconds have passed since the last
            such save; None (the default): not by the clock.
        save_on_exception: whether to save the last finished step when an exception ends the fit,
            so that a resumed run continues from it (default True).
        restore_best: whether the model ends with the weights of the best checkpoint, whatever ended
            `fit`, unless an exception did (default False). The last checkpoint and a resumed run
            keep the last weights. The best checkpoint is read once, at the end.
        on_error: what happens if a save fails, for example on a full disk: `"raise"` (the
            default) ends the run, `"warn"` logs a warning. Earlier checkpoints stay in both cases.

    Attributes:
        ranked_by: the metric that ranks the checkpoints of the newest fit, None if there is none.

    Raises:
        ValueError: if an argument is out of range; in `setup` of a fit, if the fit cannot publish
            the metric or has no `log_dir`.

    Example:
        >>> saver = ModelCheckpoint("val/accuracy", mode="max", save_top_k=3, every_n_steps=1000)
        >>> saver.best_path is None  # before the first save
        True
    """

    priority = 100  # after the callbacks whose state is saved

    def __init__(
        self,
        monitor: str | None = "auto",
        *,
        mode: Mode = "min",
        save_top_k: int = 1,
        keep_latest: int = 2,
        every_n_epochs: int | Literal["auto"] | None = "auto",
        every_n_steps: int | None = None,
        every_n_seconds: float | None = None,
        save_on_exception: bool = True,
        restore_best: bool = False,
        on_error: OnSaveError = "raise",
    ):
        check_mode(mode)
        if mode == "max" and monitor == "auto":
            raise ValueError(
                '`mode` (=\'max\') needs a `monitor`, such as "val/accuracy": "auto" ranks by '
                "val/loss, where smaller is better."
            )
        if on_error not in ("raise", "warn"):
            raise unknown("on_error", on_error, ("raise", "warn"))
        if every_n_seconds is not None:
            check_number("every_n_seconds", every_n_seconds, "(0, inf)", reason="None means never")
        check_bools(save_on_exception=save_on_exception, restore_best=restore_best)
        check_integer("every_n_epochs", every_n_epochs, also=("auto", None))
        check_integer("every_n_steps", every_n_steps, also=(None,))
        check_integer("save_top_k", save_top_k, minimum=0)
        check_integer("keep_latest", keep_latest, reason="a run resumes from the latest checkpoint")
        self.monitor = monitor
        self.mode = mode
        self.save_top_k = save_top_k
        self.keep_latest = keep_latest
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps
        self.every_n_seconds = every_n_seconds
        self.save_on_exception = save_on_exception
        self.restore_best = restore_best
        self.on_error: OnSaveError = on_error
        self.ranked_by: str | None = None
        self._last_timed = 0.0
        self._missed = MissedValues("", "")
        self._trainer: Trainer | None = None

    @property
    def batch_period(self) -> int | None:
        """`every_n_steps`, where None means never.

        With `every_n_seconds`, the hook runs after every dispatch, or after every step if both are
        set.
        """
        if self.every_n_seconds is None:
            return self.every_n_steps
        return BETWEEN_DISPATCHES if self.every_n_steps is None else 1

    @property
    def best_path(self) -> Path | None:
        """The folder of the best checkpoint; None without a ranking, or before the first save.

        Only the first process knows it.
        """
        checkpoints = self._checkpoints
        if self.ranked_by is None or checkpoints is None or checkpoints.best_step is None:
            return None
        return checkpoints.path(checkpoints.best_step)

    @property
    def best_value(self) -> float | None:
        """The value of the best checkpoint; None without a ranking, or before the first save."""
        checkpoints = self._checkpoints
        return None if self.ranked_by is None or checkpoints is None else checkpoints.best_value

    @property
    def last_path(self) -> Path | None:
        """The folder of the newest checkpoint; None before the first save."""
        checkpoints = self._checkpoints
        if checkpoints is None or checkpoints.latest_step is None:
            return None
        return checkpoints.path(checkpoints.latest_step)

    @property
    def _checkpoints(self) -> Checkpoints | None:
        return None if self._trainer is None else self._trainer.checkpoints

    def setup(self, trainer: Trainer, stage: Stage) -> None:
        """Refuses a fit that cannot publish the metric or has no folder.

        For the other stages, logs if the model does not have the best weights of the earlier fit.
        """
        if stage == "fit":
            if trainer.log_dir is None:
                raise ValueError(
                    "`callbacks` holds a ModelCheckpoint, but `log_dir` is None: there is no "
                    "folder to save to. Pass a `log_dir`, or remove the ModelCheckpoint."
                )
            self.ranked_by = self._choose_metric(trainer)
            if self.restore_best and self.ranked_by is None:
                raise ValueError(
                    f"`restore_best` (=True) needs a metric that ranks the checkpoints, but "
                    f"`monitor` (={self.monitor!r}) and `save_top_k` (={self.save_top_k}) rank "
                    'none in this fit. Pass a `monitor`, such as "train/loss".'
                )
            self._missed = MissedValues(self.ranked_by or "", type(self).__name__)
            self._trainer = trainer
        elif _has_best_weights(trainer):
            return
        elif (best := self.best_path) is not None and int(best.name) != trainer.global_step:
            logger.info(
                "`%s` uses the weights in the model: those of the end of the fit at step %d, "
                "unless others were loaded since. load_checkpoint(trainer.run_dir, trainer.model) "
                "loads the best weights, from step %s (%s %.4g).",
                stage, trainer.global_step, best.name, self.ranked_by, self.best_value,
            )  # fmt: skip

    def _choose_metric(self, trainer: Trainer) -> str | None:
        if self.monitor == "auto":
            loss = f"{next(iter(trainer.data.val_sets), 'val')}/loss"
            name = loss if loss in trainer.metric_names else None
        else:
            name = self.monitor
            if name is not None:
                check_monitor(name, trainer)
                if self.save_top_k:
                    check_direction(name, self.mode)
        return name if self.save_top_k else None

    def on_train_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Requests a checkpoint that is due by steps or by the clock."""
        if self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0:
            trainer.request_checkpoint()
        if self.every_n_seconds is not None and is_main():  # the clocks of processes differ
            now = time.monotonic()
            if now - self._last_timed >= self.every_n_seconds:
                self._last_timed = now
                trainer.request_checkpoint()

    def on_train_start(self, trainer: Trainer) -> None:
        """Starts the clock of `every_n_seconds`."""
        self._last_timed = time.monotonic()

    def on_validation_end(self, trainer: Trainer) -> None:
        """Requests a checkpoint after a validation within an epoch, if `"auto"` asks for it."""
        if trainer.is_validating_within_epoch and self.every_n_epochs == "auto":
            self._request_in_time(trainer)

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        """Requests a checkpoint that is due by epochs, or in time for `"auto"`."""
        if self.ranked_by is not None:
            self._missed.note(trainer)
        if self.every_n_epochs == "auto":
            self._request_in_time(trainer)
        elif self.every_n_epochs is not None and (trainer.epoch + 1) % self.every_n_epochs == 0:
            trainer.request_checkpoint()

    def _request_in_time(self, trainer: Trainer) -> None:
        checkpoints = trainer.checkpoints  # None in all processes but the first
        if checkpoints is not None:
            if checkpoints.has_rested:
                trainer.request_checkpoint()
            elif checkpoints.would_be_best(trainer.current_value(self.ranked_by)):
                trainer.request_checkpoint(gives_way=True)

    def on_train_end(self, trainer: Trainer) -> None:
        """Requests a checkpoint of the last state; the trainer never saves a step twice."""
        self._missed.warn()
        trainer.request_checkpoint()


def _has_best_weights(trainer: Trainer) -> bool:
    """Returns whether a fit ends with the best weights in the model."""
    return any(getattr(callback, "restore_best", False) for callback in trainer.callbacks)
