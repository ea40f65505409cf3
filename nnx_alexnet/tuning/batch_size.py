"""The largest batch size that fits into memory, found by compiling instead of running."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import optax
from flax import nnx

from nnx_alexnet.data import DataModule, Loader, as_data_module, device_memory
from nnx_alexnet.support import check_integer, format_bytes
from nnx_alexnet.task import Task
from nnx_alexnet.trainer import Trainer

_SHARE_OF_MEMORY = 0.9  # the rest is for validation, and for memory that is free in small parts
_FIRST_SIZES = (16, 32)


class BatchSizeSearch(NamedTuple):
    """The result of a search for a batch size.

    Attributes:
        batch_size: the largest power of two whose train step fits.
        memory: the bytes that the step may need on each device.
        needed: the bytes that the step needs, by batch size, for all sizes that were compiled.
    """

    batch_size: int
    memory: int
    needed: dict[int, int]


def find_batch_size(
    model: nnx.Module,
    data: Any,
    *,
    task: Task | None = None,
    optimizer: optax.GradientTransformation | None = None,
    memory: int | None = None,
    largest: int | None = None,
    **arguments: Any,
) -> BatchSizeSearch:
    """Finds the largest power of two as batch size whose train step fits into memory.

    The compiler reports how many bytes a step needs, so nothing is run and no memory runs out. Two
    small sizes give a first estimate, because the memory of most models grows linearly. The
    estimate is then confirmed or corrected by compiling. The model does not change.

    A larger batch size often needs another learning rate, and may generalise worse.

    Args:
        model: the model.
        data: as for `Trainer`; train must be arrays or a map-style dataset.
        task: as for `Trainer` (default `Classification()`).
        optimizer: as for `Trainer` (default Adam).
        memory: the bytes that a step may need on each device (default: 90% of the device's memory).
        largest: the largest batch size to consider (default: the number of training examples).
        **arguments: other arguments of `Trainer` that change the step, such as `trainable`,
            `num_micro_batches`, `devices` and `callbacks`.

    Returns:
        The batch size, and the memory that each compiled size needs.

    Raises:
        ValueError: train is an iterable, the memory of the device is unknown, or it is too small
            for one example.

    Example:
        >>> import numpy as np
        >>> from flax import nnx
        >>> from nnx_alexnet import DataModule
        >>> from nnx_alexnet.tuning import find_batch_size
        >>> data = DataModule((np.zeros((512, 100), np.float32), np.arange(512) % 2),
        ...                   keep_on_device=False)
        >>> model = nnx.Linear(100, 2, rngs=nnx.Rngs(0))
        >>> find_batch_size(model, data, memory=100_000, steps_per_execution=1).batch_size
        64
    """
    check_integer("memory", memory, also=(None,))
    check_integer("largest", largest, also=(None,))
    data = as_data_module(data)
    if not data.train.indexable:
        raise ValueError(
            "`train` is an iterable, which determines its own batches; a batch size can be found "
            "for arrays and map-style datasets."
        )
    if memory is None:
        memory = int(_SHARE_OF_MEMORY * device_memory())
        if not memory:
            raise ValueError("The memory of the device is unknown; pass `memory` in bytes.")
    num_examples = data.train.num_examples or 1
    limit = min(largest or num_examples, num_examples)
    needed: dict[int, int] = {}
    arguments = {"log_dir": None, "progress_bar": False, **arguments}

    def needs(size: int) -> int:
        if size not in needed:
            trainer = Trainer(
                nnx.clone(model), _with_size(data, size), task=task, optimizer=optimizer,
                **arguments,
            )  # fmt: skip
            needed[size] = trainer.step_memory()
        return needed[size]

    return BatchSizeSearch(_largest(needs, memory, limit), memory, needed)


def _largest(needs: Any, memory: int, limit: int) -> int:
    """Returns the largest power of two up to a limit that needs at most this memory."""
    first, second = (_power_of_two(min(size, limit)) for size in _FIRST_SIZES)
    size = second
    slope = (needs(second) - needs(first)) / (second - first) if second > first else 0
    if slope > 0:
        size = _power_of_two(min(limit, max(1, int(second + (memory - needs(second)) / slope))))
    while needs(size) > memory:
        if size == 1:
            raise ValueError(
                f"`memory` (={memory}, {format_bytes(memory)}) is too small: the train step needs "
                f"{format_bytes(needs(1))} for one example. Use a smaller model, or several "
                "devices with shard_state=True."
            )
        size //= 2
    while 2 * size <= limit and needs(2 * size) <= memory:
        size *= 2
    return size


def _power_of_two(number: int) -> int:
    """Returns the largest power of two that is at most a number."""
    return 1 << (number.bit_length() - 1)


def _with_size(data: DataModule, size: int) -> DataModule:
    """Returns the train split in batches of another size."""
    view, train = copy.copy(data), data.train
    view.train = Loader(
        train.source,
        batch_size=size,
        shuffle=True,
        drop_last=True,
        num_workers=train.num_workers,
        padding=data.padding,
        argument=train.argument,
    )
    view.val_sets, view.test = {}, None
    return view
