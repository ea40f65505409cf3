"""The command `nnx-alexnet`: what each of its subcommands does.

`fit` takes the options of `nnx_alexnet.options`. The other commands take a run folder and rebuild
everything from its `config.yaml`, which chooses what is imported: run only those that you trust.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flax import nnx
from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt

from nnx_alexnet.callbacks import RunSummary
from nnx_alexnet.checkpoints import (
    UNREADABLE,
    find_checkpoint,
    find_steps,
    first_line,
    load_checkpoint,
    read_checkpoint,
    read_manifest,
)
from nnx_alexnet.compilation import use_compilation_cache
from nnx_alexnet.data import DataModule, ImageTransform, load_data
from nnx_alexnet.data.folder import decode, resized_side
from nnx_alexnet.manifest import state_digest
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
from nnx_alexnet.runs import find_runs
from nnx_alexnet.summary import summarize
from nnx_alexnet.trainer import Trainer
from nnx_alexnet.version import __version__

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


def fit(config: Namespace) -> int:
    """Trains, and says where the run is."""
    resume = config.resume
    if config.resume_weights_only and resume == "never":
        raise ValueError("`--resume-weights-only` needs `--resume RUN`, or `--resume auto`.")
    trainer = build_trainer(config, load_data(**config.data))
    if config.resume_weights_only:
        if resume == "auto":
            runs = find_runs(Path(trainer.log_dir or "logs") / trainer.name)
            if not runs:
                raise ValueError(f"`--resume auto` found no run of the name {trainer.name!r}.")
            resume = runs[-1]
        load_checkpoint(resume, trainer.model, which="last")
        resume = "never"
    trainer.fit(resume=resume)
    if trainer.run_dir is not None:
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
    folder = Path(arguments.run).expanduser().resolve()
    folder = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    steps = find_steps(folder) or {0: find_checkpoint(folder)}
    num_damaged = 0
    for path in steps.values():
        row: dict[str, Any] = {"checkpoint": str(path)}
        try:
            saved = read_checkpoint(path)
            row |= {"step": saved.step, "digest": state_digest(read_manifest(path))}
        except UNREADABLE as error:
            num_damaged += 1
            row["damage"] = first_line(error)
        if arguments.json:
            print(json.dumps(row))
        elif "damage" in row:
            print(f"{path.name:>10}  damaged  {row['damage']}")
        else:
            print(f"{path.name:>10}  whole    {row['digest']}")
    return 1 if num_damaged else 0


def evaluate(split: Literal["val", "test"], arguments: Namespace) -> int:
    """Evaluates a checkpoint of a run on its own data, and prints the metrics."""
    folder, config, _ = load_run(arguments.run, arguments.checkpoint)
    config.trainer.log_dir, config.trainer.progress_bar = None, False
    trainer = build_trainer(config, load_data(**config.data))
    load_checkpoint(folder, trainer.model)
    metrics = trainer.validate() if split == "val" else trainer.test()
    if arguments.json:
        print(json.dumps({"checkpoint": str(folder), **metrics}))
    else:
        print(f"Checkpoint: {folder}")
        for name, value in metrics.items():
            print(f"{name:<24}{value:.4f}")
    return 0


def predict(arguments: Namespace) -> int:
    """Prints the most probable classes of image files."""
    folder, config, about = load_run(arguments.run, arguments.checkpoint)
    height, width, channels = about["image"]
    if height != width or channels not in (1, 3):
        raise ValueError(
            f"`run` (={arguments.run!r}) was trained on images of shape {about['image']}; image "
            "files become squares of 1 or 3 channels. Use Trainer.predict from Python."
        )
    is_cut_out = config.data.name in ("folder", "imagenet") and not config.data.augment
    resize = resized_side(height) if is_cut_out else height  # as the run's own files were
    images = np.stack(
        [decode(path, resize=resize, size=height, channels=channels) for path in arguments.images]
    )
    transform = ImageTransform(**about["transform"])
    data = DataModule(
        (images, np.zeros(len(images), np.int32)),
        batch_size=min(64, len(images)),
        transform=transform,
        class_names=about["class_names"],
    )
    size, _, _ = data.image_shape
    given = {
        "num_classes": about["num_classes"],
        "image_size": size,
        "in_channels": channels,
    }
    model = build_model(config.model, config.seed, given)
    load_checkpoint(folder, model)
    task = fit_parser().instantiate(config).task
    trainer = Trainer(model, data, task=task, log_dir=None, progress_bar=False)
    rows = trainer.predict(images)
    if getattr(rows, "ndim", None) != 2:
        raise ValueError(
            f"`run` (={arguments.run!r}) has the task {type(task).__name__}, which predicts no "
            "classes. Use Trainer.predict from Python."
        )
    names = about["class_names"] or [str(number) for number in range(rows.shape[1])]
    for path, row in zip(arguments.images, rows, strict=True):
        best = np.argsort(-row, kind="stable")[: arguments.top_k]
        classes = [{"class": names[k], "probability": float(row[k])} for k in best]
        if arguments.json:
            print(json.dumps({"file": path, "classes": classes}))
        else:
            print(path, *(f"{c['class']} {c['probability']:.4f}" for c in classes), sep="  ")
    return 0


def summary(arguments: Namespace) -> int:
    """Prints the table of a model's layers."""
    given = {name: arguments[name] for name in GIVEN_BY_DATA}
    model = nnx.eval_shape(lambda: build_model(arguments.model, 0, given))  # no weights are drawn
    size = arguments.image_size
    print(summarize(model, (arguments.batch_size, size, size, arguments.in_channels)))
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
        ("predict", "Print classes and probabilities of image files."),
    ]:
        sub = Parser(description=text, allow_abbrev=False)
        run_help = "Folder of a run, logs/<name>/version_<n>"
        if name == "predict":
            sub.add_argument("run", help=run_help)
            sub.add_argument("images", nargs="+", help="Image files.")
            sub.add_argument("--top_k", type=PositiveInt, default=1, help="Classes an image.")
        else:
            sub.add_argument("run", nargs="?", help=f"{run_help} (default: the newest in ./logs)")
        sub.add_argument("--checkpoint", default="best", help="best, last, or a step.")
        sub.add_argument("--json", action="store_true", help="Print JSON.")
        commands.add_subcommand(name, sub, help=text)
    text = "Check the digests of a run's checkpoints, and print one of each whole training state."
    sub = Parser(description=text, allow_abbrev=False)
    sub.add_argument("run", help="Folder of a run, or one checkpoint in it")
    sub.add_argument("--json", action="store_true", help="Print JSON.")
    commands.add_subcommand("verify", sub, help=text)
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
    "summary": summary,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command `nnx-alexnet`.

    Args:
        argv: the arguments (default: those of the process).

    Returns:
        The exit status: 0; 1 for an input that does not work; 130 after Ctrl-C.
    """
    keep_freed_memory()
    use_compilation_cache()
    # `--data NAME` is short for `--data.name NAME`; a configuration file keeps its meaning.
    words = [
        re.sub(r"^--data=(?=\w+$)", "--data.name=", word)
        for word in (sys.argv[1:] if argv is None else argv)
    ]
    for number, word in enumerate(words[:-1]):
        if word == "--data" and re.fullmatch(r"\w+", words[number + 1]):
            words[number] = "--data.name"
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
