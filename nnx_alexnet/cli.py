"""The command `nnx-alexnet`: what each of its subcommands does.

`fit` takes the options of `nnx_alexnet.options`. The other commands take a run folder and rebuild
everything from its `config.yaml`, which chooses what is imported: run only those that you trust.
"""

from __future__ import annotations

import json
import os
import re
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
from jsonargparse.typing import PositiveInt

from nnx_alexnet.callbacks import RunSummary
from nnx_alexnet.checkpoints import load_checkpoint, load_chosen, verify_checkpoints
from nnx_alexnet.compilation import use_compilation_cache
from nnx_alexnet.data import ImageTransform, load_data
from nnx_alexnet.data.folder import decode, resized_side
from nnx_alexnet.distributed import initialize_distributed, leave
from nnx_alexnet.listing import format_runs, sort_runs
from nnx_alexnet.memory import keep_freed_memory
from nnx_alexnet.options import (
    GIVEN_BY_DATA,
    Parser,
    add_model,
    build_model,
    build_trainer,
    fit_parser,
    load_run,
)
from nnx_alexnet.predicting import (
    Format,
    compile_probabilities,
    find_images,
    open_output,
    predict_files,
    write_predictions,
)
from nnx_alexnet.processes import is_main, on_main
from nnx_alexnet.report import write_report
from nnx_alexnet.runs import find_runs, list_runs
from nnx_alexnet.summary import summarize
from nnx_alexnet.version import __version__

PREDICTED_TOGETHER = 64  # image files, by `predict`
INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended
DAMAGED, UNREADABLE = 1, 3  # of `verify`


