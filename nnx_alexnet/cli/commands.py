"""The subcommands of `nnx-alexnet`, one function each.

`fit` has the options of `nnx_alexnet.cli.options`. The other commands get a run folder and rebuild
everything from its `config.yaml`, which chooses what is imported: use only runs that you trust.
"""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from flax import nnx
from jsonargparse import Namespace

from nnx_alexnet.callbacks import RunSummary
from nnx_alexnet.checkpoints import load_checkpoint, load_chosen, verify_checkpoints
from nnx_alexnet.cli.cache_output import cache_line, fill_cache
from nnx_alexnet.cli.data_option import build_data
from nnx_alexnet.cli.metric_lines import metric_lines
from nnx_alexnet.cli.option_groups import GIVEN_BY_DATA
from nnx_alexnet.cli.predict_files import predict_files, rebuild_predictor
from nnx_alexnet.cli.prediction_output import open_output, write_predictions
from nnx_alexnet.cli.runs_command import runs
from nnx_alexnet.cli.saved_run import load_run, newest_run, split_run
from nnx_alexnet.cli.trainer_factory import build_evaluator, build_model, build_trainer
from nnx_alexnet.cli.verify_output import VERIFY_HEADER, verify_line
from nnx_alexnet.cli.words import run_folder_of
from nnx_alexnet.data import cache_place, find_images, list_caches, remove_cache
from nnx_alexnet.devices import initialize_distributed, is_main, on_main
from nnx_alexnet.models import summarize
from nnx_alexnet.report import run_folder, write_comparison, write_report
from nnx_alexnet.runs import find_runs, record_evaluation
from nnx_alexnet.support import (
    first_line,
    is_terminal,
    output_columns,
    print_result,
    printable,
    start_times,
    write_message,
)
from nnx_alexnet.trainer import Trainer

# Exit codes.
FAILED = 1
DAMAGED, UNREADABLE = 1, 3  # of `verify`
INTERRUPTED = 130  # after Ctrl-C, as shells report it


def fit(config: Namespace) -> int:
    """Trains a model and prints the folder of the run."""
    is_shared = initialize_distributed(**config.distributed)
    if is_shared and config.data.get("download"):
        on_main(lambda: bool(build_data(config.data)))  # the other processes then find the files
    if config.resume_weights_only and config.resume == "never":
        raise ValueError("`--resume-weights-only` needs `--resume RUN` or `--resume auto`.")
    start_times.end("options")
    data = build_data(config.data)
    start_times.end("data")
    trainer = build_trainer(config, data)
    start_times.end("model")
    resume = config.resume
    if config.resume_weights_only:
        load_checkpoint(_weights_of(resume, trainer), trainer.model, which="last")
        resume = "never"
    trainer.fit(resume=resume, accept=config.resume_accept)
    if trainer.run_dir is not None and is_main():
        with contextlib.suppress(OSError):  # the run is complete without this output
            print_result("\n".join(_where_to_look(trainer, trainer.run_dir)))
    return INTERRUPTED if trainer.interrupted else 0


def _weights_of(resume: str, trainer: Trainer) -> str | Path:
    """Returns the run whose weights are loaded; `"auto"` is the newest run of the same name."""
    if resume != "auto":
        return resume
    found = find_runs(Path(trainer.log_dir or "logs") / trainer.name)
    if not found:
        raise ValueError(f"`--resume auto` found no run of the name {trainer.name!r}.")
    return found[-1]


def _where_to_look(trainer: Trainer, run_dir: Path) -> list[str]:
    """Returns what `fit` prints to standard output, without what `RunSummary` has logged."""
    lines = [f"Run folder: {printable(run_dir)}"]
    has_summary = any(isinstance(callback, RunSummary) for callback in trainer.callbacks)
    if not has_summary:
        logs = shlex.quote(printable(run_dir.parent.parent))
        lines.append(f"Show it: tensorboard --logdir {logs}")
    if trainer.interrupted and not (has_summary and is_terminal(sys.stdout)):
        run = shlex.quote(printable(run_dir))
        lines.append(f"Resume it: nnx-alexnet fit --resume {run}")
    return lines


def verify(arguments: Namespace) -> int:
    """Prints whether each checkpoint of a run is intact, and the digest of its state."""
    status, width = 0, output_columns()
    run = newest_run() if arguments.run is None else run_folder_of(arguments.run)
    for number, row in enumerate(verify_checkpoints(run)):
        if "damage" in row:
            status = DAMAGED
        elif "error" in row:
            status = status or UNREADABLE
        if arguments.json:
            print_result(json.dumps(row))
        else:
            header = [VERIFY_HEADER] if number == 0 else []
            print_result("\n".join([*header, verify_line(row, width)]))
    return status


