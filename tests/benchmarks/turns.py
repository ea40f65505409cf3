"""Runs contenders in turns, each in its own process, and prints what they measured.

The peers are those of `pip install -e ".[bench]"`; those that are not installed are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import importlib.util
import json
import os
import pty
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

_SETTINGS = {"KERAS_BACKEND": "jax", "PYTHONWARNINGS": "ignore"}


class Contender(NamedTuple):
    """One row of a table.

    Attributes:
        label: what the table calls it.
        run: measures once, from the command line's arguments; more than 0.
        needs: the packages without which it is left out.
        is_peer: whether the others are compared with it.
    """

    label: str
    run: Callable[[argparse.Namespace], float]
    needs: tuple[str, ...] = ()
    is_peer: bool = True


def parse(
    parser: argparse.ArgumentParser, contenders: Mapping[str, Contender], rounds: int
) -> argparse.Namespace:
    """Returns the arguments; in the process of one contender, measures it and exits.

    Args:
        parser: with the script's own arguments.
        contenders: by the name that `--contenders` takes.
        rounds: the default of `--rounds`.
    """
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=rounds, help="how often each is measured")
    parser.add_argument("--contenders", nargs="+", choices=contenders, default=[*contenders])
    parser.add_argument("--measure", choices=contenders, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1.")
    if arguments.measure is not None:
        measured = contenders[arguments.measure].run(arguments)
        arguments.result.write_text(json.dumps(measured))
        raise SystemExit
    return arguments


def in_turns(
    arguments: argparse.Namespace, contenders: Mapping[str, Contender]
) -> dict[str, list[float]]:
    """Returns what each contender measured, one value per round, by its name.

    Each round runs all of them, beginning with another one each time. One whose packages are not
    installed is named on standard error and left out.
    """
    names = []
    for name in arguments.contenders:
        absent = [each for each in contenders[name].needs if not importlib.util.find_spec(each)]
        if absent:
            print(f"{name} is left out: {', '.join(absent)} is missing.", file=sys.stderr)
        else:
            names.append(name)
    values: dict[str, list[float]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        first = number % max(1, len(names))
        for name in names[first:] + names[:first]:
            values[name].append(_measured(name))
            print(f"round {number + 1}: {name} {values[name][-1]:.4g}", file=sys.stderr)
    return values


def _measured(name: str) -> float:
    """Runs this script once more, for one contender, and returns its result."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        argv = [sys.executable, *sys.argv, "--measure", name, "--result", str(result)]
        output, status = run_in_terminal(argv, {**os.environ, **_SETTINGS, "TMPDIR": folder})
        if status != 0 or not result.exists():
            raise SystemExit(f"{output[-4000:]}\n{name} ended with {status}.")
        return float(json.loads(result.read_text()))


def run_in_terminal(argv: Sequence[str], environment: Mapping[str, str]) -> tuple[str, int]:
    """Runs a command in a terminal of its own, so that progress bars are drawn as for a user.

    Returns:
        What it wrote, and its exit status.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=dict(environment)
    )
    os.close(theirs)
    chunks: list[bytes] = []

    def drain() -> None:
        with contextlib.suppress(OSError):  # Linux says so when the last writer is gone
            while chunk := os.read(ours, 1 << 16):
                chunks.append(chunk)

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    try:
        status = process.wait()
    except BaseException:
        process.kill()
        raise
    reader.join(timeout=5)  # a worker that outlives the command would hold the terminal open
    if not reader.is_alive():
        os.close(ours)
    return b"".join(chunks).decode(errors="replace"), status


def setting(packages: Sequence[str]) -> str:
    """Returns a line of the hardware, versions and date."""
    versions = []
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    today = datetime.date.today()
    return "; ".join(
        [
            f"{_processor()}, {usable} CPUs (load {os.getloadavg()[0]:.1f} at the start)",
            *accelerators(),
            ", ".join([f"Python {sys.version.split()[0]}", *versions]),
            f"{today.day} {today:%B %Y}",
        ]
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown processor"


def accelerators() -> list[str]:
    """Returns the names of NVIDIA's GPUs here, without starting a library that uses them."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).splitlines()
    return []


def best_peer(
    values: Mapping[str, Sequence[float]],
    contenders: Mapping[str, Contender],
    *,
    less_is_better: bool,
) -> str | None:
    """Returns the name of the peer with the best median, None where no peer was measured."""
    medians = {
        name: statistics.median(row) for name, row in values.items() if contenders[name].is_peer
    }
    choose = min if less_is_better else max
    return choose(medians, key=lambda name: medians[name], default=None)


def table(
    values: Mapping[str, Sequence[float]],
    contenders: Mapping[str, Contender],
    *,
    unit: str,
    digits: int = 0,
    less_is_better: bool,
) -> str:
    """Returns the median and range of each contender, and its ratio to the best peer's median."""
    best = best_peer(values, contenders, less_is_better=less_is_better)
    rows = []
    for name, row in values.items():
        ratio = "" if best is None else statistics.median(row) / statistics.median(values[best])
        rows.append(
            [
                contenders[name].label,
                f"{statistics.median(row):.{digits}f}",
                f"{min(row):.{digits}f} to {max(row):.{digits}f}",
                f"{ratio:.2f}" if ratio else "",
            ]
        )
    return markdown(["", unit, "range", "to the best peer"], rows)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table whose columns line up."""
    lines = [header, ["---"] * len(header), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    )
