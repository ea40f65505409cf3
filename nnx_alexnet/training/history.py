"""`History`: the list that `fit` returns; `Metrics`: the dict that `validate` and `test` return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsIndex, overload

from nnx_alexnet.runs import class_metrics, class_tables
from nnx_alexnet.support import format_value, html_table, text_table

_MAX_ROWS = 60  # of a table; of a longer history, the first and the last five are shown


class History(list[dict[str, Any]]):
    """A list of dicts, one per validation, which is shown as a table and can be plotted.

    The table shows the metrics of training and validation first. It omits those of single classes
    and of `perf/`, which the dicts hold.

    Args:
        rows: dicts with `epoch`, `step` and the metrics of that epoch (default none).

    Example:
        >>> from nnx_alexnet.training.history import History
        >>> history = History([{"epoch": 0, "step": 4, "val/loss": 0.5}])
        >>> history
        epoch  step  val/loss
            0     4    0.5000
        >>> history == [{"epoch": 0, "step": 4, "val/loss": 0.5}]
        True
        >>> history.to_pandas()
              epoch  val/loss
        step
        4         0       0.5
    """

    @overload
    def __getitem__(self, place: SupportsIndex, /) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, place: slice, /) -> History: ...
    def __getitem__(self, place: SupportsIndex | slice, /) -> dict[str, Any] | History:
        rows = super().__getitem__(place)
        return History(rows) if isinstance(rows, list) else rows

    def __repr__(self) -> str:
        return self._as(text_table) if self else "History([])"

    def _repr_html_(self) -> str | None:
        """Returns the table for a notebook."""
        return self._as(html_table) if self else None

    def _as(self, table: Callable[[list[str], list[list[str]]], str]) -> str:
        """Returns the history in the form that `table` gives a header and rows."""
        every = self._names()
        left_out = class_metrics(every)
        every = [name for name in every if name not in left_out]
        first = ("epoch", "step", "train/", "val/")
        names = [name for group in first for name in every if name.startswith(group)]
        names += [name for name in every if not name.startswith((*first, "perf/"))]
        rows = [[_cell(row.get(name)) for name in names] for row in self]
        if len(rows) > _MAX_ROWS:
            rows = [*rows[:5], ["..."] * len(names), *rows[-5:]]
        return table(names, rows)

    def _names(self) -> list[str]:
        """Returns the names of all rows, the position first."""
        return [*dict.fromkeys(["epoch", "step", *(name for row in self for name in row)])]

    def plot(self, *metrics: str) -> list[Any]:
        """Draws a chart per metric over the steps, with training and validation in one chart.

        The charts are drawn with `matplotlib.pyplot`: a notebook shows them below the cell, and a
        script calls `plt.show()` or `plt.savefig("curves.png")` afterwards.

        Args:
            *metrics: which metrics to draw: "loss" for `train/loss` and the losses of all
                validation sets, or a whole name such as "lr" (default: all, except those of
                `perf/` and of single classes such as "f1/cat").

        Returns:
            The `matplotlib.axes.Axes` of each chart.

        Raises:
            ValueError: the history is empty, or has no such metric.

        Example:
            >>> import matplotlib.pyplot as plt
            >>> from nnx_alexnet.training.history import History
            >>> rows = [{"epoch": 0, "step": 4, "val/loss": 2.0, "lr": 0.1}]
            >>> charts = History(rows).plot()
            >>> [chart.get_title(loc="left") for chart in charts]
            ['loss', 'lr']
            >>> plt.close("all")
        """
        from nnx_alexnet.training.history_charts import draw

        return draw(self, metrics)

    def to_pandas(self) -> Any:
        """Returns a `pandas.DataFrame` of the rows, with the optimizer step as its index.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                "`to_pandas` needs pandas, which is not installed: `pip install pandas`. Without "
                "it, use the history as a list of dicts."
            ) from error
        return pd.DataFrame(list(self), columns=self._names()).set_index("step")


class Metrics(dict[str, float]):
    """The metrics of a split, which a notebook shows as a table.

    Example:
        >>> from nnx_alexnet.training.history import Metrics
        >>> Metrics({"test/loss": 0.5}) == {"test/loss": 0.5}
        True
    """

    def _repr_html_(self) -> str:
        single = class_metrics(self)
        shown = {name: value for name, value in self.items() if name not in single}
        tables = [html_table([*shown], [[_cell(value) for value in shown.values()]])]
        for metrics, rows in class_tables(self):
            cells = [[label, *map(_cell, values)] for label, values in rows.items()]
            tables.append(html_table(["class", *metrics], cells))
        return "".join(tables)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return format_value(value) if isinstance(value, float) else str(value)
