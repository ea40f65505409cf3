"""`Profiler`: traces some train steps for TensorBoard's Profile tab."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax

from nnx_alexnet.callbacks.base import Callback, Stage
from nnx_alexnet.devices import is_main
from nnx_alexnet.support import check_integer, logger

if TYPE_CHECKING:
    from nnx_alexnet.data import Batch
    from nnx_alexnet.trainer import Trainer


class Profiler(Callback):
    """Traces some steps of a fit with `jax.profiler`, and writes the trace to the run folder.

    Each dispatch is marked with its step. TensorBoard shows the trace in its Profile tab if xprof
    is installed (the extra `profile`). Keep the trace short: it slows the traced steps, and takes
    megabytes. A run that is resumed after `start_step` traces nothing. With several processes,
    only the first one is traced.

    Args:
        start_step: the number of steps before the trace (default 10: the first one compiles).
        num_steps: the number of traced steps (default 5).

    Raises:
        ValueError: if an argument is not a positive integer; in `setup` of a fit, if there is no
            `log_dir`.

    Source: https://docs.jax.dev/en/latest/profiling.html

    Example:
        >>> from nnx_alexnet.callbacks import Profiler
        >>> callbacks = [Profiler(start_step=100, num_steps=3)]
    """

    def __init__(self, start_step: int = 10, num_steps: int = 5):
        check_integer("start_step", start_step)
        check_integer("num_steps", num_steps)
        self.start_step = start_step
        self.num_steps = num_steps
        self._next_step: int | None = None  # the step at which the trace begins or ends
        self._is_tracing = False

    @property
    def batch_period(self) -> int | None:
        """The step at which the trace begins, then the one at which it ends, then never."""
        return self._next_step

    def setup(self, trainer: Trainer, stage: Stage) -> None:
        """Refuses a run without a folder."""
        if stage == "fit" and trainer.log_dir is None:
            raise ValueError(
                "`callbacks` holds a Profiler, but `log_dir` is None: there is no folder "
                "for the trace. Pass a `log_dir`, or remove the Profiler."
            )

    def on_train_start(self, trainer: Trainer) -> None:
        """Schedules the trace, unless the run is past its first step."""
        is_ahead = trainer.global_step < self.start_step
        self._next_step = self.start_step if is_ahead else None

    def on_train_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Begins or ends the trace."""
        assert self._next_step is not None, "the hook runs at that step only"
        jax.block_until_ready(outputs)  # earlier steps do not belong to the trace
        if self._next_step != self.start_step:
            self._next_step = None
            if self._is_tracing:
                self._stop(trainer)
            return
        # In every process, traced or not: all must dispatch the same steps together.
        self._next_step = self.start_step + self.num_steps
        if is_main():
            try:
                jax.profiler.start_trace(str(trainer.run_dir))
            except Exception as error:  # another trace is running, or the disk is full
                logger.warning("The profiler could not start, training continues: %s", error)
            else:
                self._is_tracing = True

    def teardown(self, trainer: Trainer, stage: Stage) -> None:
        """Ends the trace of a run that ended before it."""
        self._next_step = None
        if self._is_tracing:
            self._stop(trainer)

    def _stop(self, trainer: Trainer) -> None:
        self._is_tracing = False
        try:
            jax.profiler.stop_trace()
        except Exception as error:
            logger.warning("The trace could not be written, training continues: %s", error)
        else:
            logger.info(
                "The trace of steps %d to %d is in %s.",
                self.start_step + 1, trainer.global_step, trainer.run_dir,
            )  # fmt: skip
