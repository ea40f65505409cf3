"""Checks before worker processes start, and the conditions that they need to start.

Workers are not forked, so each of them imports the script that started them. A script whose code
is not guarded by `if __name__ == "__main__":` would train again in each worker.

Private names of `multiprocessing` (seen with Python 3.11) are used where it has no public ones:
`_inheriting` is the only sign that a process is still importing the script; `_config["tempdir"]`
is where it makes sockets, and stays what it was at the first use, even if that folder is removed or
its path is too long; `util.Finalize` removes a folder after everything that uses it has ended.
"""

from __future__ import annotations

import ast
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker, spawn, util
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from nnx_alexnet.support import existing_working_directory, printable, write_message

# Limit of a socket's path in bytes: 107 on Linux, 103 on macOS. Below the temporary folder, the
# path is pymp-<8 characters>/listener-<8 characters>.
_LONGEST_SOCKET = 103
_BELOW_TEMPORARY = len("/pymp-abcdefgh")
_BELOW_FOLDER = len("/listener-abcdefgh")
_SHORT_FOLDERS = ("/tmp", "/var/tmp")
_MAX_FRAME = 2**20  # bytes of a part of a pickle that is searched for names


def refuse_in_worker() -> None:
    """Ends a worker process that runs the script again instead of only importing it.

    Raises:
        SystemExit: this process is a worker that is importing the script.

    Example:
        >>> from nnx_alexnet.data.worker_start import refuse_in_worker
        >>> refuse_in_worker()  # this process is not a worker
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        write_message(
            "A worker process imported the script, which then ran again. Put the code of the "
            'script under `if __name__ == "__main__":`, or use num_workers=0.'
        )
        raise SystemExit(1)


def check_main_guard(num_workers: int) -> None:
    """Checks that workers can import the running script without running its code again.

    Notebooks, interactive sessions and `python -c` have no script to import.

    Args:
        num_workers: how many processes will be started, for the message.

    Raises:
        ValueError: the running line of the script is not guarded, or the script was deleted or
            read from standard input.
        SystemExit: see `refuse_in_worker`.

    Example:
        >>> from nnx_alexnet.data.worker_start import check_main_guard
        >>> check_main_guard(2)  # the script is pytest, which has a guard
    """
    refuse_in_worker()
    script, frame = imported_script(), _main_frame()
    if script is None:
        return
    if not script.exists() and not hasattr(sys, "frozen"):
        raise ValueError(
            f"`num_workers` (={num_workers}) starts processes that import the script "
            f"{printable(script)}, which does not exist. Run it from a file, or use num_workers=0."
        )
    if frame is None or not _runs_again(script, frame):
        return
    raise ValueError(
        f"`num_workers` (={num_workers}) starts processes that import {printable(script.name)}, "
        f"whose line {frame.f_lineno} would run again in each of them. Put that code under "
        '`if __name__ == "__main__":`, or use num_workers=0.'
    )


class _Sink:
    """A file that discards its content, and notes whether a pickle names the main module."""

    names_main = False

    def write(self, data: Any) -> None:
        # Names are in frames of 64 KiB; larger parts are single arrays or strings.
        if len(data) < _MAX_FRAME:
            self.names_main |= b"__main__" in bytes(data)


def check_can_be_sent(source: object) -> None:
    """Checks that a dataset can be pickled, and that workers can import its classes.

    Args:
        source: the object that is sent to the workers.

    Raises:
        ValueError: it cannot be pickled, or is defined in a main program that is not a script.

    Example:
        >>> from nnx_alexnet.data.worker_start import check_can_be_sent
        >>> check_can_be_sent([1, 2])
    """
    sink = _Sink()
    try:
        ForkingPickler(sink).dump(source)
    except Exception as error:  # the dataset's own methods may raise anything
        raise ValueError(
            f"The dataset cannot be sent to workers: {type(error).__name__}: {error}. Use "
            "functions of a module in place of lambdas and local functions, or num_workers=0."
        ) from error
    if sink.names_main and imported_script() is None:
        raise ValueError(
            "The dataset is defined in the main program, which workers cannot import: a notebook, "
            "an interactive session, or `python -m package`. Put it into a module of its own, or "
            "use num_workers=0."
        )


def imported_script() -> Path | None:
    """Returns the file that each worker imports as `__main__`; None if there is none.

    Example:
        >>> from nnx_alexnet.data.worker_start import imported_script
        >>> imported_script()  # nothing is imported again for `python -m pytest`
    """
    with existing_working_directory():  # its path is part of the data
        data = spawn.get_preparation_data("")
    if "init_main_from_path" in data:
        path = Path(data["init_main_from_path"])
        return None if path.stem == "ipython" else path
    name = data.get("init_main_from_name", "__main__")
    if name == "__main__" or name.endswith(".__main__"):
        return None
    origin = getattr(getattr(sys.modules["__main__"], "__spec__", None), "origin", None)
    return None if origin is None else Path(origin)


def _main_frame() -> FrameType | None:
    """Returns the frame of the script's own code if it is on the stack."""
    main = vars(sys.modules["__main__"])
    found = None
    frame: FrameType | None = sys._getframe()
    is_guard_on_the_way = False
    while frame is not None:
        if frame.f_globals is main and frame.f_code.co_name == "<module>":
            found = frame  # the outermost one; others belong to `exec`
        elif not str(frame.f_globals.get("__name__")).startswith("nnx_alexnet"):
            # A function that runs code only in the script itself, such as sacred's `automain`.
            is_guard_on_the_way |= "__main__" in frame.f_code.co_consts and found is None
        frame = frame.f_back
    return None if is_guard_on_the_way else found


