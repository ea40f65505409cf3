"""Decides whether the train split stays on the device, and sends it there."""

import math
import os
from typing import Any, Literal

import jax

from nnx_alexnet.data.loader import Loader
from nnx_alexnet.devices import placed

KeepOnDevice = bool | Literal["auto"]

_SHARE_OF_MEMORY = 0.25  # the most of the device's memory that a split uses by default
_SHARE_MISSING = 0.01  # the most of a split that `fit` reads and caches before its first step


def device_memory() -> int:
    """Returns how many bytes a program may use of the first device; 0 if that is not known."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    if jax.default_backend() == "cpu":  # it uses the memory of the machine
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0


def check_keep_on_device(keep: KeepOnDevice, loader: Loader) -> None:
    """Raises a `ValueError` if a split must stay on the device, but cannot.

    Args:
        keep: the argument `keep_on_device`.
        loader: the loader of the split.
    """
    if keep is True and loader.arrays() is None and not _can_read_all(loader):
        raise ValueError(
            "`keep_on_device` (=True) needs a train split of arrays in memory, or one with "
            "`cache` whose labels are known; this one is read while it is used. "
            'keep_on_device="auto" sends its batches.'
        )


def stays_on_device(loader: Loader, keep: KeepOnDevice) -> bool:
    """Returns whether all examples of a split are to stay on the device.

    Args:
        loader: the loader of the split.
        keep: True, False, or "auto": whether the split needs at most a quarter of the memory and,
            if it has a cache, the cache lacks at most 1% of it, or one batch.
    """
    arrays = loader.arrays()
    if keep is False or (arrays is None and not _can_read_all(loader)):
        return False
    if keep is True:
        return True
    is_small = _num_bytes(loader) <= _SHARE_OF_MEMORY * device_memory()
    return is_small and (arrays is not None or _is_nearly_complete(loader))


def on_device(loader: Loader, sharding: jax.sharding.Sharding) -> dict[str, Any]:
    """Returns all examples of a split on the devices; see `DataModule.on_device`."""
    arrays = loader.arrays()
    if arrays is None:
        arrays = loader.read_all()
    sent: dict[str, Any] = jax.tree.map(lambda array: placed(array, sharding), arrays)
    return sent


def _can_read_all(loader: Loader) -> bool:
    """Returns whether a split has a cache, and its labels can be checked in advance."""
    has_labels = loader.labels() is not None or "label" not in loader.element_spec()
    return loader.cached is not None and has_labels


def _num_bytes(loader: Loader) -> int:
    leaves = jax.tree.leaves(loader.element_spec())
    size: int = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    return size * (loader.num_examples or 0)


def _is_nearly_complete(loader: Loader) -> bool:
    # Processes that check at different moments could decide differently.
    if loader.cached is None or loader.num_examples is None or jax.process_count() > 1:
        return False
    loader.cached.refresh()
    most = max(loader.batch_size, _SHARE_MISSING * loader.num_examples)
    return len(loader.cached.missing()) <= most
