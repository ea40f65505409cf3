"""Tells from the names of metrics which validation sets a run has, and which are of one class."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple


class ClassTable(NamedTuple):
    """The metrics of the classes in one split.

    Attributes:
        metrics: the metrics of all classes, such as `val/f1`; one for each column.
        rows: the values of each class by its name; None if a class has no value.
    """

    metrics: list[str]
    rows: dict[str, list[float | None]]


def validation_splits(names: Collection[str]) -> list[str]:
    """Returns the prefixes of the validation splits, in the order of the names.

    Several sets have the names of `DataModule(val={"clean": ..., "shifted": ...})`.

    Args:
        names: the names of the metrics of a run.

    Returns:
        `["val"]`, or one prefix for each set; `[]` without a metric of validation.

    Example:
        >>> from nnx_alexnet.runs.metric_parts import validation_splits
        >>> validation_splits(["train/loss", "val/loss", "val/f1/cat"])
        ['val']
        >>> validation_splits(["val/clean/loss", "val/clean/f1", "val/shifted/loss", "val/gap"])
        ['val/clean', 'val/shifted']
    """
    found = [name for name in dict.fromkeys(names) if name.startswith("val/")]
    sets = [name.removesuffix("/loss") for name in found if name.endswith("/loss")]
    sets = [name for name in sets if name.count("/") == 1]
    if sets and "val/loss" not in found:
        return sets
    return ["val"] if found else []


def class_metrics(names: Collection[str]) -> dict[str, tuple[str, str]]:
    """Returns the metrics of one class each: with the metric of all classes, and the class.

    Example:
        >>> from nnx_alexnet.runs.metric_parts import class_metrics
        >>> class_metrics(["val/loss", "val/f1", "val/f1/cat", "val/f1/n/a"])
        {'val/f1/cat': ('val/f1', 'cat'), 'val/f1/n/a': ('val/f1', 'n/a')}
    """
    known = {name for name in names if name.startswith(("train/", "val/", "test/"))}
    found = {}
    for name in names:
        parts = name.split("/") if name in known else []
        for end in range(2, len(parts)):
            whole = "/".join(parts[:end])
            if whole in known:
                found[name] = whole, "/".join(parts[end:])
                break
    return found


def class_tables(metrics: Mapping[str, float]) -> list[ClassTable]:
    """Returns a table for each split that has metrics of single classes.

    Args:
        metrics: the values by name.

    Example:
        >>> from nnx_alexnet.runs.metric_parts import class_tables
        >>> class_tables({"val/f1": 0.5, "val/f1/cat": 0.25, "val/f1/dog": 0.75})
        [ClassTable(metrics=['val/f1'], rows={'cat': [0.25], 'dog': [0.75]})]
    """
    values = {place: metrics[name] for name, place in class_metrics(metrics).items()}
    splits: dict[str, list[str]] = {}
    for whole in dict.fromkeys(whole for whole, _ in values):
        splits.setdefault(whole.rpartition("/")[0], []).append(whole)
    return [
        ClassTable(
            columns,
            {
                label: [values.get((whole, label)) for whole in columns]
                for label in dict.fromkeys(label for whole, label in values if whole in columns)
            },
        )
        for columns in splits.values()
    ]
