"""Names, creates and finds the folders of runs: `<log_dir>/<name>/version_<n>/`."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnx_alexnet.runs.reader import read_run
from nnx_alexnet.support import absolute_path, check_encodable, numbered_folders, parse_number

_VERSION = "version_"


def check_name(name: str) -> None:
    """Raises a `ValueError` unless `name` names a folder inside the log folder.

    Args:
        name: the run's name: letters, digits, `.`, `_`, `-`, and `/` between folders.

    Example:
        >>> from nnx_alexnet.runs.folder import check_name
        >>> check_name("sweep/adam-1e-3")
        >>> check_name("../elsewhere")
        Traceback (most recent call last):
        ValueError: `name` (='../elsewhere') must be made of letters, digits, '.', '_' and '-', ...
    """
    check_encodable(name, "name")
    parts = name.split("/")
    if not all(re.fullmatch(r"[\w.-]+", part) and part.strip(".") for part in parts):
        raise ValueError(
            f"`name` (={name!r}) must be made of letters, digits, '.', '_' and '-', with '/' "
            "between folders; it names a folder inside `log_dir`."
        )
    if any(map(_is_version, parts)):
        raise ValueError(
            f"`name` (={name!r}) must not contain a folder such as version_0: run folders have "
            "such names."
        )


def create_run_dir(log_dir: str | Path, name: str) -> Path:
    """Creates and returns the next `<log_dir>/<name>/version_<n>`.

    Args:
        log_dir: the folder of all runs.
        name: the run's name, see `check_name`.

    Returns:
        The new folder, as an absolute path. Two processes never get the same one.

    Raises:
        ValueError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> from nnx_alexnet.runs.folder import create_run_dir
        >>> log_dir = tempfile.mkdtemp()
        >>> [create_run_dir(log_dir, "mine").name for _ in range(2)]
        ['version_0', 'version_1']
    """
    check_name(name)
    parent = absolute_path(log_dir, "log_dir") / name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        version = 1 + max(numbered_folders(parent, _VERSION), default=-1)
        while True:
            run_dir = parent / f"{_VERSION}{version}"
            try:
                run_dir.mkdir()
            except FileExistsError:  # created by another process meanwhile, or not a folder
                version += 1
            else:
                return run_dir
    except OSError as error:
        raise ValueError(
            f"`log_dir` (={str(log_dir)!r}) cannot be written: {error}. Choose another folder, "
            "or `log_dir=None` to write nothing."
        ) from error


def choose_run_dir(log_dir: str | Path, name: str, resume: str | Path) -> Path:
    """Returns the folder that a run writes: a new one, or that of the run that it resumes.

    Args:
        log_dir: the folder of all runs.
        name: the run's name, see `check_name`.
        resume: `"never"`: a new folder; `"auto"`: the newest folder of that name, or a new one if
            there is none; otherwise the folder of a run.

    Returns:
        An absolute path of a folder that exists.

    Raises:
        ValueError: a new folder cannot be written, or `resume` is not the folder of a run.

    Example:
        >>> import tempfile
        >>> from nnx_alexnet.runs.folder import choose_run_dir
        >>> log_dir = tempfile.mkdtemp()
        >>> [choose_run_dir(log_dir, "mine", how).name for how in ("auto", "never", "auto")]
        ['version_0', 'version_1', 'version_1']
    """
    if resume == "never":
        return create_run_dir(log_dir, name)
    if resume == "auto":
        check_name(name)
        versions = sibling_runs(absolute_path(log_dir, "log_dir") / name)
        return versions[max(versions)] if versions else create_run_dir(log_dir, name)
    folder = absolute_path(resume, "resume")
    if not (folder / "checkpoints").is_dir():
        raise ValueError(
            f'`resume` (={str(resume)!r}) must be "auto", "never", or the folder of a run with '
            "its `checkpoints`, such as logs/alexnet/version_0. To start a new run from the "
            "weights of a checkpoint, call load_checkpoint(path, model) and fit()."
        )
    return folder


def sibling_runs(parent: Path) -> dict[int, Path]:
    """Returns the run folders of one name by their version, in order.

    Args:
        parent: `<log_dir>/<name>`; may be missing.

    Raises:
        OSError: `parent` cannot be read.
    """
    return numbered_folders(parent, _VERSION)


def find_runs(log_dir: str | Path) -> list[Path]:
    """Returns the run folders below `log_dir` that have a `config.yaml`, the newest last.

    Example:
        >>> import tempfile
        >>> from nnx_alexnet.runs.folder import find_runs
        >>> find_runs(tempfile.mkdtemp())
        []
    """
    found = []
    for run_dir in _run_folders(absolute_path(log_dir, "log_dir")):
        with contextlib.suppress(OSError):  # deleted meanwhile
            status = os.lstat(run_dir / "config.yaml")
            if stat.S_ISREG(status.st_mode):
                found.append((status.st_mtime_ns, run_dir))
    # Each start of a run writes this file, so its time is that of the newest start.
    return [run_dir for _, run_dir in sorted(found)]


def _run_folders(root: Path) -> Iterator[Path]:
    """Yields every folder below `root` named `version_<n>`, following links to other folders."""
    seen = set()
    for path, folders, _ in os.walk(root, followlinks=True):
        if (real := Path(path).resolve()) in seen:  # links can form a cycle
            folders.clear()
            continue
        seen.add(real)
        for name in sorted(folders):
            if _is_version(name):
                folders.remove(name)
                if not (folder := Path(path, name)).is_symlink():
                    yield folder
            elif _is_version((real / name).resolve().name):  # a link such as "latest"
                folders.remove(name)


def _is_version(name: str) -> bool:
    return name.startswith(_VERSION) and parse_number(name.removeprefix(_VERSION)) is not None


def list_runs(log_dir: str | Path = "logs") -> list[dict[str, Any]]:
    """Returns a summary of each run below `log_dir`, the newest last.

    Args:
        log_dir: the folder of all runs (default `logs`).

    Returns:
        One dict per run: `run` (its path in `log_dir`), `path`, `status` ("running", "finished",
        "interrupted", "failed", or "killed" if the run could not record its end), `epochs`,
        `steps`, `started`, `ended`, `duration` in seconds over all starts that ended,
        `stop_reason`, `error`, `tags`, `best_steps`, and each metric by its name: the best value of
        losses and scores in `val/`, the newest value of other metrics. None stands for what
        cannot be read.

    Example:
        >>> import tempfile
        >>> from nnx_alexnet.runs.folder import create_run_dir, list_runs
        >>> from nnx_alexnet.runs.records import write_record
        >>> log_dir = tempfile.mkdtemp()
        >>> write_record(create_run_dir(log_dir, "mine"), {})
        >>> [(row["run"], row["status"], row["steps"]) for row in list_runs(log_dir)]
        [('mine/version_0', 'killed', None)]
    """
    root = absolute_path(log_dir, "log_dir")
    rows = []
    for run_dir in find_runs(root):
        where = {"run": run_dir.relative_to(root).as_posix(), "path": str(run_dir)}
        # The first `where` determines the order, the second overrides metrics of these names.
        rows.append({**where, **read_run(run_dir), **where})
    return rows
