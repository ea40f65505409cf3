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
from typing import Any

from nnx_alexnet.cli.base_parser import USAGE_ERROR
from nnx_alexnet.cli.completion import complete_in_shell
from nnx_alexnet.cli.option_messages import as_options, group_of, is_about_option
from nnx_alexnet.cli.parser import COMMANDS as NAMES
from nnx_alexnet.cli.parser import command_parser, parse
from nnx_alexnet.cli.words import complete, import_path_in
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

FAILED = 1
UNREAD = 141  # the reader of the output has closed it; shells report SIGPIPE by this number


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command `nnx-alexnet`.

    Args:
        argv: the arguments (default: those of the process).

    Returns:
        The exit code: 0 for success; 1 for an error, and for `verify` a damaged checkpoint; 2 if
        the library refuses the value of an option; 3 if `verify` cannot read a checkpoint; 130
        after Ctrl-C; 141 if the reader of the output has closed it.

    Raises:
        SystemExit: with 0 after the help, with 2 after a wrong command line.
    """
    open_standard_descriptors()
    escape_unencodable(sys.stdout)
    if argv is None:
        complete_in_shell()
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
    """Checks the arguments, runs the subcommand and returns its exit code."""
    if has_working_directory() and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # as `python -m` does, but last
    given = list(words[1:])
    try:
        arguments, given = parse(words)
        return _run_command(arguments, given, owns_process=owns_process)
    except BrokenPipeError:
        return UNREAD
    except Exception as raised:
        error = _cause(raised)
        if not _is_for_user(error):
            raise
        text = _in_options(printable(_text(error), keep=chr(10)), [*words[:1], *given], error)
        write_message(f"nnx-alexnet: error: {text}")
        if (jax := sys.modules.get("jax")) is not None and jax.distributed.is_initialized():
            from nnx_alexnet.devices import leave

            leave(FAILED)
        is_refused = isinstance(error, ValueError | TypeError) and is_about_option(text)
        return USAGE_ERROR if is_refused else FAILED


def _run_command(arguments: Any, words: Sequence[str], *, owns_process: bool) -> int:
    """Loads the libraries, and runs the subcommand."""
    from nnx_alexnet.cli.commands import COMMANDS
    from nnx_alexnet.cli.options import cache_parser, fit_parser, summary_parser
    from nnx_alexnet.devices import use_compilation_cache

    if owns_process:
        start_times.begin()
    use_compilation_cache()
    name = arguments.command
    words = complete([name, *words])
    if name in ("fit", "cache"):
        parser = fit_parser if name == "fit" else cache_parser
        arguments = parser(import_path_in(words)).parse_args(words[1:])
    elif name == "summary":
        arguments = summary_parser().parse_args(words[1:])
    # Outside a run, Ctrl-C ends the command at once, and so does the second one inside a run.
    if owns_process and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return COMMANDS[name](arguments)


def _cause(error: Exception) -> Exception:
    """Returns the error of a callback's arguments, which jsonargparse wraps in its own."""
    module = str(list(traceback.walk_tb(error.__traceback__))[-1][0].f_globals.get("__name__"))
    cause = error.__cause__
    return cause if module.startswith("jsonargparse") and isinstance(cause, Exception) else error


def _is_for_user(error: Exception) -> bool:
    """Returns whether an error is explained by its message alone.

    That is so if this package or the operating system raised it. All others are bugs, which need
    a traceback.
    """
    if isinstance(error, OSError) or type(error).__name__ == "WorkerDiedError":
        return True
    if not isinstance(error, ValueError | TypeError | FloatingPointError):
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__")).startswith("nnx_alexnet")


def _text(error: Exception) -> str:
    """Returns the message of an error with its notes, such as the worker that raised it."""
    text = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
    notes = getattr(error, "__notes__", ())
    # JAX adds a note about the traceback, which is not shown.
    return "\n".join([text, *(each for each in notes if "JAX_TRACEBACK_FILTERING" not in each)])


def _in_options(text: str, words: Sequence[str], error: Exception) -> str:
    """Returns the message of an error in the words of the command line."""
    is_of_system = isinstance(error, OSError) and error.errno is not None
    if not words or words[0] not in NAMES or is_of_system:
        return text
    try:
        parser = command_parser(words[0], words[1:])
    except ValueError:  # the error is about what the options depend on
        parser = command_parser(words[0])
    positionals = ["run", *(action.dest for action in parser._get_positional_actions())]
    return as_options(text, parser.option_names(), positionals, group_of(error))
