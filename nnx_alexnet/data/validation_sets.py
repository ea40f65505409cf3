"""Tells several named validation sets from a single validation split."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from nnx_alexnet.data.adapters import is_frame
from nnx_alexnet.data.convert import is_leaf
from nnx_alexnet.data.examples import listed
from nnx_alexnet.data.hugging_face_features import is_kind

_HOW = 'Several sets are a dict of splits, such as val={"clean": (x, y), "shifted": (x2, y2)}.'


def validation_sets(val: Any, train_fields: Callable[[], Collection[str]]) -> dict[str, Any]:
    """Returns the validation splits by the prefix of their metrics.

    A dict is one split if one of its values is an array. It contains several sets if one of its
    values is a dataset or an iterable. If all of its values are dicts, tuples, lists or DataFrames,
    each may be a split, or a pytree of arrays. Then the dict is one split if its keys are fields of
    the train split, and contains several sets if none of them is.

    Args:
        val: one split of any form, a dict of such splits by the names of the sets, or None.
        train_fields: returns the fields of the train split. It is called only if they decide.

    Returns:
        `{}`, `{"val": val}`, or one split for each name, such as `val/clean`.

    Raises:
        ValueError: the dict can be understood in both ways, or the name of a set cannot be part of
            the names of its metrics.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.validation_sets import validation_sets
        >>> split = np.zeros((4, 2)), np.zeros(4, int)
        >>> [*validation_sets({"clean": split, "shifted": split}, lambda: ("image", "label"))]
        ['val/clean', 'val/shifted']
        >>> [*validation_sets({"image": split[0], "label": split[1]}, lambda: ())]
        ['val']
    """
    if val is None:
        return {}
    if not isinstance(val, Mapping) or is_kind(val, "DatasetDict", "IterableDatasetDict"):
        return {"val": val}
    fields = [name for name, value in val.items() if is_leaf(value) and not is_frame(value)]
    splits = [name for name, value in val.items() if _is_certainly_split(value)]
    if fields and splits:
        raise ValueError(
            f"`val` is a dict in which {listed([splits[0]])} is a "
            f"{type(val[splits[0]]).__name__}, and {listed([fields[0]])} is an array. {_HOW} One "
            "split is a dict of arrays."
        )
    if fields or not val:
        return {"val": val}
    if not splits:
        known = {*train_fields()}
        shared = [name for name in val if name in known]
        if len(shared) == len(val):
            return {"val": val}
        if shared:
            other = next(name for name in val if name not in known)
            raise ValueError(
                f"`val` may be one split or several sets: its key {shared[0]!r} is a field of "
                f"`train`, and {other!r} is not. {_HOW} Their names must differ from the fields. "
                "One split has the fields of `train`."
            )
    return {f"val/{_checked(name)}": split for name, split in val.items()}


def _is_certainly_split(value: object) -> bool:
    """Returns whether a value is a dataset or an iterable, and no pytree of arrays."""
    may_be_field = is_leaf(value) or is_frame(value) or isinstance(value, Mapping | tuple | list)
    is_iterable = hasattr(value, "__iter__") or hasattr(value, "__getitem__")
    return is_iterable and not may_be_field and not isinstance(value, type)


def _checked(name: object) -> str:
    if not isinstance(name, str) or re.fullmatch(r"\w[\w.-]*", name) is None:
        raise ValueError(
            f"`val` has a set with the name {name!r}; a name consists of letters, digits, '_', '-' "
            "and '.', because it becomes part of the names of metrics, such as \"val/clean/loss\"."
        )
    return name
