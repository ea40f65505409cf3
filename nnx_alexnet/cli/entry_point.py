"""The entry point of the command `nnx-alexnet`: streams, errors and exit codes."""

from __future__ import annotations

import contextlib
import locale
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import jax

from nnx_alexnet.cli.commands import COMMANDS, FAILED
from nnx_alexnet.cli.data_option import import_path_in
from nnx_alexnet.cli.parser import command_parser, complete
from nnx_alexnet.data import WorkerDiedError
from nnx_alexnet.devices import leave, use_compilation_cache
from nnx_alexnet.support import (
    escape_unencodable,
    existing_working_directory,
    has_working_directory,
    open_standard_descriptors,
    printable,
    settle_streams,
    start_times,
    write_message,
)

UNREAD = 141  # the reader of the output has closed it; shells report SIGPIPE by this number


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command `nnx-alexnet`.

    Args:
        argv: the arguments (default: those of the process).

    Returns:
        The exit code: 0 for success; 1 for an input that does not work, and for `verify` a damaged
        checkpoint; 3 if `verify` cannot read a checkpoint; 130 after Ctrl-C; 141 if the reader of
        the output has closed it.
    """
    open_standard_descriptors()
    escape_unencodable(sys.stdout)
    if argv is None:
        _prepare_process()
    try:
        with existing_working_directory():
            return _run(sys.argv[1:] if argv is None else argv, owns_process=argv is None)
    finally:
        settle_streams()


def _prepare_process() -> None:
    """Changes settings of a process in which only this command runs."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # argparse and other libraries expect streams
            with contextlib.suppress(OSError):
                null = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
                setattr(sys, name, null)
    if locale.getencoding().lower() not in ("utf-8", "utf8"):
        # jsonargparse reads configuration files in the locale's encoding, but YAML is UTF-8.
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, "C.UTF-8")


def _run(words: Sequence[str], *, owns_process: bool) -> int:
    """Parses the arguments, runs the subcommand and returns its exit code."""
    if owns_process:
        start_times.begin()
    use_compilation_cache()
    if has_working_directory() and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # as `python -m` does, but last
    try:
        words = complete(words)
        config = command_parser(import_path_in(words)).parse_args(words)
        # Outside a run, Ctrl-C ends the command at once, and so does the second one inside a run.
        if owns_process and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        return COMMANDS[config.command](config[config.command])
    except BrokenPipeError:
        return UNREAD
    except Exception as error:
        if not _is_for_user(error):
            raise
        write_message(f"nnx-alexnet: error: {printable(_text(error), keep=chr(10))}")
        if jax.distributed.is_initialized():
            leave(FAILED)
        return FAILED


def _is_for_user(error: Exception) -> bool:
    """Returns whether an error is explained by its message alone.

    That is so if this package or the operating system raised it. All others are bugs, which need
    a traceback.
    """
    if isinstance(error, OSError | WorkerDiedError):
        return True
    if not isinstance(error, ValueError | TypeError | FloatingPointError):
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__")).startswith("nnx_alexnet")


def _text(error: Exception) -> str:
    """Returns the message of an error with its notes, such as the worker that raised it."""
    text = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
    return "\n".join([text, *getattr(error, "__notes__", ())])
