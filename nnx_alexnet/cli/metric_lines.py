"""The metrics that `nnx-alexnet test` and `validate` print."""

from __future__ import annotations

from collections.abc import Mapping

from nnx_alexnet.runs import class_metrics, class_tables
from nnx_alexnet.support import printable, text_table


def metric_lines(metrics: Mapping[str, float]) -> list[str]:
    """Returns a line for each metric, and for each split a table of those of single classes.

    Example:
        >>> from nnx_alexnet.cli.metric_lines import metric_lines
        >>> values = {"test/f1": 0.5, "test/f1/cat": 0.25, "test/f1/dog": 0.75, "test/loss": 1.5}
        >>> for line in metric_lines(values):
        ...     print(line)
        test/f1    0.5000
        test/loss  1.5000
        class  test/f1
          cat   0.2500
          dog   0.7500
    """
    single = class_metrics(metrics)
    shown = {printable(name): value for name, value in metrics.items() if name not in single}
    width = max(map(len, shown), default=0)
    lines = [f"{name:<{width}}  {value:.4f}" for name, value in shown.items()]
    for columns, rows in class_tables(metrics):
        cells = [
            [label, *("-" if value is None else f"{value:.4f}" for value in values)]
            for label, values in rows.items()
        ]
        lines += text_table(["class", *columns], cells).split("\n")
    return lines
