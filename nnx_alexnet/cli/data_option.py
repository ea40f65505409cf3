"""Defines the option `--data`: a dataset of `load_data`, or the user's own by its import path."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from nnx_alexnet.cli.base_parser import Parser
from nnx_alexnet.data import DataModule, load_data

IMPORT_PATH = "import_path"
"""The key of the import path of the user's own data, in the group `data` of a configuration."""

_NAME = re.compile(r"\w+|(hf|npz):.+", re.DOTALL)
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_CONFIG_SUFFIXES = (".yaml", ".yml", ".json")


def add_data(parser: Parser, import_path: str | None) -> None:
    """Adds the group `--data`.

    Args:
        parser: of `fit`.
        import_path: of a function that returns a `DataModule`, a subclass of `DataModule`, or an
            instance. Its arguments become the options; None means `load_data`.

    Raises:
        ValueError: the path cannot be imported, or is that of another kind of object.
    """
    if import_path is None:
        parser.add_function_arguments(load_data, "data")
        return
    target = _imported(import_path)
    if isinstance(target, type):
        parser.add_class_arguments(target, "data", instantiate=False, fail_untyped=False)
    elif not isinstance(target, DataModule):
        parser.add_function_arguments(target, "data", fail_untyped=False)
    parser.add_argument(
        f"--data.{IMPORT_PATH}",
        default=import_path,
        help="A function that returns a DataModule, a subclass, or an instance.",
    )


def build_data(config: Namespace) -> DataModule:
    """Builds the data of a parsed configuration.

    Args:
        config: the group `data` of the configuration.

    Raises:
        ValueError: the user's function does not return a `DataModule`.

    Example:
        >>> from nnx_alexnet.cli.data_option import build_data
        >>> from nnx_alexnet.cli.options import fit_parser
        >>> build_data(fit_parser().parse_args(["--data.image_size", "8"]).data).image_shape
        (8, 8, 1)
    """
    import_path = config.get(IMPORT_PATH)
    if import_path is None:
        return load_data(**config)
    target = _imported(import_path)
    if isinstance(target, DataModule):
        return target
    parser = Parser()
    add_data(parser, import_path)
    arguments = dict(parser.instantiate(Namespace(data=config)).data)  # type: ignore[no-untyped-call]
    del arguments[IMPORT_PATH]
    data = target(**arguments)
    if not isinstance(data, DataModule):
        raise ValueError(
            f"`--data` (={import_path}) returned {data!r:.80}; it must return a "
            "DataModule, such as DataModule(train, val)."
        )
    return data


def _imported(import_path: str) -> Any:
    module, _, name = import_path.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"`--data` (={import_path}) cannot be imported: {error}.") from error
    is_usable = callable(target) and not isinstance(target, type)
    if is_usable or isinstance(target, DataModule) or _is_subclass(target):
        return target
    raise ValueError(
        f"`--data` (={import_path}) is {target!r}; it must be a function that returns a "
        "DataModule, a subclass of DataModule, or an instance of it."
    )


def _is_subclass(target: Any) -> bool:
    return isinstance(target, type) and issubclass(target, DataModule)


def option_for(value: str) -> str:
    """Returns the option that `--data VALUE` is short for.

    Example:
        >>> from nnx_alexnet.cli.data_option import option_for
        >>> [option_for(value) for value in ("mnist", "npz:a.npz", "shop.images", "shop.yaml")]
        ['--data.name', '--data.name', '--data.import_path', '--data']
    """
    if _NAME.fullmatch(value):
        return "--data.name"
    is_file = value.endswith(_CONFIG_SUFFIXES) or os.path.exists(value)  # noqa: PTH110  # never raises
    return f"--data.{IMPORT_PATH}" if _DOTTED.fullmatch(value) and not is_file else "--data"


def import_path_in(words: Sequence[str]) -> str | None:
    """Returns the import path of the data that the arguments of `fit` choose, or None.

    Args:
        words: the arguments with their short forms expanded. An option overrides configurations.

    Example:
        >>> from nnx_alexnet.cli.data_option import import_path_in
        >>> import_path_in(["fit", "--config", "{data: {import_path: shop.images}}"])
        'shop.images'
    """
    found = None
    for option, value in _valued(words):
        if option in ("--config", "--data"):
            config = _read(value)
            config = config.get("data", {}) if option == "--config" else config
            found = config.get(IMPORT_PATH) if isinstance(config, Mapping) else found
    for option, value in _valued(words):
        if option == f"--data.{IMPORT_PATH}":
            found = value
    return found


def _valued(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields the options that have a value."""
    for number, word in enumerate(words):
        option, equals, value = word.partition("=")
        if equals:
            yield option, value
        elif number + 1 < len(words):
            yield option, words[number + 1]


def _read(text: str) -> Mapping[str, Any]:
    """Returns the options in a file, or in the argument itself; none if it cannot be read."""
    path = os.path.expanduser(text)  # noqa: PTH111  # never raises
    try:
        content = Path(path).read_text(encoding="utf-8") if os.path.isfile(path) else text  # noqa: PTH113
        config = yaml.safe_load(content)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}  # the parser reports the error
    return config if isinstance(config, Mapping) else {}
