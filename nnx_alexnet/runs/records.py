"""Writes what a run was started with, and how it ended: `config.yaml` and `environment.json`."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from nnx_alexnet.runs.folder import sibling_runs
from nnx_alexnet.runs.reader import TIME_FORMAT, read_environment
from nnx_alexnet.support import logger, remove_leftovers, write_whole

PACKAGES = (
    "nnx-alexnet", "jax", "jaxlib", "flax", "optax", "clu", "orbax-checkpoint", "numpy",
    "tensorboard", "torch", "torchvision",
)  # fmt: skip


def config_text(config: Mapping[str, Any]) -> str:
    """Returns a configuration as YAML; values that YAML does not have are written as text.

    Example:
        >>> from pathlib import Path
        >>> from nnx_alexnet.runs.records import config_text
        >>> print(config_text({"seed": 0, "root": Path("data")}), end="")
        seed: 0
        root: data
    """
    import yaml

    text: str = yaml.safe_dump(json.loads(json.dumps(config, default=str)), sort_keys=False)
    return text


def write_record(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Writes `config.yaml` and `environment.json` at the start of a run.

    A resumed run keeps its earlier environments in `before`. The run becomes the newest of its
    name, even if the clock was set back.

    Args:
        run_dir: the folder of the run.
        config: nested dicts and lists of plain values.

    Raises:
        OSError: a file cannot be written.
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
        "tags": _tags(config),
    }
    if previous := read_environment(run_dir):
        environment["before"] = [*previous.pop("before"), previous]
    elif os.path.lexists(run_dir / "environment.json"):
        logger.warning(
            "environment.json of %s cannot be read, so the run continues without the records of "
            "its earlier starts.", run_dir,
        )  # fmt: skip
    _write_environment(run_dir, environment)


def write_end(
    run_dir: Path, status: str, *, seconds: float | None = None, **reason: str | None
) -> None:
    """Adds to `environment.json` when and how this start of the run ended.

    Args:
        run_dir: the folder of the run.
        status: "finished", "interrupted" or "failed".
        seconds: the duration by a monotonic clock (default: not recorded).
        reason: `stop_reason`, or the first line of an `error`.

    Raises:
        OSError: the file cannot be written.
    """
    ended = {"ended": time.strftime(TIME_FORMAT), "seconds": seconds, "status": status}
    _write_environment(run_dir, read_environment(run_dir) | ended | reason)


def _tags(config: Mapping[str, Any]) -> list[str]:
    trainer = config.get("trainer")
    tags = trainer.get("tags") if isinstance(trainer, Mapping) else None
    return [tags] if isinstance(tags, str) else [*map(str, tags or ())]


def _make_newest(run_dir: Path) -> None:
    """Moves the time of a run's configuration, by which `find_runs` sorts, after all others."""
    times = []
    for other in sibling_runs(run_dir.parent).values():
        with contextlib.suppress(OSError):
            times.append(os.lstat(other / "config.yaml").st_mtime_ns)
    latest = max(times, default=0)
    if os.lstat(run_dir / "config.yaml").st_mtime_ns < latest or times.count(latest) > 1:
        os.utime(run_dir / "config.yaml", ns=(latest + 1, latest + 1))


def _write_environment(run_dir: Path, environment: Mapping[str, Any]) -> None:
    _write(run_dir / "environment.json", (json.dumps(environment, indent=2) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    """Writes a file; warns if it is a folder, since a run can continue without its records."""
    try:
        write_whole(path, content)
    except IsADirectoryError:
        logger.warning("%s cannot be written: it is a folder.", path)


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Returns the commit of the working directory, None if it is not in a Git checkout."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("ascii", "replace").strip()
