"""`ProgressBar`: the progress of a fit, in a terminal; elsewhere one line per epoch."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nnx_alexnet.callbacks.base import BETWEEN_DISPATCHES, Callback, Stage
from nnx_alexnet.devices import is_main
from nnx_alexnet.support import is_terminal, logger, printable

if TYPE_CHECKING:
    from nnx_alexnet.data import Batch
    from nnx_alexnet.trainer import Trainer

_MIN_BAR_WIDTH = 12  # columns of the bar itself; metrics that leave less are not shown
_NOTEBOOK_COLUMNS = 100  # what an output cell of usual width shows on one line


class ProgressBar(Callback):
    """Shows a bar with epoch, steps, time left, loss, speed and the last validation's metrics.

    The bar is drawn again by the clock, from metrics that were published already, so it costs a
    step no more than a look at the clock and never waits for the device. In a notebook it is one
    line of text that is updated in place. At each epoch's end one line with the epoch's metrics is
    logged; where there is neither a terminal nor a notebook (a file, a batch job) there are these
    lines only.

    Args:
        refresh_seconds: draw the bar at most this often, in seconds; more than 0.

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
        self._bar: Any = None
        self._columns: Callable[[], int] = _columns
        self._open = contextlib.ExitStack()
        self._next_refresh = 0.0
        self._epoch_start = 0.0

    @property
    def batch_period(self) -> int | None:
        """After each dispatch: the bar goes by the clock."""
        return BETWEEN_DISPATCHES

    def on_train_start(self, trainer: Trainer) -> None:
        """Opens the bar, in a terminal or a notebook."""
        self._next_refresh = time.perf_counter() + self.refresh_seconds
        printer: Callable[[Any], Callable[[str], None]]
        place: dict[str, Any]
        if not is_main():
            return
        if _is_terminal():
            for log in (logger, logging.getLogger()):
                self._open.callback(setattr, log, "handlers", log.handlers)
                log.handlers = [_above_bar(each) for each in log.handlers]
            self._columns, printer, place = _columns, _Line, {"file": sys.stderr}
        elif _is_notebook():
            self._columns = lambda: _NOTEBOOK_COLUMNS
            printer, place = _Cell, {"file": io.StringIO(), "ascii": False}
        else:
            return
        from tqdm.std import tqdm

        # tqdm measures time and makes the text; how it is drawn is ours.
        bar = type("_Bar", (tqdm,), {"status_printer": staticmethod(printer)})
        self._bar = self._open.enter_context(
            bar(
                total=last_step(trainer),
                initial=trainer.global_step,
                bar_format=_bar_format(trainer, self._columns()),
                ncols=self._columns(),
                leave=False,
                mininterval=0,
                miniters=1,
                **place,
            )
        )
        # The clock that tqdm takes may be set back.
        self._bar._time = time.monotonic
        self._bar.start_t = self._bar.last_print_t = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer) -> None:
        """Starts the epoch's clock."""
        self._epoch_start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        """Draws the bar again, if it is time."""
        now = time.perf_counter()
        if now < self._next_refresh:
            return
        self._next_refresh = now + self.refresh_seconds
        self._refresh(trainer)

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        """Logs the epoch's line."""
        items = _epoch_items(trainer, time.perf_counter() - self._epoch_start)
        if self._bar is None:
            logger.info("%s", "  ".join(items))
        else:
            logger.info("%s", _wrap(items, self._columns()))  # names in it are printable
            self._refresh(trainer)

    def teardown(self, trainer: Trainer, stage: Stage) -> None:
        """Removes the bar, however the run ended."""
        self._close()

    def on_train_end(self, trainer: Trainer) -> None:
        """Removes the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, exception: BaseException) -> None:
        """Removes the bar, before the error is shown."""
        self._close()

    def _close(self) -> None:
        self._bar = None
        with contextlib.suppress(Exception):  # tqdm writes to a terminal that may be gone
            self._open.close()

    def _refresh(self, trainer: Trainer) -> None:
        if self._bar is None:
            return
        self._bar.total = last_step(trainer)  # an iterable's is known after its first pass
        self._bar.ncols = self._columns()
        self._bar.bar_format = _bar_format(trainer, self._columns())
        if not self._bar.update(trainer.global_step - self._bar.n):
            self._bar.refresh()  # no step since then, but other metrics


def _above_bar(handler: logging.Handler) -> logging.Handler:
    """Returns a handler that does not write into the bar; another one only if it prints."""
    streams = sys.stdout, sys.stderr
    if isinstance(handler, logging.StreamHandler) and any(handler.stream is s for s in streams):
        return _AboveBar(handler)
    return handler


class _AboveBar(logging.Handler):
    """Writes what a handler would write to the terminal above the bar, not into it."""

    def __init__(self, replaced: logging.StreamHandler[Any]):
        super().__init__(replaced.level)
        self.setFormatter(replaced.formatter)
        self.filters = [*replaced.filters]
        self._stream = replaced.stream

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm.std import tqdm

        with contextlib.suppress(Exception):  # the terminal is gone
            tqdm.write(self.format(record), file=self._stream)


class _Line:
    """Draws a text again and again on the last line of a terminal.

    The cursor waits at the line's beginning. When the terminal gets narrower, it breaks the line
    in two and leaves the cursor there, so that all of it is cleared with the next text; and what
    the terminal itself shows, such as `^C`, does not make the line too long.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def __call__(self, text: str) -> None:
        with contextlib.suppress(Exception):  # the terminal is gone, or was closed
            self._stream.write(f"\r{text[: _columns()]}\x1b[J\r")
            self._stream.flush()


