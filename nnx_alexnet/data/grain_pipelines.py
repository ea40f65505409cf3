"""Converts pipelines of the library Grain to the forms that a split may have.

Grain is not imported here: a program that passes one of its objects has imported it.
"""

import sys
from collections.abc import Iterator
from typing import Any

from nnx_alexnet.data.example_batches import ExampleBatches
from nnx_alexnet.data.padding import Padding

# The parts of a pipeline that make batches, and the one that takes elements apart.
_BATCHING = ("BatchMapDataset", "BatchIterDataset", "RebatchIterDataset")
_FLATTENING = ("FlatMapMapDataset", "FlatMapIterDataset")
_SPARSE = ("FilterMapDataset", "FlatMapMapDataset")


def is_kind(value: object, *names: str) -> bool:
    """Returns whether a value is of one of the classes of Grain, without importing it.

    Example:
        >>> from nnx_alexnet.data.grain_pipelines import is_kind
        >>> is_kind([1, 2], "MapDataset", "IterDataset", "DataLoader")
        False
    """
    library = sys.modules.get("grain")
    if not hasattr(library, "MapDataset"):  # not imported, or a module of the user
        return False
    return isinstance(value, tuple(getattr(library, name) for name in names))


class GrainExamples:
    """A map-style dataset of the elements of a `grain.MapDataset`.

    In each epoch, Grain's random transforms draw anew, and its `shuffle` reorders the elements, as
    they do after Grain's `repeat`. This depends on the seeds in the pipeline and on the epoch.

    Args:
        dataset: a `grain.MapDataset` that yields single examples.
        argument: what the user calls the split, for errors.

    Raises:
        ValueError: the dataset is infinite, or has indices without an element.
    """

    def __init__(self, dataset: Any, argument: str = "data") -> None:
        check_finite(dataset, argument)
        if any(type(part).__name__ in _SPARSE for part in _parts(dataset)):
            raise ValueError(
                f"`{argument}` is a grain.MapDataset with filter() or flat_map(), so that some "
                "indices have no element. Pass `dataset.to_iter_dataset()`, which leaves them out."
            )
        self._dataset = dataset
        self._first = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose elements the indices refer to."""
        self._first = epoch * len(self)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        return self._dataset[self._first + index]


class GrainBatches:
    """An iterable of the batches of a `grain.MapDataset`, in the order of Grain.

    Its iterators are Grain's, with `get_state` and `set_state`. In each epoch, the random parts of
    the pipeline draw anew, as after Grain's `repeat`.

    Args:
        dataset: a `grain.MapDataset` that yields batches.
        argument: what the user calls the split, for errors.

    Raises:
        ValueError: the dataset is infinite.
    """

    def __init__(self, dataset: Any, argument: str = "data") -> None:
        check_finite(dataset, argument)
        self._dataset = dataset
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next pass."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Any]:
        first = self._epoch * len(self)
        repeated = self._dataset.repeat(self._epoch + 1)
        iterator: Iterator[Any] = iter(repeated[first : first + len(self)].to_iter_dataset())
        return iterator


def adapted_pipeline(
    value: Any, argument: str, *, batch_size: int, drop_last: bool, padding: Padding | None = None
) -> GrainExamples | GrainBatches | ExampleBatches | Any:
    """Returns a pipeline of Grain as a map-style dataset or as an iterable of batches.

    Args:
        value: a `grain.MapDataset`, `grain.IterDataset` or `grain.DataLoader`.
        argument: what the user calls the split, for errors.
        batch_size: rows of a batch, if the pipeline yields single examples.
        drop_last: whether an incomplete last batch is left out, in the same case.
        padding: the lengths to which sequences are padded, in the same case.

    Raises:
        ValueError: see `GrainExamples`.
    """
    if is_kind(value, "MapDataset"):
        is_batched = yields_batches(value)
        return (GrainBatches if is_batched else GrainExamples)(value, argument)
    is_stream = is_kind(value, "IterDataset")
    if yields_batches(value) if is_stream else _has_batch_operation(value):
        return value
    return ExampleBatches(
        value, argument, batch_size=batch_size, drop_last=drop_last, padding=padding
    )


def yields_batches(dataset: Any) -> bool:
    """Returns whether a pipeline makes batches in a step, and takes them apart in no later one."""
    name = type(dataset).__name__
    if name in _BATCHING or name in _FLATTENING:
        return name in _BATCHING
    return any(map(yields_batches, _inputs(dataset)))


def check_finite(dataset: Any, argument: str) -> None:
    """Raises a `ValueError` for an infinite `grain.MapDataset`, which has no epochs."""
    if len(dataset) == sys.maxsize:
        raise ValueError(
            f"`{argument}` is an infinite grain.MapDataset. An epoch is one pass: leave out "
            "repeat(), and set the length of the run with Trainer(max_epochs=...)."
        )


def _parts(dataset: Any) -> Iterator[Any]:
    yield dataset
    for part in _inputs(dataset):
        yield from _parts(part)


def _inputs(dataset: Any) -> list[Any]:
    """Returns the datasets that a step reads."""
    interleaved = getattr(dataset, "_datasets", None)  # by mp_prefetch, one for each worker
    return [*dataset.parents, *(interleaved if isinstance(interleaved, list | tuple) else [])]


def _has_batch_operation(loader: Any) -> bool:
    batch = sys.modules["grain"].transforms.Batch
    # Without the attribute, in another version of Grain, the loader is assumed to yield batches.
    operations = getattr(loader, "_operations", None)
    return operations is None or any(isinstance(each, batch) for each in operations)
