"""`History`: the list that `fit` returns."""

from __future__ import annotations

from typing import Any


class History(list[dict[str, Any]]):
    """A list of dicts, one per validation, that can be converted to a pandas `DataFrame`.

    Args:
        rows: dicts with `epoch`, `step` and the metrics of that epoch (default none).

    Example:
        >>> from nnx_alexnet.training.history import History
        >>> history = History([{"epoch": 0, "step": 4, "val/loss": 0.5}])
        >>> history == [{"epoch": 0, "step": 4, "val/loss": 0.5}]
        True
        >>> history.to_pandas()
              epoch  val/loss
        step
        4         0       0.5
    """

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
        names = dict.fromkeys(["step", *(name for row in self for name in row)])
        return pd.DataFrame(list(self), columns=[*names]).set_index("step")
