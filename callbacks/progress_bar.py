"""`ProgressBar`: a bar, and a table with one row per epoch, in a terminal or a notebook."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from nnx_alexnet.callbacks.bar_display import BarDisplay
from nnx_alexnet.callbacks.base import BETWEEN_DISPATCHES, Callback, Stage, last_step
from nnx_alexnet.callbacks.epoch_table import EpochRow, EpochTable
from nnx_alexnet.callbacks.notebook_table import NotebookTable
from nnx_alexnet.devices import is_main
from nnx_alexnet.support import check_number, is_notebook, logger, printable

if TYPE_CHECKING:
    from nnx_alexnet.data import Batch
    from nnx_alexnet.trainer import Trainer

_NUM_LOSSES = 16  # whose mean the bar shows
_MIN_BAR_WIDTH = 12  # columns of the bar itself; metrics that would leave fewer are omitted


class ProgressBar(Callback):
    """Shows epoch, steps, remaining time, loss, speed and the metrics of the last validation.

    The bar is redrawn by the clock. It shows the mean loss of the newest dispatches that have
    finished: it never waits for the device, and a step costs no more than reading the clock. At the
    end of each epoch, its metrics are logged as one row of a table that fits the terminal;
    `metrics.jsonl` has all of them. Without a terminal (a file, a batch job), there is only this
    table, 80 columns wide. In a notebook, table and bar are one output, which is updated in place;
    nothing is logged.

    Args:
        refresh_seconds: the shortest time between two drawings of the bar, in seconds; more
            than 0.

    Raises:
        ValueError: if `refresh_seconds` is not more than 0.

    Example:
        >>> ProgressBar(refresh_seconds=1.0).refresh_seconds
        1.0
    """

    def __init__(self, refresh_seconds: float = 0.25):
        check_number("refresh_seconds", refresh_seconds, "(0, inf)")
        self.refresh_seconds = refresh_seconds
        self._display = BarDisplay()
        self._notebook: NotebookTable | None = None  # instead of the display
        self._table = EpochTable()
        self._losses: deque[Any] = deque(maxlen=_NUM_LOSSES)  # on the device
        self._work: str | None = None  # what the host does instead of training
        self._next_refresh = 0.0
        self._epoch_start = 0.0

    @property
    def batch_period(self) -> int | None:
        """After every dispatch: the bar depends on the clock."""
        return BETWEEN_DISPATCHES

    def on_train_start(self, trainer: Trainer) -> None:
        """Shows the bar, in a terminal or a notebook."""
        self._next_refresh = time.perf_counter() + self.refresh_seconds
        self._table, self._work = EpochTable(), "compiling"
        self._losses.clear()
        if is_main() and is_notebook():
            self._notebook = NotebookTable(_rows_before(trainer), step=trainer.global_step)
            self._draw(trainer)
        elif is_main():
            self._display.open(trainer.global_step, last_step(trainer), self._format(trainer))

    def on_train_epoch_start(self, trainer: Trainer) -> None:
        """Starts the clock of the epoch."""
        self._epoch_start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Redraws the bar if `refresh_seconds` have passed."""
        if self._notebook is not None or self._display.is_open:
            self._losses.append(outputs["loss"])
        now = time.perf_counter()
        if self._work is not None:  # the first step has been compiled
            self._work = None
            self._display.restart_clock()
        elif now < self._next_refresh:
            return
        self._next_refresh = now + self.refresh_seconds
        self._draw(trainer)

    def on_validation_start(self, trainer: Trainer) -> None:
        """Shows that the validation has begun."""
        self._work = "validating"
        self._draw(trainer)

    def on_validation_end(self, trainer: Trainer) -> None:
        """Shows the metrics again when the bar is next drawn."""
        self._work = None

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        """Logs the row of the epoch, or adds it to the table of the notebook."""
        row = _epoch_row(trainer, time.perf_counter() - self._epoch_start)
        if self._notebook is not None:
            self._notebook.add(row)
        else:
            for line in self._table.lines(row, width=self._display.columns):
                logger.info("%s", line)
        self._draw(trainer)

    def on_train_end(self, trainer: Trainer) -> None:
        """Removes the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, exception: BaseException) -> None:
        """Removes the bar before the error is shown."""
        self._close()

    def teardown(self, trainer: Trainer, stage: Stage) -> None:
        """Removes the bar, however the run ended."""
        self._close()

    def _close(self) -> None:
        self._display.close()
        if self._notebook is not None:
            self._notebook.close()
            self._notebook = None

    def _draw(self, trainer: Trainer) -> None:
        # The length of an iterable is known after its first epoch.
        if self._notebook is not None:
            items = self._items(trainer) if self._work is None else [self._work]
            step, end = trainer.global_step, last_step(trainer)
            self._notebook.draw(_epoch(trainer), step, end, items)
        elif self._display.is_open:
            self._display.draw(trainer.global_step, last_step(trainer), self._format(trainer))

    def _format(self, trainer: Trainer) -> Callable[[int], str]:
        """Returns the function from a number of columns to tqdm's format."""
        items = [*self._items(trainer), *_validation_items(trainer)]
        return partial(_bar_format, trainer, self._work, items)

    def _items(self, trainer: Trainer) -> list[str]:
        """Returns the newest loss and speed."""
        loss = finished_mean(self._losses)
        speed = trainer.metrics.get("perf/images_per_second")
        items = [] if loss is None else [f"loss {loss:.4g}"]
        return items if speed is None else [*items, f"{speed:.0f} examples/s"]


