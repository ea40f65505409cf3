"""Reads the configuration of a run that the command line started."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace

from nnx_alexnet.checkpoints import Choice, choose_checkpoint, read_loop
from nnx_alexnet.cli.options import fit_parser
from nnx_alexnet.cli.words import IMPORT_PATH, read_config, run_folder_of
from nnx_alexnet.runs import find_runs
from nnx_alexnet.support import absolute_path


def load_run(run: str | None, checkpoint: str) -> tuple[Choice, Namespace, dict[str, Any]]:
    """Finds a run, its configuration, and what its checkpoint records about the data.

    Args:
        run: the folder of a run, or its name in `logs`; None is the newest run in `logs`.
        checkpoint: `"auto"`, `"best"`, `"last"`, or a step.

    Returns:
        The checkpoint, the parsed `config.yaml`, and the checkpoint's `data`.

    Raises:
        ValueError: there is no such run, or it was started from Python.
    """
    runs = find_runs("logs")[-1:] if run is None else [absolute_path(run_folder_of(run), "run")]
    if not runs or not (runs[0] / "config.yaml").is_file():
        raise ValueError(
            f"`run` (={run!r}) must be the folder of a run, `logs/<name>/version_<n>`, with its "
            "config.yaml. Without it, the newest run in ./logs is used."
        )
    config = read_config(runs[0] / "config.yaml")
    if not _is_of_command(config):
        other = "" if run is not None else _other_run()
        raise ValueError(
            f"`run` (={str(runs[0])!r}) was started from Python, so only Python can build its "
            "data again: call load_model(run), and pass the model and the data to a Trainer."
            f"{other}"
        )
    chosen = choose_checkpoint(runs[0], checkpoint)
    data = config.get("data")
    parser = fit_parser(data.get(IMPORT_PATH) if isinstance(data, dict) else None)
    parser.exit_on_error = False
    try:
        parsed = parser.parse_object(config)
    except ArgumentError as error:
        text = parser.explain(str(error))
        raise ValueError(f"{runs[0] / 'config.yaml'} cannot be used: {text}") from error
    return chosen, parsed, read_loop(chosen.path)["data"]


def newest_run() -> str:
    """Returns the newest run in `logs`.

    Raises:
        ValueError: there is none.
    """
    runs = find_runs("logs")
    if not runs:
        raise ValueError("`run` (=None) must be the folder of a run: there is no run in ./logs.")
    return str(runs[-1])


def _is_of_command(config: dict[str, Any]) -> bool:
    return isinstance(config.get("model"), dict) and "class_path" in config["model"]


def _other_run() -> str:
    """Returns the hint to name another run than the newest, which was started from Python."""
    for folder in reversed(find_runs("logs")):
        with contextlib.suppress(ValueError):
            if _is_of_command(read_config(folder / "config.yaml")):
                name = os.path.relpath(folder)
                return f" Or name a run that the command started, such as {name}."
    return ""


def split_run(paths: Sequence[str]) -> tuple[str | None, list[str]]:
    """Separates the run from the image files in the arguments of `predict`.

    Args:
        paths: the arguments. The first one is a run if it is a folder with a `config.yaml`, or has
            the name of a run's folder.

    Returns:
        The run, None for the newest one, and the other paths.

    Raises:
        ValueError: there is only a run.

    Example:
        >>> from nnx_alexnet.cli.saved_run import split_run
        >>> split_run(["logs/alexnet/version_0", "a.png"]), split_run(["a.png", "b.png"])
        (('logs/alexnet/version_0', ['a.png']), (None, ['a.png', 'b.png']))
    """
    first = Path(paths[0])
    if not (re.fullmatch(r"version_\d+", first.name) or os.path.isfile(first / "config.yaml")):  # noqa: PTH113  # never raises
        return None, [*paths]
    if len(paths) == 1:
        raise ValueError(
            f"`paths` must be image files, or folders of them; only the run {paths[0]!r} is given."
        )
    return paths[0], [*paths[1:]]
