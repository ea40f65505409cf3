"""Shows a fit in a notebook: a table with one row per epoch, and the progress below it."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence

from nnx_alexnet.callbacks.epoch_table import EpochRow
from nnx_alexnet.runs import class_metrics
from nnx_alexnet.support import (
    NotebookOutput,
    format_duration,
    format_value,
    html_table,
    text_table,
)

_MAX_ROWS = 100  # the whole table is sent again at each drawing


class NotebookTable:
    """A table in the output of a cell, which is replaced at each drawing.

    Args:
        rows: the epochs before a resume.
        step: the step at which the fit starts.

    Example:
        >>> from nnx_alexnet.callbacks.epoch_table import EpochRow
        >>> from nnx_alexnet.callbacks.notebook_table import NotebookTable
        >>> table = NotebookTable([EpochRow(1, 2, 10, 20, {"val/loss": 0.5}, None, None)], step=10)
        >>> print(table.text())
        epoch  step  val/loss  examples/s  time
          1/2    10    0.5000           -     -
    """

    def __init__(self, rows: Sequence[EpochRow] = (), *, step: int = 0) -> None:
        self._rows = [*rows]
        self._output = NotebookOutput()
        self._first_step = step
        # The clock starts after the first drawn step, which includes compilation.
        self._clock: tuple[float, int] | None = None

    def draw(self, epoch: str, step: int, total: int | None, items: Sequence[str]) -> None:
        """Shows the table and the progress.

        Args:
            epoch: the current epoch, such as "epoch 1/6".
            step: the number of optimizer steps so far.
            total: the step at which the fit will end, None if that is not known.
            items: texts after the bar, such as "loss 0.5".
        """
        words = [epoch, f"step {step:,}" if total is None else f"step {step:,} of {total:,}"]
        if (seconds := self._remaining(step, total)) is not None:
            words.append(f"{format_duration(seconds)} left")
        line = " · ".join([*words, *items])
        value = "" if total is None else f' value="{step}" max="{total}"'
        bar = f'<progress{value} style="width:20em;vertical-align:middle"></progress>'
        self._show(f"<div>{bar} {html.escape(line)}</div>", line)

    def add(self, row: EpochRow) -> None:
        """Adds the row of an epoch, which the next drawing shows."""
        self._rows.append(row)

    def close(self) -> None:
        """Removes the progress; the table stays."""
        self._show("", "")

    def text(self) -> str:
        """Returns the table as text."""
        return text_table(self._header(), self._cells()) if self._rows else ""

    def html(self) -> str:
        """Returns the table as HTML."""
        if not self._rows:
            return ""
        hidden = len(self._rows) - _MAX_ROWS
        note = f"<div>The first {hidden:,} epochs are not shown.</div>" if hidden > 0 else ""
        return note + html_table(self._header(), self._cells())

    def _show(self, html: str, text: str) -> None:
        self._output.show(self.html() + html, "\n".join(filter(None, [self.text(), text])))

    def _names(self) -> list[str]:
        """Returns the metrics to show: those of training, of validation, then others.

        Those of single classes are left out.
        """
        every = dict.fromkeys(name for row in self._rows for name in row.metrics)
        left_out = class_metrics(every)
        names = [name for name in every if name not in left_out]
        groups = ("train/", "val/")
        first = [name for group in groups for name in names if name.startswith(group)]
        return [*first, *(name for name in names if not name.startswith((*groups, "perf/")))]

    def _header(self) -> list[str]:
        return ["epoch", "step", *self._names(), "examples/s", "time"]

    def _cells(self) -> list[list[str]]:
        names = self._names()
        return [
            [
                row.position,
                f"{row.step:,}",
                *(_value(row.metrics.get(name)) for name in names),
                _speed(row.examples_per_second),
                row.time,
            ]
            for row in self._rows[-_MAX_ROWS:]
        ]

    def _remaining(self, step: int, total: int | None) -> float | None:
        now = time.perf_counter()
        if self._clock is None:
            if step > self._first_step:
                self._clock = now, step
            return None
        began, first = self._clock
        if total is None or step <= first:
            return None
        return (now - began) / (step - first) * (total - step)


def _value(value: float | None) -> str:
    return "-" if value is None else format_value(value)


def _speed(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
