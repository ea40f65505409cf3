"""The command `nnx-alexnet`: what each of its subcommands does.

`fit` takes the options of `nnx_alexnet.cli.options`. The other commands take a run folder and
rebuild everything from its `config.yaml`, which chooses what is imported: run only those that you
trust.
"""

from __future__ import annotations

import contextlib
import json
import locale
import math
import os
import re
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx
from jsonargparse import Namespace

from nnx_alexnet.callbacks import RunSummary
from nnx_alexnet.checkpoints import load_checkpoint, load_chosen, verify_checkpoints
from nnx_alexnet.cli.options import (
    GIVEN_BY_DATA,
    build_model,
    build_trainer,
    fit_parser,
    load_run,
)
from nnx_alexnet.cli.parser import command_parser, complete
from nnx_alexnet.cli.predict_files import compile_probabilities, find_images, predict_files
from nnx_alexnet.cli.prediction_output import open_output, write_predictions
from nnx_alexnet.cli.runs_table import format_runs, sort_runs
from nnx_alexnet.data import ImageTransform, WorkerDiedError, decode, load_data, resized_side
from nnx_alexnet.devices import (
    initialize_distributed,
    is_main,
    keep_freed_memory,
    leave,
    on_main,
    use_compilation_cache,
)
from nnx_alexnet.models import summarize
from nnx_alexnet.report import write_report
from nnx_alexnet.runs import find_runs, list_runs
from nnx_alexnet.support import (
    escape_unencodable,
    existing_working_directory,
    has_working_directory,
    is_terminal,
    open_standard_descriptors,
    print_result,
    printable,
    settle_streams,
    write_message,
)

PREDICTED_TOGETHER = 64  # image files, by `predict`
# Exit codes after Ctrl-C, and after the reader of the output has gone, as shells report them.
INTERRUPTED, UNREAD = 130, 141
DAMAGED, UNREADABLE = 1, 3  # of `verify`


def fit(config: Namespace) -> int:
    """Trains, and prints where the run is."""
    is_shared = initialize_distributed(**config.distributed)
    if is_shared and config.data.get("download"):
        on_main(lambda: bool(load_data(**config.data)))  # the others find it there, or follow
    resume = config.resume
    if config.resume_weights_only and resume == "never":
        raise ValueError("`--resume-weights-only` needs `--resume RUN`, or `--resume auto`.")
    trainer = build_trainer(config, load_data(**config.data))
    if config.resume_weights_only:
        if resume == "auto":
            found = find_runs(Path(trainer.log_dir or "logs") / trainer.name)
            if not found:
                raise ValueError(f"`--resume auto` found no run of the name {trainer.name!r}.")
            resume = found[-1]
        load_checkpoint(resume, trainer.model, which="last")
        resume = "never"
    trainer.fit(resume=resume, accept=config.resume_accept)
    if trainer.run_dir is not None and is_main():
        # For scripts too, which read standard output; `RunSummary` has logged the rest.
        lines = [f"Run folder: {printable(trainer.run_dir)}"]
        has_summary = any(isinstance(callback, RunSummary) for callback in trainer.callbacks)
        if not has_summary:
            logs = shlex.quote(printable(trainer.run_dir.parent.parent))
            lines.append(f"Look at it: tensorboard --logdir {logs}")
        if trainer.interrupted and not (has_summary and is_terminal(sys.stdout)):
            run = shlex.quote(printable(trainer.run_dir))
            lines.append(f"Resume it: nnx-alexnet fit --resume {run}")
        with contextlib.suppress(OSError):  # the run is complete, whoever reads of it
            print_result("\n".join(lines))
    return INTERRUPTED if trainer.interrupted else 0


def verify(arguments: Namespace) -> int:
    """Prints for each checkpoint of a run whether it is whole, and the digest of its state."""
    status = 0
    for row in verify_checkpoints(arguments.run):
        name = f"{Path(row['checkpoint']).name:>10}"
        if "damage" in row:
            status, line = DAMAGED, f"{name}  damaged  {row['damage']}"
        elif "error" in row:
            status = status or UNREADABLE
            line = f"{name}  unknown  could not be read: {row['error']}"
        else:
            line = f"{name}  whole    {row['digest']}"
        print_result(json.dumps(row) if arguments.json else printable(line))
    return status


def evaluate(split: Literal["val", "test"], arguments: Namespace) -> int:
    """Evaluates a checkpoint of a run on its own data, and prints the metrics."""
    chosen, config, _ = load_run(arguments.run, arguments.checkpoint)
    config.trainer.log_dir, config.trainer.progress_bar = None, False
    # It may have been trained on devices that this machine does not have.
    config.trainer.devices, config.trainer.mesh, config.trainer.shard_state = "auto", None, False
    trainer = build_trainer(config, load_data(**config.data))
    load_chosen(chosen, trainer.model)
    metrics = trainer.validate() if split == "val" else trainer.test()
    if arguments.json:
        # JSON has no NaN and no infinity.
        numbers = {name: v if math.isfinite(v) else None for name, v in metrics.items()}
        chosen_by = {"checkpoint": str(chosen.path), "reason": chosen.reason}
        print_result(json.dumps({**chosen_by, **numbers}))
    else:
        print_result(printable(f"Checkpoint: {chosen.path} ({chosen.reason})"))
        for name, value in metrics.items():
            print_result(f"{printable(name):<24}{value:.4f}")
    return 0