def evaluate(split: Literal["val", "test"], arguments: Namespace) -> int:
    """Evaluates a checkpoint of a run on its own data, prints and records the metrics."""
    chosen, config, _ = load_run(arguments.run, arguments.checkpoint)
    trainer = build_evaluator(config)
    load_chosen(chosen, trainer.model, reports=False)  # the result names the checkpoint
    metrics = trainer.validate() if split == "val" else trainer.test()
    run_dir = chosen.path.parent.parent
    record_evaluation(run_dir, metrics, split=split, step=chosen.step, reason=chosen.reason)
    if arguments.json:
        # JSON has neither NaN nor infinity.
        numbers = {name: v if math.isfinite(v) else None for name, v in metrics.items()}
        chosen_by = {"checkpoint": str(chosen.path), "reason": chosen.reason}
        print_result(json.dumps({**chosen_by, **numbers}))
    else:
        print_result(printable(f"Checkpoint: {chosen.path} ({chosen.reason})"))
        print_result("\n".join(metric_lines(metrics)))
    return 0


def predict(arguments: Namespace) -> int:
    """Writes the most probable classes of image files, and reports files that cannot be read."""
    run, paths = split_run(arguments.paths)
    chosen, config, about = load_run(run, arguments.checkpoint)
    files, problems = find_images(paths)
    predictor = rebuild_predictor(chosen, config, about, num_files=len(files))
    with open_output(arguments.output) as out:
        problems += write_predictions(
            predict_files(files, predictor),
            about["class_names"],
            top_k=arguments.top_k,
            form=arguments.format,
            out=out,
            files=files,
        )
    for problem in problems:
        write_message(f"nnx-alexnet: error: {printable(problem)}")
    return FAILED if problems else 0


def summary(arguments: Namespace) -> int:
    """Prints the table of a model's layers."""
    given = {name: arguments[name] for name in GIVEN_BY_DATA}
    model = nnx.eval_shape(lambda: build_model(arguments.model, 0, given))  # shapes, no weights
    size = arguments.image_size
    shape = (arguments.batch_size, size, size, arguments.in_channels)
    width = max(60, output_columns() or 120)
    try:
        text = summarize(model, shape, width=width)
    except Exception as error:  # whatever the layers raise for another shape
        raise ValueError(
            f"`image_size` (={size}) with `in_channels` (={arguments.in_channels}) does not suit "
            f"{arguments.model.class_path}: {type(error).__name__}: {first_line(error)} Use the "
            "size and the channels of the images that the model takes."
        ) from error
    print_result(printable(text, keep="\n"))
    return 0


def report(arguments: Namespace) -> int:
    """Writes a run, or the comparison of several, as one HTML file."""
    runs = [*map(run_folder_of, arguments.run)] or [newest_run()]
    if len(runs) > 1:
        path = write_comparison(runs, arguments.output)
    else:
        run, checkpoint = str(run_folder(runs[0])), arguments.checkpoint
        trainer = None if checkpoint == "none" else _evaluator(run, checkpoint)
        path = write_report(run, arguments.output, trainer=trainer, checkpoint=checkpoint)
    with contextlib.suppress(OSError):  # the report is complete without this output
        print_result(printable(path))
    return 0


def _evaluator(run: str, checkpoint: str) -> Trainer | None:
    """Returns a trainer with the model and the data of a run; reports why there is none."""
    try:
        _, config, _ = load_run(run, checkpoint)
        return build_evaluator(config)
    except Exception as error:  # whatever the code and the data of the run raise
        message = f"The run is not measured: {type(error).__name__}: {first_line(error)}"
        write_message(printable(message))
        return None


def cache(arguments: Namespace) -> int:
    """Fills the cache of a dataset, or lists or removes caches."""
    given = arguments.data.get("cache") or True
    place = cache_place(given)
    assert place is not None
    if arguments.remove is not None:
        try:
            removed = remove_cache(place / arguments.remove)
        except ValueError as error:
            raise ValueError(f"`--remove` (={arguments.remove}): {error}") from error
        print_result(f"Removed {cache_line(removed)}")
    elif arguments.list:
        lines = [cache_line(info) for info in list_caches(place)]
        if lines:
            print_result("\n".join(lines))
        else:
            write_message(f"There are no caches in {printable(place)}.")
    else:
        needed = {"cache": given, "drop_last": False}  # a dataset may be smaller than a batch
        for name in needed.keys() & arguments.data.keys():
            arguments.data[name] = needed[name]
        fill_cache(build_data(arguments.data))
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
    "cache": cache,
}
