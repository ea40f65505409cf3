"""Imports the user's own data: the value of `--data` that is an import path."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from nnx_alexnet.data import DataModule


def imported(import_path: str) -> Any:
    """Returns the user's own data: a function, a subclass of `DataModule`, or an instance.

    Raises:
        ValueError: the path cannot be imported, or is that of another kind of object.
    """
    module, _, name = import_path.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"`--data` (={import_path}) cannot be imported: {error}.") from error
    origin = str(getattr(target, "__module__", "")).partition(".")[0]
    is_foreign = origin in sys.stdlib_module_names  # not to be called, such as os.system
    is_usable = callable(target) and not isinstance(target, type) and not is_foreign
    if is_usable or isinstance(target, DataModule) or _is_subclass(target):
        return target
    raise ValueError(
        f"`--data` (={import_path}) is {target!r}; it must be your own function that returns a "
        "DataModule, a subclass of DataModule, or an instance of it."
    )


def _is_subclass(target: Any) -> bool:
    return isinstance(target, type) and issubclass(target, DataModule)