def _runs_again(script: Path, frame: FrameType) -> bool:
    """Returns whether the current line of a frame runs whenever the script is imported."""
    try:
        source = script.read_bytes()
        code = compile(source, str(script), "exec", dont_inherit=True)
        tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError):  # deleted, or not Python
        return False
    if not _are_same(code, frame.f_code):  # the file was edited since the start
        return False
    return not any(_guards(node, frame.f_lineno) for node in ast.walk(tree))


def _are_same(one: CodeType, other: CodeType) -> bool:
    return one.co_code == other.co_code and one.co_linetable == other.co_linetable


def _guards(node: ast.AST, line: int) -> bool:
    """Returns whether code at a line runs only under a condition that this node contains."""
    if not isinstance(node, ast.stmt | ast.expr):
        return False
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    if not first <= line <= (node.end_lineno or first):
        return False
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return True  # its code runs later, or a decorator runs
    if isinstance(node, ast.If):  # a condition other than a guard also holds in a worker
        return any(map(_tells_processes_apart, ast.walk(node.test)))
    if isinstance(node, ast.IfExp | ast.BoolOp | ast.Match | ast.Assert):
        return any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(node))
    return False


def _tells_processes_apart(node: ast.AST) -> bool:
    """Returns whether a part of a condition is `__name__`, "__main__", is_main_process, ..."""
    words = (getattr(node, name, "") for name in ("id", "attr", "value"))
    texts = [word.lower() for word in words if isinstance(word, str)]
    return any(part in text for text in texts for part in ("__name__", "main", "process"))


@contextmanager
def ready_to_start() -> Iterator[None]:
    """Provides the conditions for processes to start inside the block.

    These are a working directory that exists, and a temporary folder whose path is short enough
    for the sockets in it. A terminal sends Ctrl-C to all processes. It is blocked in the new ones,
    since it would end a worker that is still importing its modules, and with it the run.

    Raises:
        ValueError: there is no such folder.

    Example:
        >>> from nnx_alexnet.data.worker_start import ready_to_start
        >>> with ready_to_start():
        ...     pass
    """
    has_masks = hasattr(signal, "pthread_sigmask")
    with existing_working_directory():
        check_temporary_folder()
        resource_tracker.ensure_running()  # before blocking, since its start unblocks the signal
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]) if has_masks else set()
        try:
            yield  # this process receives the signal in another thread, or afterwards
        finally:
            if has_masks:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def check_temporary_folder() -> None:
    """Chooses a short temporary folder for the sockets of workers if the default is too long.

    Raises:
        ValueError: no temporary folder can be used.
    """
    if not hasattr(os, "fork"):  # Windows has no such sockets
        return
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    folder = config.get("tempdir")
    if folder is not None and not Path(folder).is_dir():  # removed while the program ran
        folder = config["tempdir"] = None
    try:
        length = len(os.fsencode(folder or tempfile.gettempdir()))
    except OSError as error:
        raise ValueError(
            "Workers need a writable temporary folder, and there is none. Set TMPDIR to a "
            f"writable folder, or use num_workers=0. {error.strerror or error}"
        ) from error
    length += _BELOW_FOLDER + (0 if folder else _BELOW_TEMPORARY)
    if length <= _LONGEST_SOCKET:
        return
    for parent in _SHORT_FOLDERS:
        try:
            short = tempfile.mkdtemp(prefix="pymp-", dir=parent)
        except OSError:
            continue
        # Like the folder of `multiprocessing` itself, it is removed after everything else.
        util.Finalize(None, shutil.rmtree, args=(short, True), exitpriority=-100)
        config["tempdir"] = short
        return
    longest = _LONGEST_SOCKET - _BELOW_FOLDER - _BELOW_TEMPORARY
    raise ValueError(
        f"TMPDIR (={tempfile.gettempdir()!r}) is too long for the sockets of workers. Set it to a "
        f"folder of at most {longest} bytes, or use num_workers=0."
    )
