"""Defines the option `--data`: a dataset of `load_data`, or the user's own by its import path."""

from __future__ import annotations

from jsonargparse import Namespace

from nnx_alexnet.cli.config_parser import ConfigParser
from nnx_alexnet.cli.own_data import imported
from nnx_alexnet.cli.words import IMPORT_PATH
from nnx_alexnet.data import DataModule, load_data


def add_data(parser: ConfigParser, import_path: str | None) -> None:
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
    target = imported(import_path)
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
    target = imported(import_path)
    if isinstance(target, DataModule):
        return target
    parser = ConfigParser()
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
