"""`write_report`: writes a run as one self-contained HTML file, to send to a colleague.

Everything that comes from the run is escaped, and the page's own policy prevents the browser from
loading anything: images are embedded, curves are SVG, fonts are those of the reader.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnx_alexnet.dashboard import class_labels, read_newest, read_scalars
from nnx_alexnet.report.chart_groups import NORMS
from nnx_alexnet.report.checkpoint_section import checkpoint_table, read_checkpoints
from nnx_alexnet.report.curve_section import curves
from nnx_alexnet.report.example_sections import data, examples
from nnx_alexnet.report.html_parts import note, section
from nnx_alexnet.report.measuring import Measurement, measure
from nnx_alexnet.report.page_header import header
from nnx_alexnet.report.page_sections import (
    IMAGES,
    SUMMARY,
    configuration,
    environment_table,
    images,
    metrics_table,
    model_table,
)
from nnx_alexnet.report.page_template import page
from nnx_alexnet.report.result_sections import classes, confidence, main_split, overall
from nnx_alexnet.report.scores import Scores, score
from nnx_alexnet.runs import read_all, recorded_tests
from nnx_alexnet.support import absolute_path, first_line, logger, write_whole

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer

Sections = list[tuple[str, str]]


def write_report(
    run_dir: str | Path,
    path: str | Path | None = None,
    *,
    trainer: Trainer | None = None,
    checkpoint: str | int = "auto",
) -> Path:
    """Writes a run as one HTML file: results, curves, examples, data, model, configuration.

    With a `trainer`, a checkpoint of the run is measured on the validation and test splits: the
    scores of each class, calibration, examples and saliency. The trainer's model does not change.
    Without one, or if the task is not a classification, the report shows only what the run
    recorded.

    Args:
        run_dir: the folder of the run, which may still be running.
        path: the file to write (default `report.html` in the run's folder).
        trainer: has the model, the task and the data of the run (default None: nothing is
            measured).
        checkpoint: what to measure: `"auto"` (the default: the best if a metric ranked the run's
            checkpoints, else the latest), `"best"`, `"last"`, or a step.

    Returns:
        The file's absolute path.

    Raises:
        ValueError: `run_dir` is not the folder of a run, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> from nnx_alexnet.report.html_report import write_report
        >>> from nnx_alexnet.runs.folder import create_run_dir
        >>> from nnx_alexnet.runs.records import write_record
        >>> run_dir = create_run_dir(tempfile.mkdtemp(), "mine")
        >>> write_record(run_dir, {"seed": 0})
        >>> write_report(run_dir).name
        'report.html'
    """
    folder = run_folder(run_dir)
    path = output_file(path, folder / "report.html")
    why = (
        "Nothing was measured for this report. The command can measure runs that it started; from "
        "Python, call write_report(trainer.run_dir, trainer=trainer)."
    )
    measured = None
    if trainer is not None:
        try:
            measured = measure(trainer, folder, checkpoint)
        except Exception as error:  # the model, the task and the data are the user's
            why = f"The run could not be measured: {first_line(error)}"
            logger.warning("%s", why)
    write_page(path, _page(folder, measured, why))
    return path


def run_folder(run_dir: str | Path) -> Path:
    """Returns the absolute path of a run; raises a `ValueError` if it is not the folder of one."""
    folder = absolute_path(run_dir, "run")
    if not any((folder / name).is_file() for name in ("config.yaml", "metrics.jsonl")):
        raise ValueError(
            f"`run` (={str(run_dir)!r}) must be the folder of a run, such as "
            "logs/alexnet/version_0, with its config.yaml or metrics.jsonl."
        )
    return folder


def output_file(path: str | Path | None, default: Path) -> Path:
    """Returns the absolute path of the file to write; refuses a folder or a device."""
    if path is None:
        return default
    found = absolute_path(path, "output")
    if found.exists() and not found.is_file():
        raise ValueError(f"`output` (={str(found)!r}) must be a file.")
    return found


def write_page(path: Path, text: str) -> None:
    """Writes an HTML file; raises a `ValueError` if that is not possible."""
    try:
        # Arguments of a command may be bytes that are not valid text.
        write_whole(path, text.encode(errors="replace"))
    except OSError as error:
        raise ValueError(f"`output` (={str(path)!r}) cannot be written: {error}.") from error


def _page(folder: Path, measured: Measurement | None, why: str) -> str:
    run, rows, environment = read_all(folder)
    newest = read_newest(folder, [*IMAGES, SUMMARY])
    kept = read_checkpoints(folder)
    scores: dict[str, Scores] = {}
    if measured is not None:
        scores = {
            name: score(split.labels, split.probabilities)
            for name, split in measured.splits.items()
        }
    step = None if measured is None else measured.checkpoint.step
    about = kept[max(kept)].get("data", {}) if kept else {}
    about, counts, summary = about if isinstance(about, dict) else {}, {}, ""
    if SUMMARY in newest:
        summary = newest[SUMMARY].text
    if measured is not None:
        about, counts, summary = measured.data, measured.class_counts, measured.summary
    num_classes = len(scores[main_split(scores)].classes.support) if scores else 0
    names = _class_names(about, num_classes)
    bodies: dict[str, Any] = {
        **_results(measured, scores, names, why),
        "Curves": lambda: curves(rows, read_scalars(folder, [*NORMS])),
        "Metrics": lambda: metrics_table([*rows, *recorded_tests(folder)]),
        "Checkpoints": lambda: checkpoint_table(kept, step),
        "Data": lambda: data(about, counts, names),
        "Images": lambda: images(newest, is_measured=measured is not None),
        "Model": lambda: model_table(summary),
        "Configuration": lambda: configuration(folder),
        "Environment": lambda: environment_table(environment),
    }
    sections: Sections = [(title, section(title, body)) for title, body in bodies.items()]
    title = f"{folder.parent.name}/{folder.name}"
    return page(title, header(title, run, rows, environment, scores), sections)


def _results(
    measured: Measurement | None, scores: dict[str, Scores], names: list[str], why: str
) -> dict[str, Any]:
    """Returns the titles of the sections about measured results, and functions that build them."""
    if measured is None:
        return {"Results": lambda: note(why)}
    main = main_split(scores)
    split, found = measured.splits[main], scores[main]
    return {
        "Results": lambda: overall(measured, scores),
        "Classes": partial(classes, main, found, names),
        "Confidence": partial(confidence, main, split, found, names),
        "Examples": partial(examples, main, split.examples, names),
    }


def _class_names(about: dict[str, Any], num_classes: int) -> list[str]:
    given = about.get("class_names")
    return class_labels(given if isinstance(given, list | tuple) else None, num_classes)