def fit(config: Namespace) -> int:
    """Trains, and says where the run is."""
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
    trainer.fit(resume=resume)
    if trainer.run_dir is not None and is_main():
        # For scripts too, which read standard output; the rest `RunSummary` has said.
        print(f"Run folder: {trainer.run_dir}")
        is_said = any(isinstance(callback, RunSummary) for callback in trainer.callbacks)
        if not is_said:
            print(f"Look at it: tensorboard --logdir {trainer.run_dir.parent.parent}")
        if trainer.interrupted and not (is_said and sys.stdout.isatty()):
            print(f"Go on with it: nnx-alexnet fit --resume {trainer.run_dir}")
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
        print(json.dumps(row) if arguments.json else line)
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
        chosen_by = {"checkpoint": str(chosen.path), "reason": chosen.reason}
        print(json.dumps({**chosen_by, **metrics}))
    else:
        print(f"Checkpoint: {chosen.path} ({chosen.reason})")
        for name, value in metrics.items():
            print(f"{name:<24}{value:.4f}")
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
        print(f"nnx-alexnet: error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def summary(arguments: Namespace) -> int:
    """Prints the table of a model's layers."""
    given = {name: arguments[name] for name in GIVEN_BY_DATA}
    model = nnx.eval_shape(lambda: build_model(arguments.model, 0, given))  # no weights are drawn
    size = arguments.image_size
    print(summarize(model, (arguments.batch_size, size, size, arguments.in_channels)))
    return 0


def runs(arguments: Namespace) -> int:
    """Prints a table of all runs."""
    rows: Sequence[Mapping[str, Any]] = list_runs(arguments.logs)
    if not rows:
        print(f"There is no run in {arguments.logs}.", file=sys.stderr)
        return 0
    if arguments.sort is not None:
        rows = sort_runs(rows, arguments.sort)
    if arguments.json:
        print("\n".join(map(json.dumps, rows)))
    else:
        # What reads a file or a pipe wants the names whole.
        has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
        width = shutil.get_terminal_size().columns if has_width else sys.maxsize
        print(format_runs(rows, width))
        print("val/ has the best of a run, every other column the newest.", file=sys.stderr)
    return 0


def report(arguments: Namespace) -> int:
    """Writes a run as one HTML file."""
    print(write_report(arguments.run, arguments.output))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="nnx-alexnet",
        description="Train AlexNet, or a Flax NNX model of your own, and use it.",
        allow_abbrev=False,
        version=__version__,
    )
    commands = parser.add_subcommands(dest="command")
    commands.add_subcommand("fit", fit_parser(), help="Train a model.")
    for name, text in [
        ("validate", "Evaluate a run on the validation split."),
        ("test", "Evaluate a run on the test split."),
        ("predict", "Write classes and probabilities of image files."),
    ]:
        sub = Parser(description=text, allow_abbrev=False)
        run_help = "Folder of a run, logs/<name>/version_<n>"
        if name == "predict":
            sub.add_argument("run", help=run_help)
            sub.add_argument("paths", nargs="+", help="Image files, and folders of them.")
            sub.add_argument("--top_k", type=PositiveInt, default=1, help="Classes an image.")
            sub.add_argument("--format", type=Format, default="text", help="Of what is written.")
            sub.add_argument("--output", help="File to write (default: standard output)")
        else:
            sub.add_argument("run", nargs="?", help=f"{run_help} (default: the newest in ./logs)")
            sub.add_argument("--json", action="store_true", help="Print JSON.")
        sub.add_argument(
            "--checkpoint",
            default="auto",
            help="auto (the best if a metric ranked them, else the latest), best, last, or a step.",
        )
        commands.add_subcommand(name, sub, help=text)
    text = "Check the digests of a run's checkpoints, and print one of each whole training state."
    sub = Parser(description=text, allow_abbrev=False)
    sub.add_argument("run", help="Folder of a run, or one checkpoint in it")
    sub.add_argument("--json", action="store_true", help="Print JSON.")
    commands.add_subcommand("verify", sub, help=text)
    text = "Print a table of all runs: how each ended, and its metrics."
    sub = Parser(description=text, allow_abbrev=False)
    sub.add_argument("logs", nargs="?", default="logs", help="Folder of runs (default: logs)")
    sub.add_argument("--sort", help="A column, or a metric such as val/accuracy; the best first.")
    sub.add_argument("--json", action="store_true", help="Print a JSON object a run.")
    commands.add_subcommand("runs", sub, help=text)
    text = "Write a run as one HTML file: curves, pictures, metrics, configuration."
    sub = Parser(description=text, allow_abbrev=False)
    sub.add_argument("run", help="Folder of a run, logs/<name>/version_<n>")
    sub.add_argument("--output", help="The file to write (default: report.html in the run)")
    commands.add_subcommand("report", sub, help=text)
    text = "Print a model's layers, parameters and batch statistics."
    sub = Parser(description=text, allow_abbrev=False)
    add_model(sub)
    for name, default in [
        ("num_classes", 10), ("image_size", 96), ("in_channels", 1), ("batch_size", 10)
    ]:  # fmt: skip
        sub.add_argument(f"--{name}", type=PositiveInt, default=default)
    commands.add_subcommand("summary", sub, help=text)
    return parser


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
        checkpoint; 3 of `verify` where one could not be read; 130 after Ctrl-C.
    """
    keep_freed_memory()
    use_compilation_cache()
    if (here := str(Path.cwd())) not in sys.path:  # as for `python -m`, but last
        sys.path.append(here)
    # `--data NAME` is short for `--data.name NAME`; a configuration file keeps its meaning.
    words = [
        re.sub(r"^--(data|optimizer)=(?=\w+$)", r"--\1.name=", word)
        for word in (sys.argv[1:] if argv is None else argv)
    ]
    for number, word in enumerate(words[:-1]):
        if word in ("--data", "--optimizer") and re.fullmatch(r"\w+", words[number + 1]):
            words[number] += ".name"
    config = _parser().parse_args(_with_saved_config(words))
    arguments = config[config.command]
    # Outside a run Ctrl-C ends the command at once, and so does the second one inside it.
    if argv is None and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return COMMANDS[config.command](arguments)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        if not _is_ours(error):
            raise
        print(f"nnx-alexnet: error: {error}", file=sys.stderr)
        if jax.distributed.is_initialized():
            leave(1)
        return 1


def _with_saved_config(words: list[str]) -> list[str]:
    """Puts the configuration of a run that is resumed before the options, which go before it."""
    for number, word in enumerate(words):
        name, _, value = word.partition("=")
        run = value or (words[number + 1] if number + 1 < len(words) else "")
        if name == "--resume" and "--config" not in words and words[:1] == ["fit"]:
            config = Path(run).expanduser() / "config.yaml"
            if config.is_file() and "--resume-weights-only" not in words:
                return ["fit", "--config", str(config), *words[1:]]
    return words


def _is_ours(error: BaseException) -> bool:
    """Whether this package raised it: then its text is all that a user needs."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__")).startswith("nnx_alexnet")
