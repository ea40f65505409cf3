"""`ProgressBar`: a bar in a terminal or a notebook, and one log line per epoch everywhere."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from nnx_alexnet.callbacks.bar_display import BarDisplay
from nnx_alexnet.callbacks.base import BETWEEN_DISPATCHES, Callback, Stage
from nnx_alexnet.devices import is_main
from nnx_alexnet.support import logger, printable

if TYPE_CHECKING:
    from nnx_alexnet.data import Batch
    from nnx_alexnet.trainer import Trainer

_MIN_BAR_WIDTH = 12  # columns of the bar itself; metrics that would leave fewer are omitted


class ProgressBar(Callback):
    """Shows epoch, steps, remaining time, loss, speed and the metrics of the last validation.

    The bar is redrawn by the clock, from metrics that are already published: it never waits for
    the device, and a step costs no more than reading the clock. In a notebook it is one line of
    text, updated in place. At the end of each epoch, one line with its metrics is logged. Without
    a terminal or a notebook (a file, a batch job), there are only these lines.

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
        if not refresh_seconds > 0:
            raise ValueError(f"`refresh_seconds` (={refresh_seconds!r}) must be more than 0.")
        self.refresh_seconds = refresh_seconds
        self._display = BarDisplay()
        self._next_refresh = 0.0
        self._epoch_start = 0.0

    @property
    def batch_period(self) -> int | None:
        """After every dispatch: the bar depends on the clock."""
        return BETWEEN_DISPATCHES

    def on_train_start(self, trainer: Trainer) -> None:
        """Shows the bar, in a terminal or a notebook."""
        self._next_refresh = time.perf_counter() + self.refresh_seconds
        if is_main():
            self._display.open(
                trainer.global_step, last_step(trainer), partial(_bar_format, trainer)
            )

    def on_train_epoch_start(self, trainer: Trainer) -> None:
        """Starts the clock of the epoch."""
        self._epoch_start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Redraws the bar if `refresh_seconds` have passed."""
        now = time.perf_counter()
        if now < self._next_refresh:
            return
        self._next_refresh = now + self.refresh_seconds
        self._draw(trainer)

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        """Logs the line of the epoch."""
        items = _epoch_items(trainer, time.perf_counter() - self._epoch_start)
        if self._display.is_open:
            logger.info("%s", _wrap(items, self._display.columns))
            self._draw(trainer)
        else:
            logger.info("%s", "  ".join(items))

    def on_train_end(self, trainer: Trainer) -> None:
        """Removes the bar."""
        self._display.close()

    def on_exception(self, trainer: Trainer, exception: BaseException) -> None:
        """Removes the bar before the error is shown."""
        self._display.close()

    def teardown(self, trainer: Trainer, stage: Stage) -> None:
        """Removes the bar, however the run ended."""
        self._display.close()

    def _draw(self, trainer: Trainer) -> None:
        # The length of an iterable is known after its first epoch.
        self._display.draw(trainer.global_step, last_step(trainer), partial(_bar_format, trainer))


def last_step(trainer: Trainer) -> int | None:
    """Returns the step at which the fit will end, None if that is not known.

    Example:
        >>> from types import SimpleNamespace
        >>> last_step(SimpleNamespace(max_steps=None, max_epochs=3, steps_per_epoch=10))
        30
    """
    ends = []
    if trainer.max_steps is not None:
        ends.append(trainer.max_steps)
    if trainer.max_epochs is not None and trainer.steps_per_epoch is not None:
        ends.append(trainer.max_epochs * trainer.steps_per_epoch)
    return min(ends, default=None)


def _epoch(trainer: Trainer) -> str:
    total = "" if trainer.max_epochs is None else f"/{trainer.max_epochs}"
    return f"epoch {trainer.epoch + 1}{total}"


def _bar_format(trainer: Trainer, columns: int) -> str:
    """Returns tqdm's format for the bar; metrics that do not fit are omitted."""
    num_steps = last_step(trainer)
    steps = f"step {trainer.global_step}" + ("" if num_steps is None else f"/{num_steps}")
    # The remaining time is widest when it has hours: 0:00:00.
    room = columns - len(f"{_epoch(trainer)} || {steps}  0:00:00 left")
    shown = ""
    for item in _bar_items(trainer):
        if len(shown) + 2 + len(item) + _MIN_BAR_WIDTH > room:
            break
        shown += f"  {item}"
    shown = shown.replace("{", "{{").replace("}", "}}")  # tqdm formats the text
    if num_steps is None:
        return f"{_epoch(trainer)}  {steps}  {{elapsed}} elapsed{shown}"
    return f"{_epoch(trainer)} |{{bar}}| {steps}  {{remaining}} left{shown}"


def _bar_items(trainer: Trainer) -> list[str]:
    """Returns the newest metrics: loss, speed and the last validation."""
    metrics = trainer.metrics
    losses = [metrics[name] for name in ("train/loss_step", "train/loss") if name in metrics]
    return [
        *(f"loss {loss:.4g}" for loss in losses[:1]),
        *_speed(trainer),
        *(
            f"{printable(name)} {value:.4g}"
            for name, value in metrics.items()
            if name.startswith("val/")
        ),
    ]


def _epoch_items(trainer: Trainer, seconds: float) -> list[str]:
    """Returns the line of an epoch: the metrics that its end produced."""
    items = [_epoch(trainer), f"step {trainer.global_step}"]
    for split in ("train/", "val/"):
        items += [
            f"{printable(name)} {value:.4g}"
            for name in trainer.metrics
            if name.startswith(split)
            and not name.endswith("_step")
            and (value := trainer.current_value(name)) is not None
        ]
    return [*items, *_speed(trainer), f"{seconds:.1f} s"]


def _speed(trainer: Trainer) -> list[str]:
    speed = trainer.metrics.get("perf/images_per_second")
    return [] if speed is None else [f"{speed:.0f} examples/s"]


def _wrap(items: list[str], width: int) -> str:
    """Returns the items on lines of at most `width` columns, broken between items."""
    lines = [items[0]]
    for item in items[1:]:
        if len(lines[-1]) + 2 + len(item) <= width:
            lines[-1] += f"  {item}"
        else:
            lines.append(f"    {item}")
    return "\n".join(lines)
