"""What is known of a torch `DataLoader`, or of an iterable that looks like one.

torch is not imported here: a user who passes one of its objects has imported it.
"""

import multiprocessing
import sys
from typing import Any

from nnx_alexnet.data.worker_start import check_main_guard, check_temporary_folder

# Parts of a loader that may give other examples in another epoch.
_HELD = ("sampler", "batch_sampler", "dataset")


def is_torch_iterable(value: object) -> bool:
    """Returns whether a value is an `IterableDataset`, whose `__getitem__` only raises.

    Example:
        >>> from nnx_alexnet.data.torch_loader import is_torch_iterable
        >>> is_torch_iterable([1, 2])
        False
    """
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.utils.data.IterableDataset)


def _is_loader(value: Any) -> bool:
    """Returns whether a value is a torch `DataLoader`."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.utils.data.DataLoader)


def map_dataset_of(loader: Any) -> Any:
    """Returns the map-style dataset of a torch `DataLoader`; None for other iterables.

    Example:
        >>> from nnx_alexnet.data.torch_loader import map_dataset_of
        >>> map_dataset_of([1, 2]) is None
        True
    """
    if not _is_loader(loader):
        return None
    return None if is_torch_iterable(loader.dataset) else loader.dataset


def announced_length(loader: Any) -> int:
    """Returns how many batches an iterable announces.

    Raises:
        Exception: it has no length; which type depends on the iterable.

    Example:
        >>> from nnx_alexnet.data.torch_loader import announced_length
        >>> announced_length(["a batch", "another"])
        2
    """
    dataset = getattr(loader, "dataset", None)
    if not is_torch_iterable(dataset):
        return len(loader)
    # A DataLoader that was asked for its length warns later if it was wrong; so do we.
    num, size = len(dataset), loader.batch_size  # type: ignore[arg-type]
    if size is None:
        return num
    return int(num // size if loader.drop_last else -(-num // size))


def has_worker_copies(loader: object) -> bool:
    """Returns whether several workers each have a copy of an `IterableDataset`.

    Example:
        >>> from nnx_alexnet.data.torch_loader import has_worker_copies
        >>> has_worker_copies([1, 2])
        False
    """
    dataset = getattr(loader, "dataset", None)
    return is_torch_iterable(dataset) and getattr(loader, "num_workers", 0) > 1


def is_shuffled(loader: Any) -> bool:
    """Returns whether a value is a torch `DataLoader` with `shuffle=True`.

    Example:
        >>> from nnx_alexnet.data.torch_loader import is_shuffled
        >>> is_shuffled([1, 2])
        False
    """
    if not _is_loader(loader):
        return False
    return isinstance(loader.sampler, sys.modules["torch"].utils.data.RandomSampler)


def hides_epochs(loader: object) -> bool:
    """Returns whether persistent workers keep copies of a dataset that has `set_epoch`.

    Example:
        >>> from nnx_alexnet.data.torch_loader import hides_epochs
        >>> hides_epochs([1, 2])
        False
    """
    dataset = getattr(loader, "dataset", None)
    return bool(getattr(loader, "persistent_workers", False)) and hasattr(dataset, "set_epoch")


def set_epoch(holder: Any, epoch: int) -> bool:
    """Calls `set_epoch(epoch)` on an object, and on its sampler, batch sampler and dataset.

    Returns:
        Whether any of them has that method.

    Example:
        >>> from types import SimpleNamespace
        >>> from nnx_alexnet.data.torch_loader import set_epoch
        >>> sampler = SimpleNamespace(set_epoch=print)
        >>> set_epoch(SimpleNamespace(batch_sampler=SimpleNamespace(sampler=sampler)), 3)
        3
        True
    """
    waiting, seen, is_any = [holder], set(), False
    while waiting:
        part = waiting.pop(0)
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        method = getattr(part, "set_epoch", None)
        if callable(method):
            method(epoch)
            is_any = True
        waiting += [getattr(part, name, None) for name in _HELD]
    return is_any


def check_torch_workers(loader: Any) -> None:
    """Checks that the workers of a torch `DataLoader` can start, if it has any.

    Args:
        loader: any iterable.

    Raises:
        ValueError: see `check_main_guard` and `check_temporary_folder`.

    Example:
        >>> from nnx_alexnet.data.torch_loader import check_torch_workers
        >>> check_torch_workers([1, 2])  # it has no workers
    """
    if not _is_loader(loader) or not loader.num_workers:
        return
    check_temporary_folder()
    default = multiprocessing.get_all_start_methods()[0]
    context = loader.multiprocessing_context or multiprocessing
    if (context.get_start_method(allow_none=True) or default) != "fork":
        check_main_guard(loader.num_workers)
