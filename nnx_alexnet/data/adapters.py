"""Converts datasets of other libraries to the forms that a split may have.

No library is imported here: a program that passes an object of a library has imported it.
"""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnx_alexnet.data import grain_pipelines
from nnx_alexnet.data.example_batches import ExampleBatches
from nnx_alexnet.data.hugging_face import HuggingFaceRows
from nnx_alexnet.data.hugging_face_features import class_names, is_kind
from nnx_alexnet.data.hugging_face_streams import StreamedRows, example_features, yields_batches
from nnx_alexnet.data.padding import Padding


def adapted(
    value: Any,
    *,
    argument: str,
    batch_size: int = 64,
    drop_last: bool = False,
    padding: Padding | None = None,
) -> Any:
    """Returns a split as a dict of arrays, a map-style dataset or an iterable of batches.

    - Hugging Face `datasets`: a `Dataset` becomes a map-style dataset; the examples of an
      `IterableDataset` are put into batches, unless its method `batch` did that.
    - Grain: a `MapDataset` of examples becomes a map-style dataset. The batches of any pipeline are
      iterated as they are. The examples of other pipelines are put into batches.
    - `tf.data.Dataset`: its batches are iterated as NumPy arrays.
    - A pandas `DataFrame` becomes a dict of its columns.

    Args:
        value: a split of any form.
        argument: what the user calls the split, for errors.
        batch_size: rows of a batch, where examples are put into batches.
        drop_last: whether an incomplete last batch is left out, in the same case.
        padding: the lengths to which sequences are padded, in the same case.

    Returns:
        The converted split, or the value itself if it is none of these.

    Raises:
        ValueError: the value contains several splits, or columns that are not numbers.

    Example:
        >>> import pandas
        >>> from nnx_alexnet.data.adapters import adapted
        >>> adapted(pandas.DataFrame({"x": [1, 2]}), argument="train")
        {'x': array([1, 2])}
    """
    sizes: dict[str, Any] = {"batch_size": batch_size, "drop_last": drop_last, "padding": padding}
    if is_kind(value, "DatasetDict", "IterableDatasetDict"):
        raise _several_splits(value, argument)
    if is_kind(value, "Dataset"):
        return HuggingFaceRows(value, argument)
    if is_kind(value, "IterableDataset"):
        rows = StreamedRows(value, argument)
        return rows if yields_batches(value) else ExampleBatches(rows, argument, **sizes)
    if grain_pipelines.is_kind(value, "MapDataset", "IterDataset", "DataLoader"):
        return grain_pipelines.adapted_pipeline(value, argument, **sizes)
    if callable(getattr(value, "as_numpy_iterator", None)):
        return TensorFlowBatches(value, argument)
    if is_frame(value):
        return frame_columns(value, argument)
    return value


def known_class_names(value: Any) -> tuple[str, ...] | None:
    """Returns the names of the classes in a dataset of Hugging Face; None without such names.

    Example:
        >>> from nnx_alexnet.data.adapters import known_class_names
        >>> known_class_names([1, 2]) is None
        True
    """
    if is_kind(value, "IterableDataset"):
        return class_names(example_features(value))
    return class_names(value.features) if is_kind(value, "Dataset") else None


class TensorFlowBatches:
    """An iterable of the batches of a `tf.data.Dataset` as NumPy arrays.

    Args:
        dataset: a `tf.data.Dataset` of batches.
        argument: what the user calls the split, for errors.

    Raises:
        ValueError: the dataset yields single examples.
    """

    def __init__(self, dataset: Any, argument: str = "data") -> None:
        self._dataset = dataset
        shapes = [getattr(leaf, "shape", None) for leaf in _leaves(dataset.element_spec)]
        if any(getattr(shape, "rank", None) == 0 for shape in shapes):
            raise ValueError(
                f"`{argument}` is a tf.data.Dataset of single examples. Put them into batches: "
                "dataset.batch(64)."
            )

    def __iter__(self) -> Iterator[Any]:
        iterator: Iterator[Any] = self._dataset.as_numpy_iterator()
        return iterator

    def __len__(self) -> int:
        return len(self._dataset)  # raises a TypeError if the length is infinite or unknown


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict | tuple | list):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(part)
    else:
        yield tree


def is_frame(value: object) -> bool:
    """Returns whether a value is a pandas DataFrame, without importing pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)


def frame_columns(frame: Any, argument: str = "data") -> dict[str, np.ndarray]:
    """Returns the columns of a pandas `DataFrame` as arrays.

    Args:
        frame: the rows, whose index is not used.
        argument: what the user calls the split, for errors.

    Raises:
        ValueError: a column is not numbers, or two columns have the same name.

    Example:
        >>> import pandas
        >>> from nnx_alexnet.data.adapters import frame_columns
        >>> frame_columns(pandas.DataFrame({"x": [1, 2], "name": ["a", "b"]}), "train")
        Traceback (most recent call last):
        ValueError: `train` has columns that are not numbers: 'name' (str). Leave them out,
        frame.drop(columns=['name']), or convert them, for example to codes of categories:
        frame[name].astype("category").cat.codes.
    """
    if len({*map(str, frame.columns)}) < len(frame.columns):
        raise ValueError(
            f"`{argument}` has two columns with the same name; its columns are {[*frame.columns]}. "
            "Give them different names."
        )
    arrays = {str(name): frame[name].to_numpy() for name in frame.columns}
    unusable = {
        name: str(frame[name].dtype)
        for name in frame.columns
        if arrays[str(name)].dtype.kind not in "biufc"
    }
    if unusable:
        shown = ", ".join(f"{name!r} ({kind})" for name, kind in unusable.items())
        raise ValueError(
            f"`{argument}` has columns that are not numbers: {shown}. Leave them out, "
            f"frame.drop(columns={list(unusable)}), or convert them, for example to codes of "
            'categories: frame[name].astype("category").cat.codes.'
        )
    return arrays


def _several_splits(splits: Any, argument: str) -> ValueError:
    names = list(splits)
    shown = ", ".join(f"dataset[{name!r}]" for name in names[:3])
    return ValueError(
        f"`{argument}` is a {type(splits).__name__} with the splits {names}. Pass its splits: "
        f"DataModule({shown})."
    )
