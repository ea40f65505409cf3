"""The folder of a run: `<log_dir>/<name>/version_<n>/`, and what says how it was made."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from nnx_alexnet.runs.reader import TIME_FORMAT, read_environment, read_run
from nnx_alexnet.support import (
    absolute_path,
    check_encodable,
    logger,
    numbered_folders,
    parse_number,
    remove_leftovers,
    write_whole,
)

_VERSION = "version_"
PACKAGES = (
    "nnx-alexnet", "jax", "jaxlib", "flax", "optax", "clu", "orbax-checkpoint", "numpy",
    "tensorboard", "torch", "torchvision",
)  # fmt: skip


def check_name(name: str) -> None:
    """Raises a `ValueError` unless `name` names a folder inside the log folder.

    Args:
        name: the run's name: letters, digits, `.`, `_`, `-`, and `/` for folders in between.

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
            except FileExistsError:  # another process was faster, or it is no folder
                version += 1
            else:
                return run_dir
    except OSError as error:
        raise ValueError(
            f"`log_dir` (={str(log_dir)!r}) cannot be written: {error}. Choose another folder, "
            "or `log_dir=None` to write nothing."
        ) from error


def choose_run_dir(log_dir: str | Path, name: str, resume: str | Path) -> Path:
    """Returns the folder that a run writes: a new one, or that of the run it goes on with.

    Args:
        log_dir: the folder of all runs.
        name: the run's name, see `check_name`.
        resume: `"never"`: a new folder; `"auto"`: the newest of that name, and a new one where
            there is none; else the folder of a run.

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
        parent = absolute_path(log_dir, "log_dir") / name
        versions = numbered_folders(parent, _VERSION)
        return versions[max(versions)] if versions else create_run_dir(log_dir, name)
    folder = absolute_path(resume, "resume")
    if not (folder / "checkpoints").is_dir():
        raise ValueError(
            f'`resume` (={str(resume)!r}) must be "auto", "never", or the folder of a run with '
            "its `checkpoints`, such as logs/alexnet/version_0. To begin a new run with the "
            "weights of one checkpoint, call load_checkpoint(path, model) and fit()."
        )
    return folder


def find_runs(log_dir: str | Path) -> list[Path]:
    """Returns the run folders below `log_dir` that hold a `config.yaml`, oldest first.

    Example:
        >>> import tempfile
        >>> from nnx_alexnet.runs.folder import find_runs
        >>> find_runs(tempfile.mkdtemp())
        []
    """
    found = []
    for run_dir in _run_folders(absolute_path(log_dir, "log_dir")):
        with contextlib.suppress(OSError):  # it was deleted meanwhile
            status = os.lstat(run_dir / "config.yaml")
            if stat.S_ISREG(status.st_mode):
                found.append((status.st_mtime_ns, run_dir))
    # It is written whenever the run is started, so the newest is the one started last.
    return [run_dir for _, run_dir in sorted(found)]


def _run_folders(root: Path) -> Iterator[Path]:
    """Yields every folder below `root` named `version_<n>`, also behind links to folders."""
    seen = set()
    for path, folders, _ in os.walk(root, followlinks=True):
        if (real := Path(path).resolve()) in seen:  # links can make a circle
            folders.clear()
            continue
        seen.add(real)
        for name in sorted(folders):
            if _is_version(name):
                folders.remove(name)
                if not (folder := Path(path, name)).is_symlink():
                    yield folder
            elif _is_version((real / name).resolve().name):  # "latest", for instance
                folders.remove(name)


def _is_version(name: str) -> bool:
    return name.startswith(_VERSION) and parse_number(name.removeprefix(_VERSION)) is not None


def list_runs(log_dir: str | Path = "logs") -> list[dict[str, Any]]:
    """Returns what there is to say of each run below `log_dir`, the one started last at the end.

    Args:
        log_dir: the folder of all runs (default `logs`).

    Returns:
        One dict a run: `run` (its path in `log_dir`), `path`, `status` ("running", "finished",
        "interrupted", "failed", or "killed" if it could not say), `epochs`, `steps`, `started`,
        `ended`, `duration` in seconds over all starts that ended, `stop_reason`, `error`,
        `best_steps`, and each metric by its name: the best of `val/`, the newest of all others.
        None stands for what cannot be read.

    Example:
        >>> import tempfile
        >>> from nnx_alexnet.runs.folder import create_run_dir, list_runs, write_record
        >>> log_dir = tempfile.mkdtemp()
        >>> write_record(create_run_dir(log_dir, "mine"), {})
        >>> [(row["run"], row["status"], row["steps"]) for row in list_runs(log_dir)]
        [('mine/version_0', 'killed', None)]
    """
    root = absolute_path(log_dir, "log_dir")
    rows = []
    for run_dir in find_runs(root):
        where = {"run": run_dir.relative_to(root).as_posix(), "path": str(run_dir)}
        # A metric of such a name gives way.
        rows.append({**where, **read_run(run_dir), **where})
    return rows


def config_text(config: Mapping[str, Any]) -> str:
    """Returns a configuration as YAML; what YAML does not know is written as text.

    Example:
        >>> from pathlib import Path
        >>> from nnx_alexnet.runs.folder import config_text
        >>> print(config_text({"seed": 0, "root": Path("data")}), end="")
        seed: 0
        root: data
    """
    import yaml

    text: str = yaml.safe_dump(json.loads(json.dumps(config, default=str)), sort_keys=False)
    return text


def write_record(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Writes `config.yaml` and `environment.json`: what was run, and on what.

    A resumed run keeps the environments it had, in `before`. Of the runs of its name this one
    counts as the one started last, even if the clock was set back.

    Args:
        run_dir: the folder of the run.
        config: nested dicts and lists of plain values.

    Raises:
        OSError: they cannot be written.
    """
    remove_leftovers(run_dir)
    _write(run_dir / "config.yaml", config_text(config).encode())
    _make_newest(run_dir)
    environment: dict[str, Any] = {
        "command": sys.argv,
        "started": time.strftime(TIME_FORMAT),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "packages": {package: _installed(package) for package in PACKAGES},
        "git_commit": _git_commit(),
    }
    if previous := read_environment(run_dir):
        environment["before"] = [*previous.pop("before"), previous]
    elif os.path.lexists(run_dir / "environment.json"):
        logger.warning(
            "environment.json of %s cannot be read, so the run continues without the records of "
            "its earlier starts.", run_dir,
        )  # fmt: skip
    _write_environment(run_dir, environment)


