"""`TensorBoard`: every published metric, and the HParams tab, in event files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from nnx_alexnet.callbacks.base import Callback, Stage
from nnx_alexnet.log import logger

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer


class TensorBoard(Callback):
    """Writes every published metric to an event file in the run's folder.

    A fit begins a session of the HParams tab with the run's configuration, and ends it with success
    or, after an exception or Ctrl-C, failure; the results that the tab shows are the last values of
    the metrics. A file that cannot be written never ends training: that is reported once, and later
    writes are tried again. Without a run folder and without `writer` this does nothing.

    Args:
        writer: an object with the methods of CLU's `MetricWriter`, for instance a CLU writer. It is
            flushed at the end of each run and never closed here. None: a `TensorBoardWriter` in
            `trainer.run_dir`, opened when it is first needed and closed at the end of each run.

    Example:
        >>> from nnx_alexnet.callbacks import TensorBoard
        >>> callbacks = [TensorBoard()]  # then: tensorboard --logdir logs
    """

    def __init__(self, writer: Any = None):
        self._given = writer
        self._writer: Any = writer
        self._failed_write = False
        self._exception = False

    def on_fit_start(self, trainer: Trainer) -> None:
        """Begins a session of the HParams tab."""
        self._failed_write = self._exception = False
        self._attempt(trainer, lambda writer: _begin_session(writer, trainer))

    def on_train_start(self, trainer: Trainer) -> None:
        """Hides what was written of the steps that a resumed run takes again."""
        if self._given is None:
            restart = trainer.global_step + 1
            self._attempt(trainer, lambda writer: writer.write_restart(restart))

    def on_log(self, trainer: Trainer, metrics: Mapping[str, float], step: int) -> None:
        """Writes the metrics."""
        self._attempt(trainer, lambda writer: writer.write_scalars(step, metrics))

    def on_exception(self, trainer: Trainer, exception: BaseException) -> None:
        """Notes that the run failed."""
        self._exception = True

    def teardown(self, trainer: Trainer, stage: Stage) -> None:
        """Ends the session and closes the file, however the run ended."""
        if self._writer is None:
            return
        if stage == "fit":
            success = not (self._exception or trainer.interrupted)
            self._attempt(trainer, lambda writer: _end_session(writer, success))
        self._attempt(trainer, lambda writer: writer.flush())
        if self._given is None:
            self._attempt(trainer, lambda writer: writer.close())
            self._writer = None

    def _attempt(self, trainer: Trainer, action: Callable[[Any], object]) -> None:
        try:
            if self._writer is None and trainer.run_dir is not None:
                from nnx_alexnet.writers import TensorBoardWriter

                self._writer = TensorBoardWriter(trainer.run_dir)
            if self._writer is not None:
                action(self._writer)
        except OSError as error:
            if not self._failed_write:
                self._failed_write = True
                logger.warning("TensorBoard could not write, training goes on: %s", error)


def _begin_session(writer: Any, trainer: Trainer) -> None:
    from nnx_alexnet.writers import TensorBoardWriter

    hparams = flatten(trainer.config)
    if isinstance(writer, TensorBoardWriter):
        results = [name for name in trainer.metric_names if not name.endswith("_step")]
        writer.write_hparams(hparams, metric_names=results)
    else:
        writer.write_hparams(hparams)


def _end_session(writer: Any, success: bool) -> None:
    from nnx_alexnet.writers import TensorBoardWriter

    if isinstance(writer, TensorBoardWriter):
        writer.write_session_end(success=success)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, bool | float | str]:
    """Returns the bools, numbers and strings of a nested configuration by their dotted names.

    Example:
        >>> flatten({"seed": 0, "data": {"name": "digits", "std": [1.0]}})
        {'seed': 0, 'data.name': 'digits'}
    """
    flat: dict[str, bool | float | str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        elif isinstance(value, bool | int | float | str):
            flat[f"{prefix}{name}"] = value
    return flat