def finished_mean(losses: Sequence[Any]) -> float | None:
    """Returns the mean of the losses that the device has computed; None if there are none.

    It does not wait for the others.

    Args:
        losses: scalars; the device may still be computing some of them.

    Example:
        >>> import jax.numpy as jnp
        >>> finished_mean([jnp.float32(0.5), jnp.float32(1.5)])
        1.0
    """
    ready = [loss for loss in losses if loss.is_ready()]
    return float(np.mean([np.asarray(loss) for loss in jax.device_get(ready)])) if ready else None


def _epoch(trainer: Trainer) -> str:
    total = "" if trainer.max_epochs is None else f"/{trainer.max_epochs}"
    return f"epoch {trainer.epoch + 1}{total}"


def _bar_format(trainer: Trainer, work: str | None, items: Sequence[str], columns: int) -> str:
    """Returns tqdm's format for the bar; items that do not fit are omitted."""
    num_steps = last_step(trainer)
    steps = f"step {trainer.global_step}" + ("" if num_steps is None else f"/{num_steps}")
    if work is not None:
        return f"{_epoch(trainer)} |{{bar}}| {steps}  {work}"
    # The remaining time is widest when it has hours: 0:00:00.
    room = columns - len(f"{_epoch(trainer)} || {steps}  0:00:00 left")
    shown = ""
    for item in items:
        if len(shown) + 2 + len(item) + _MIN_BAR_WIDTH > room:
            break
        shown += f"  {item}"
    shown = shown.replace("{", "{{").replace("}", "}}")  # tqdm formats the text
    if num_steps is None:
        return f"{_epoch(trainer)}  {steps}  {{elapsed}} elapsed{shown}"
    return f"{_epoch(trainer)} |{{bar}}| {steps}  {{remaining}} left{shown}"


def _validation_items(trainer: Trainer) -> list[str]:
    """Returns the metrics of the last validation."""
    return [
        f"{printable(name)} {value:.4g}"
        for name, value in trainer.metrics.items()
        if name.startswith("val/")
    ]


def _epoch_row(trainer: Trainer, seconds: float) -> EpochRow:
    """Returns the row of an epoch: the metrics that its end produced."""
    metrics = {
        name: value
        for name in trainer.metrics
        if not name.endswith("_step") and (value := trainer.current_value(name)) is not None
    }
    return EpochRow(
        epoch=trainer.epoch + 1,
        max_epochs=trainer.max_epochs,
        step=trainer.global_step,
        last_step=last_step(trainer),
        metrics=metrics,
        examples_per_second=metrics.get("perf/images_per_second"),
        seconds=seconds,
    )


def _rows_before(trainer: Trainer) -> list[EpochRow]:
    """Returns the rows of the epochs before a resume."""
    return [
        EpochRow(
            epoch=row["epoch"] + 1,
            max_epochs=trainer.max_epochs,
            step=row["step"],
            last_step=last_step(trainer),
            metrics={name: row[name] for name in row if name not in ("epoch", "step")},
            examples_per_second=row.get("perf/images_per_second"),
            seconds=None,
        )
        for row in trainer.history
    ]