def _make_newest(run_dir: Path) -> None:
    """Sets the time of a run's configuration, by which `find_runs` orders, after all others."""
    times = []
    for other in numbered_folders(run_dir.parent, _VERSION).values():
        with contextlib.suppress(OSError):
            times.append(os.lstat(other / "config.yaml").st_mtime_ns)
    latest = max(times, default=0)
    if os.lstat(run_dir / "config.yaml").st_mtime_ns < latest or times.count(latest) > 1:
        os.utime(run_dir / "config.yaml", ns=(latest + 1, latest + 1))


def _write_environment(run_dir: Path, environment: Mapping[str, Any]) -> None:
    _write(run_dir / "environment.json", (json.dumps(environment, indent=2) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    """Writes a record, or warns where a folder has its name: no run needs its records to go on."""
    try:
        write_whole(path, content)
    except IsADirectoryError:
        logger.warning("%s cannot be written: a folder has this name.", path)


def write_end(
    run_dir: Path, status: str, *, seconds: float | None = None, **reason: str | None
) -> None:
    """Adds to `environment.json` when and how this start of the run ended.

    Args:
        run_dir: the folder of the run.
        status: "finished", "interrupted" or "failed".
        seconds: how long it took, by a clock that nobody sets (default: not recorded).
        reason: `stop_reason`, or the first line of an `error`.

    Raises:
        OSError: it cannot be written.
    """
    ended = {"ended": time.strftime(TIME_FORMAT), "seconds": seconds, "status": status}
    _write_environment(run_dir, read_environment(run_dir) | ended | reason)


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Returns the commit of the working folder, the user's own code, where it is a checkout."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("ascii", "replace").strip()