class _Cell:
    """Draws a text again and again at one place of a notebook, where the last one stays."""

    def __init__(self, _stream: Any):
        display = sys.modules["IPython"].display.display
        self._handle = display({"text/plain": ""}, raw=True, display_id=True)

    def __call__(self, text: str) -> None:
        if text:  # tqdm would remove the bar
            self._handle.update({"text/plain": text}, raw=True)


def _is_terminal() -> bool:
    return is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"


def _is_notebook() -> bool:
    """Whether this is the process behind a notebook; IPython in a terminal has no kernel."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def _columns() -> int:
    """Returns how long a line may be: one column is left free, where some terminals wrap."""
    try:
        # The terminal that is drawn on; standard output may go elsewhere.
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (AttributeError, OSError, ValueError):
        columns = shutil.get_terminal_size().columns
    return max(1, columns - 1)


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
    """Returns tqdm's format for the bar now: what does not fit is left out."""
    metrics = trainer.metrics
    num_steps = last_step(trainer)
    items = []
    for name in ("train/loss_step", "train/loss"):
        if name in metrics:
            items.append(f"loss {metrics[name]:.4g}")
            break
    items += _speed(trainer)
    items += [
        f"{printable(name)} {value:.4g}"
        for name, value in metrics.items()
        if name.startswith("val/")
    ]
    steps = f"step {trainer.global_step}" + ("" if num_steps is None else f"/{num_steps}")
    # The time left is the widest when it has hours: 0:00:00.
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


def _epoch_items(trainer: Trainer, seconds: float) -> list[str]:
    """Returns what an epoch's line says: the metrics that were produced at its very end."""
    items = [_epoch(trainer), f"step {trainer.global_step}"]
    for split in ("train/", "val/"):
        items += [
            f"{printable(name)} {value:.4g}"
            for name, value in trainer.metrics.items()
            if name.startswith(split)
            and not name.endswith("_step")
            and trainer.metric_steps.get(name) == trainer.global_step
        ]
    return [*items, *_speed(trainer), f"{seconds:.1f} s"]


def _speed(trainer: Trainer) -> list[str]:
    speed = trainer.metrics.get("perf/images_per_second")
    return [] if speed is None else [f"{speed:.0f} images/s"]


def _wrap(items: list[str], width: int) -> str:
    """Returns the items on lines of at most `width`, broken between items."""
    lines = [items[0]]
    for item in items[1:]:
        if len(lines[-1]) + 2 + len(item) <= width:
            lines[-1] += f"  {item}"
        else:
            lines.append(f"    {item}")
    return "\n".join(lines)
