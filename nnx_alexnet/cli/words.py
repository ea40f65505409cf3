"""The words of a command line: short forms, values, and the configuration files that they name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nnx_alexnet.cli.recipes import PREFIX, recipe_names, with_recipe_files

IMPORT_PATH = "import_path"
"""The key of the import path of the user's own data, in the group `data` of a configuration."""

_NAME = re.compile(r"\w+|(hf|npz):.+", re.DOTALL)
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_GROUPS = ("data", "optimizer", "trainer", "distributed")
_CONFIG_SUFFIXES = (".yaml", ".yml", ".json")


def complete(words: Sequence[str]) -> list[str]:
    """Expands the short forms of arguments, and checks configuration files.

    Args:
        words: the arguments of the process.

    Raises:
        ValueError: a configuration file cannot be read, a recipe is unknown, or `--data` is empty.

    Example:
        >>> from nnx_alexnet.cli.words import complete
        >>> complete(["fit", "--data", "mnist", "--optimizer=sgd"])
        ['fit', '--data.name', 'mnist', '--optimizer.name=sgd']
    """
    if ("--data", "") in valued(words):
        raise ValueError("`--data` (='') must be the name of a dataset, or an import path.")
    words = with_long_forms(words)
    words = _with_run_folder(words)
    words = _with_saved_config(words)
    _check_config(words)
    return words


def with_long_forms(words: Sequence[str]) -> list[str]:
    """Returns the arguments with `--data.name NAME` and the like in place of `--data NAME`.

    The files of recipes replace `recipe:NAME`.

    Raises:
        ValueError: a recipe is unknown.

    Example:
        >>> from nnx_alexnet.cli.words import with_long_forms
        >>> with_long_forms(["--data", "shop.images"])
        ['--data.import_path', 'shop.images']
    """
    # `--data NAME` is short for `--data.name NAME`, unless the value is a configuration file.
    words = with_recipe_files(words)
    for number, word in enumerate(words):
        option, equals, value = word.partition("=")
        if not equals and number + 1 < len(words):
            value = words[number + 1]
        if option == "--data":
            words[number] = option_for(value) + word.removeprefix(option)
        elif option == "--optimizer" and re.fullmatch(r"\w+", value):
            words[number] = f"{option}.name" + word.removeprefix(option)
    return words


def run_folder_of(run: str, log_dir: str = "logs") -> str:
    """Returns the folder of a run that is given by its folder, or by its name in the log folder.

    Args:
        run: what the user gave; it is returned if no such run is in `log_dir`.
        log_dir: the folder of all runs.

    Example:
        >>> from nnx_alexnet.cli.words import run_folder_of
        >>> run_folder_of("missing/version_0")
        'missing/version_0'
    """
    inside = os.path.join(os.path.expanduser(log_dir), run)  # noqa: PTH111, PTH118  # never raise
    is_name = re.search(r"(^|/)version_\d+(/|$)", run) and not run.startswith(("/", "~"))
    is_there = os.path.lexists(run)
    return inside if is_name and not is_there and os.path.isdir(inside) else run  # noqa: PTH112


def _with_run_folder(words: list[str]) -> list[str]:
    """Replaces the name of the run to resume with its folder."""
    log_dir = [value for option, value in valued(words) if option == "--trainer.log_dir"]
    found = list(words)
    for number, word in enumerate(words):
        name, equals, run = word.partition("=")
        if name == "--resume" and equals:
            found[number] = f"--resume={run_folder_of(run, *log_dir[-1:])}"
        elif word == "--resume" and number + 1 < len(words):
            found[number + 1] = run_folder_of(words[number + 1], *log_dir[-1:])
    return found


def _with_saved_config(words: list[str]) -> list[str]:
    """Puts the configuration of a resumed run before the options, which override it."""
    for number, word in enumerate(words):
        name, _, value = word.partition("=")
        run = value or (words[number + 1] if number + 1 < len(words) else "")
        if name == "--resume" and "--config" not in words and words[:1] == ["fit"]:
            config = Path(os.path.expanduser(run)) / "config.yaml"  # noqa: PTH111  # never raises
            if config.is_file():
                saved = ["fit", "--config", str(config)]
                if "--resume-weights-only" in words:  # the schedule fits the length of the new run
                    saved += ["--optimizer.num_steps", "null"]
                return [*saved, *words[1:]]
    return words


def _check_config(words: list[str]) -> None:
    """Raises a `ValueError` if the file after `--config` cannot be used."""
    for number, word in enumerate(words):
        name, _, value = word.partition("=")
        value = value or (words[number + 1] if number + 1 < len(words) else "")
        if name != "--config" or value in ("", "-"):  # "-" is standard input
            continue
        path = os.path.expanduser(value)  # noqa: PTH111  # these functions of os.path never raise
        is_there = os.path.exists(path)  # noqa: PTH110
        is_pipe = is_there and not (os.path.isfile(path) or os.path.isdir(path))  # noqa: PTH112, PTH113
        # Options may be given instead of a file, and a pipe can be read only once.
        is_inline = not is_there and any(mark in value for mark in "{:\n")
        if is_pipe:
            continue
        try:
            config = _read(value) if is_inline else read_config(Path(path))
        except ValueError as error:
            reason = str(error).removeprefix(str(Path(path)))
            meant = f" Did you mean {PREFIX}{value}?" if value in recipe_names() else ""
            raise ValueError(f"`--config` (={value}){reason}{meant}") from error
        for group, options in config.items():
            if group in _GROUPS and not isinstance(options, dict):
                raise ValueError(
                    f"`--config` (={value}): {group} must hold options by their names."
                )


def read_config(path: Path) -> dict[str, Any]:
    """Returns the options that a configuration file holds.

    Args:
        path: the path of a YAML file.

    Raises:
        ValueError: the file cannot be read, is not YAML, or does not hold options.

    Example:
        >>> from pathlib import Path
        >>> from nnx_alexnet.cli.words import read_config
        >>> read_config(Path("nothing.yaml"))
        Traceback (most recent call last):
        ValueError: nothing.yaml cannot be read: No such file or directory.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # not YAML, or not UTF-8
        raise ValueError(f"{path} is not YAML in UTF-8: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ValueError(
            f"{path} must hold options by their names; it holds a {type(config).__name__}."
        )
    return config


def option_for(value: str) -> str:
    """Returns the option that `--data VALUE` is short for.

    Example:
        >>> from nnx_alexnet.cli.words import option_for
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
        >>> from nnx_alexnet.cli.words import import_path_in
        >>> import_path_in(["fit", "--config", "{data: {import_path: shop.images}}"])
        'shop.images'
    """
    found = None
    for option, value in valued(words):
        if option in ("--config", "--data"):
            config = _read(value)
            config = config.get("data", {}) if option == "--config" else config
            found = config.get(IMPORT_PATH) if isinstance(config, Mapping) else found
    for option, value in valued(words):
        if option == f"--data.{IMPORT_PATH}":
            found = value
    return found


def valued(words: Sequence[str]) -> Iterator[tuple[str, str]]:
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
