"""`TensorBoardOutput`: writes for the `TensorBoard` callback; no failure ends training."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from nnx_alexnet.dashboard import (
    MetricWriter,
    first_kernel,
    norm,
    open_writer,
    samples,
    write_filters,
    write_histograms,
    write_norm,
)
from nnx_alexnet.devices import is_main, usual_promotion
from nnx_alexnet.support import logger

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer

_MAX_WAITING = 8  # drawings that have not been started; more would hold too many arrays


class TensorBoardOutput:
    """Writes to one writer, in the calling thread or in a background thread.

    A failure is logged once for writing and once for drawing, and later attempts are made
    regardless. Only the first process writes.

    Args:
        writer: the writer to use, which is never closed. None: an event file in the run folder,
            opened by the first write.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from nnx_alexnet.callbacks.tensorboard_output import TensorBoardOutput
        >>> output = TensorBoardOutput(None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     output.write(Path(folder), lambda writer: writer.write_scalars(1, {"loss": 0.5}))
        ...     output.close()
        ...     len(list(Path(folder).glob("events.out.tfevents.*")))
        1
    """

    def __init__(self, writer: MetricWriter | None):
        self._given = writer
        self._writer: MetricWriter | None = writer
        self._thread: ThreadPoolExecutor | None = None
        self.reset()

    def reset(self) -> None:
        """Forgets which failures were logged."""
        self._failed_write = self._failed_drawing = False
        self._waiting: deque[Future[None]] = deque()

    @property
    def owns_writer(self) -> bool:
        """Whether the event file is opened and closed here."""
        return self._given is None

    @property
    def is_open(self) -> bool:
        """Whether there is a writer."""
        return self._writer is not None

    def can_write(self, run_dir: Path | None) -> bool:
        """Returns whether there is anywhere to write, for a run with that folder."""
        return self._given is not None or run_dir is not None

    def write(self, run_dir: Path | None, action: Callable[[Any], object]) -> None:
        """Calls `action(writer)` now, and opens the event file first if it is not open."""
        if not is_main():
            return
        try:
            if self._writer is None and run_dir is not None:
                self._writer = open_writer(run_dir)
            if self._writer is not None:
                action(self._writer)
        except Exception as error:  # a full disk, or whatever a given writer raises
            if not self._failed_write:
                self._failed_write = True
                logger.warning("TensorBoard could not write, training continues: %s", error)

    def draw(self, run_dir: Path | None, action: Callable[[Any], object]) -> None:
        """Calls `action(writer)` in the background thread, while training continues."""
        self.write(run_dir, bool)  # opens the event file
        writer = self._writer
        if writer is None or not is_main():
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="tensorboard")
        while len(self._waiting) >= _MAX_WAITING:
            self._waiting.popleft().result()

        def run() -> None:
            try:
                # JAX's context managers of the main thread do not apply to this one.
                with jax.transfer_guard("allow"), usual_promotion():
                    action(writer)
            except Exception as error:
                self.report_drawing(error)

        self._waiting.append(self._thread.submit(run))

    def draw_norm(self, trainer: Trainer, kind: str, arrays: Mapping[str, jax.Array]) -> None:
        """Writes the norm of all values of all arrays as `norm/<kind>`."""
        # Computed now, because the next step overwrites the arrays, but read in the background.
        value = trainer.placement.whole(norm(dict(arrays)))
        step, name = trainer.global_step, f"norm/{kind}"
        self.draw(trainer.run_dir, partial(write_norm, step=step, name=name, value=value))

    def draw_histograms(
        self,
        trainer: Trainer,
        kind: str,
        arrays: Callable[[], Mapping[str, jax.Array]],
        *,
        with_norm: bool = False,
    ) -> None:
        """Writes a histogram of each array as `<kind>/<name>`, and their norm if wanted."""
        try:
            named = {f"{kind}/{name}": array for name, array in arrays().items()}
            taken = samples(named)
            sampled = {name: trainer.placement.whole(array) for name, array in taken.items()}
            if with_norm:
                self.draw_norm(trainer, kind, named)
        except Exception as error:  # gradients run the user's train step once more
            self.report_drawing(error)
            return
        step = trainer.global_step
        self.draw(trainer.run_dir, partial(write_histograms, step=step, arrays=sampled))

    def draw_filters(self, trainer: Trainer) -> None:
        """Writes the filters of the first convolution, if the model has one."""
        shape = trainer.data.image_shape
        kernel = None if shape is None else first_kernel(trainer.parameters(), shape)
        if kernel is not None:
            # The next step overwrites the original.
            copy = jnp.array(trainer.placement.whole(kernel), copy=True)
            filters = partial(write_filters, step=trainer.global_step, kernel=copy)
            self.draw(trainer.run_dir, filters)

    def report_drawing(self, error: Exception) -> None:
        """Logs that an image or a histogram is missing, the first time."""
        if not self._failed_drawing:
            self._failed_drawing = True
            logger.warning("TensorBoard could not draw, training continues: %r", error)

    def finish_drawing(self) -> None:
        """Waits for the background thread, and ends it."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def close(self) -> None:
        """Flushes the writer, and closes it unless it was given."""
        self.write(None, lambda writer: writer.flush())
        if self._given is None:
            self.write(None, lambda writer: writer.close())
            self._writer = None