def predict(arguments: Namespace) -> int:
    """Writes the most probable classes of image files, and at the end which it could not read."""
    chosen, config, about = load_run(arguments.run, arguments.checkpoint)
    image = tuple(about["image"])
    if len(image) != 3 or image[0] != image[1] or image[2] not in (1, 3):
        raise ValueError(
            f"`run` (={arguments.run!r}) was trained on images of shape {list(image)}; image "
            "files become squares of 1 or 3 channels. Use Trainer.predict from Python."
        )
    side, _, channels = image
    files, problems = find_images(arguments.paths)
    shape = (min(PREDICTED_TOGETHER, max(1, len(files))), *image)
    transform = ImageTransform(**about["transform"])
    given = {
        "num_classes": about["num_classes"],
        "image_size": jax.eval_shape(transform, jax.ShapeDtypeStruct(shape, np.uint8)).shape[1],
        "in_channels": channels,
    }
    model = build_model(config.model, config.seed, given)
    load_chosen(chosen, model)  # which logs which it is, and why
    task = fit_parser().instantiate(config).task
    probabilities = compile_probabilities(model, task, transform, shape)
    is_cut_out = config.data.name in ("folder", "imagenet") and not config.data.augment
    resize = resized_side(side) if is_cut_out else side  # as the run's own files were
    read = partial(decode, resize=resize, size=side, channels=channels)
    with open_output(arguments.output) as out:
        problems += write_predictions(
            predict_files(files, read, probabilities, shape),
            about["class_names"],
            top_k=arguments.top_k,
            form=arguments.format,
            out=out,
        )
    for problem in problems:
        write_message(f"nnx-alexnet: error: {printable(problem)}")
    return 1 if problems else 0


def summary(arguments: Namespace) -> int:
    """Prints the table of a model's layers."""
    given = {name: arguments[name] for name in GIVEN_BY_DATA}
    model = nnx.eval_shape(lambda: build_model(arguments.model, 0, given))  # no weights are drawn
    size = arguments.image_size
    shape = (arguments.batch_size, size, size, arguments.in_channels)
    print_result(printable(summarize(model, shape), keep="\n"))
    return 0


def runs(arguments: Namespace) -> int:
    """Prints a table of all runs."""
    rows: Sequence[Mapping[str, Any]] = list_runs(arguments.logs)
    if not rows:
        write_message(f"There is no run in {printable(arguments.logs)}.")
        return 0
    if arguments.sort is not None:
        rows = sort_runs(rows, arguments.sort)
    if arguments.json:
        print_result("\n".join(map(json.dumps, rows)))
    else:
        # What reads a file or a pipe wants the names whole.
        has_width = is_terminal(sys.stdout) or "COLUMNS" in os.environ
        width = shutil.get_terminal_size().columns if has_width else None
        print_result(format_runs(rows, width))
        write_message(
            "Losses and accuracies of val/ are the best of each run, all other columns the newest."
        )
    return 0


def report(arguments: Namespace) -> int:
    """Writes a run as one HTML file."""
    path = write_report(arguments.run, arguments.output)
    with contextlib.suppress(OSError):  # it is written, whoever reads where
        print_result(printable(path))
    return 0


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "fit": fit,
    "validate": partial(evaluate, "val"),
    "test": partial(evaluate, "test"),
    "predict": predict,
    "verify": verify,
    "runs": runs,
    "report": report,
    "summary": summary,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command `nnx-alexnet`.

    Args:
        argv: the arguments (default: those of the process).

    Returns:
        The exit status: 0; 1 for an input that does not work, and of `verify` for a damaged
        checkpoint; 3 of `verify` where one could not be read; 130 after Ctrl-C; 141 if whoever
        reads the output is gone.
    """
    open_standard_descriptors()
    escape_unencodable(sys.stdout)
    if argv is None:
        _prepare_process()
    try:
        with existing_working_directory():
            return _run(sys.argv[1:] if argv is None else argv, is_alone=argv is None)
    finally:
        settle_streams()


def _prepare_process() -> None:
    """Sets what is the process's, which is this command's alone."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # argparse and others expect streams
            with contextlib.suppress(OSError):
                null = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
                setattr(sys, name, null)
    if locale.getencoding().lower() not in ("utf-8", "utf8"):
        # jsonargparse reads configuration files in the locale's encoding, but YAML is UTF-8.
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, "C.UTF-8")


def _run(words: Sequence[str], *, is_alone: bool) -> int:
    """Parses the arguments and runs the command that they name; `is_alone`: nothing else runs."""
    keep_freed_memory()
    use_compilation_cache()
    if has_working_directory() and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # as for `python -m`, but last
    try:
        config = command_parser().parse_args(complete(words))
        # Outside a run Ctrl-C ends the command at once, and so does the second one inside it.
        if is_alone and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        return COMMANDS[config.command](config[config.command])
    except BrokenPipeError:
        return UNREAD
    except Exception as error:
        if not _is_for_user(error):
            raise
        write_message(f"nnx-alexnet: error: {printable(_text(error), keep=chr(10))}")
        if jax.distributed.is_initialized():
            leave(1)
        return 1


def _is_for_user(error: Exception) -> bool:
    """Returns whether the text of an error is all that a user needs; a bug needs its traceback.

    That is so for what this package raised, and for what the operating system refused.
    """
    if isinstance(error, OSError | WorkerDiedError):
        return True
    if not isinstance(error, ValueError | TypeError | FloatingPointError):
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__")).startswith("nnx_alexnet")


def _text(error: Exception) -> str:
    """Returns what an error says, with its notes, such as where a worker raised it."""
    text = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
    return "\n".join([text, *getattr(error, "__notes__", ())])
