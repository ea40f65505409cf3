"""Reads streams of Hugging Face: the examples or batches of a `datasets.IterableDataset`."""

from collections.abc import Iterator
from typing import Any

from nnx_alexnet.data.hugging_face_features import (
    check_columns,
    class_names,
    plain_example,
)

# The functions that `IterableDataset.batch` maps.
_BATCHING = ("_batch_fn", "_batch_arrow_table", "_batch_accumulate_arrow_table_by_columns")


class StreamedRows:
    """Yields the examples or batches of a `datasets.IterableDataset` as dicts of NumPy arrays.

    The format of the dataset, such as "torch", makes no difference. The methods `set_epoch`,
    `state_dict` and `load_state_dict` are those of the dataset.

    Args:
        dataset: a `datasets.IterableDataset`.
        argument: what the user calls the split, for errors.

    Attributes:
        inner: the dataset, without a format.
        class_names: the names of the classes in the column `label`, or None.

    Raises:
        ValueError: a column is known to contain neither numbers nor images.
    """

    def __init__(self, dataset: Any, argument: str = "data") -> None:
        if getattr(dataset, "_formatting", None) is not None:  # a copy would lose a loaded state
            dataset = dataset.with_format(None)
        self.inner = dataset
        self._argument = argument
        self._features = example_features(dataset)
        self.class_names = class_names(self._features)
        check_columns(self._features, argument)
        self.set_epoch = dataset.set_epoch
        self.state_dict = dataset.state_dict
        self.load_state_dict = dataset.load_state_dict

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for example in self.inner:
            yield plain_example(example, self._features)

    def over(self, dataset: Any) -> "StreamedRows":
        """Returns the rows of another dataset for the same split."""
        return StreamedRows(dataset, self._argument)


def example_features(dataset: Any) -> dict[str, Any]:
    """Returns the features of one example, also of a stream of batches; an empty dict if not known.

    Args:
        dataset: a `datasets.IterableDataset`.
    """
    features = dict(dataset.features or {})
    if not yields_batches(dataset):
        return features
    return {name: getattr(feature, "feature", feature) for name, feature in features.items()}


def yields_batches(dataset: Any) -> bool:
    """Returns whether `batch` was called on a `datasets.IterableDataset`.

    Example:
        >>> from nnx_alexnet.data.hugging_face_streams import yields_batches
        >>> yields_batches([1, 2])
        False
    """
    # The library does not report it: the columns of a batch are lists, as those of examples may be.
    part = getattr(dataset, "_ex_iterable", None)
    while part is not None:
        function = getattr(part, "function", None)
        name = getattr(getattr(function, "func", function), "__name__", None)  # of a partial
        if name in _BATCHING and str(getattr(part, "__module__", "")).startswith("datasets."):
            return True
        part = getattr(part, "ex_iterable", None)
    return False
