"""The sections of a report about the records of a run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nnx_alexnet.dashboard import Newest, StoredImage
from nnx_alexnet.report.html_parts import breakable, collapsed, embedded, figure, note, table
from nnx_alexnet.report.metric_text import metric_text
from nnx_alexnet.report.svg_curves import Epochs, Rows
from nnx_alexnet.runs import best_step, class_metrics, has_best, metric_names, series
from nnx_alexnet.support import read_whole

SUMMARY = "model/summary"  # the tag of the text
_OF_VALIDATION = {  # tag to title
    "val/confusion_matrix": "Confusion matrix",
    "val/class_accuracy": "Recall per class",
    "val/mistakes": "Mistakes",
}
_OF_TRAINING = {
    "model/filters": "Filters of the first convolution",
    "train/images": "Training images as the model receives them",
}
IMAGES = _OF_VALIDATION | _OF_TRAINING
_MAX_IMAGES = 64  # of one tag
_SMALL = 96  # pixels; a smaller image is enlarged, without smoothing
_COLUMNS = ("layer", "type", "input", "output", "parameters", "statistics")


def metrics_table(rows: Rows) -> str:
    """Returns a table of the last and the best value of each metric, with their steps.

    Metrics of single classes are in a collapsed table.
    """
    body: list[list[str]] = []
    of_classes: list[list[str]] = []
    epochs, names = Epochs(rows), metric_names(rows)
    single = class_metrics(names)
    for name in sorted(names, key=lambda name: (_split_order(name), name)):
        values = series(rows, name)
        if not values or name.endswith("_step"):
            continue
        step = [*values][-1]
        cells = [metric_text(name, values[step]), f"{step:,}", "", "", ""]
        if name.startswith(("train/", "val/")) and has_best(name):
            best = best_step(values, name)
            epoch = f"{float(epochs.at(best)):.4g}" if epochs.ends else ""
            cells[2:] = metric_text(name, values[best]), f"{best:,}", epoch
        (of_classes if name in single else body).append([breakable(name), *cells])
    if not body:
        return note("The run has logged no metrics yet.")
    head = ["metric", "last", "step", "best", "step", "epoch"]
    html = table(head, body)
    if of_classes:
        title = f"Metrics of single classes: {len(of_classes):,}"
        html += collapsed(title, table(head, of_classes))
    return html


def _split_order(name: str) -> int:
    order = ("val/", "test/", "train/")
    return next((i for i, split in enumerate(order) if name.startswith(split)), len(order))


def images(newest: Mapping[str, Newest], *, is_measured: bool = False) -> str:
    """Returns the newest images of each tag, and which tags have none.

    Args:
        newest: the newest value by tag, as `read_newest` returns it.
        is_measured: whether the report has the results of the validation elsewhere.
    """
    titles = _OF_TRAINING if is_measured else IMAGES
    found = {tag: newest[tag] for tag in titles if tag in newest and newest[tag].images}
    parts = []
    for tag, value in found.items():
        num = len(value.images)
        left_out = f", the first {_MAX_IMAGES} of {num}" if num > _MAX_IMAGES else ""
        elements = "".join(_image(each, tag) for each in value.images[:_MAX_IMAGES])
        kind = "images" if num > 1 else "image"
        hint = f"{tag}, step {value.step:,}{left_out}"
        parts.append(figure(titles[tag], f'<div class="{kind}">{elements}</div>', hint))
    missing = [tag for tag in titles if tag not in found]
    if missing:
        parts.append(note(f"The run has no images for {', '.join(missing)}."))
    return "\n".join(parts)


def _image(image: StoredImage, tag: str) -> str:
    # An integer factor keeps the pixels square.
    factor = max(1, _SMALL // max(image.width, image.height, 1))
    size = image.width * factor, image.height * factor
    return embedded(image.png, tag, size, is_small=factor > 1)


def model_table(text: str) -> str:
    """Returns the table of the model's layers.

    Args:
        text: the summary as a table of text, which may be Markdown code; empty if there is none.
    """
    if not text.strip():
        return note(f"The run has no summary of its model ({SUMMARY}).")
    # TensorBoard shows texts as Markdown, so the table is in a code block.
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("```")]
    if all(line.startswith("    ") for line in lines):
        lines = [line[4:] for line in lines]
    last = next((k for k, line in enumerate(lines) if line.startswith("Total")), len(lines))
    cells = _cells(lines[:last])
    if cells is None:
        return f"<pre>{escape(chr(10).join(lines))}</pre>"
    html = [[breakable(cell) for cell in row] for row in cells]
    return table(_COLUMNS, html, kind="layers", texts=4) + "".join(map(note, lines[last:]))


def _cells(lines: Sequence[str]) -> list[list[str]] | None:
    """Returns the cells of a table of text; None if it has other columns.

    Columns are separated by two or more characters that are blank in all lines. A line without a
    type continues the cells of the line above.
    """
    if not lines or tuple(lines[0].split()) != _COLUMNS:
        return None
    width = max(map(len, lines))
    padded = [line.ljust(width) for line in lines]
    blank = "".join(
        " " if not any(column.strip() for column in c) else "x" for c in zip(*padded, strict=True)
    )
    spans = [match.span() for match in re.finditer(r"x(?: ?x)*", blank)]
    if len(spans) != len(_COLUMNS):
        return None
    rows: list[list[str]] = []
    for line in padded[1:]:
        row = [line[start:end].strip() for start, end in spans]
        if rows and not row[1]:
            rows[-1] = [above + below for above, below in zip(rows[-1], row, strict=True)]
        else:
            rows.append(row)
    return rows


def configuration(folder: Path) -> str:
    """Returns the configuration of the run in a folder, collapsed."""
    try:
        text = read_whole(folder / "config.yaml").decode(errors="replace")
    except OSError:
        return note("The run has no readable config.yaml.")
    return collapsed("config.yaml", f"<pre>{escape(text)}</pre>")


def environment_table(environment: Mapping[str, Any]) -> str:
    """Returns a table of the command, the commit, the devices and the versions of packages.

    Args:
        environment: the content of `environment.json`; empty if it cannot be read.
    """
    lines = environment_lines(environment)
    if not lines:
        return note("The run has no readable environment.json.")
    rows = [[escape(name), escape(value)] for name, value in lines.items()]
    return table(["property", "value"], rows, kind="facts", texts=2)


def environment_lines(environment: Mapping[str, Any]) -> dict[str, str]:
    """Returns the entries of an environment that a reader wants to see, as text."""
    if not environment:
        return {}
    command, packages = environment.get("command"), environment.get("packages")
    lines: dict[str, Any] = {
        "command": shlex.join(map(str, command)) if isinstance(command, list) else command,
        "commit": environment.get("git_commit"),
        "devices": _counted(environment.get("devices")),
        "platform": environment.get("platform"),
        "python": environment.get("python"),
        **(packages if isinstance(packages, dict) else {}),
    }
    return {name: str(value) for name, value in lines.items() if value is not None}


def _counted(values: object) -> str | None:
    """Joins words; shows equal words once, with their number."""
    if not isinstance(values, Iterable) or isinstance(values, str):
        return None if values is None else str(values)
    words = [str(value) for value in values]
    counted = {word: words.count(word) for word in words}
    return ", ".join(word if num == 1 else f"{num} x {word}" for word, num in counted.items())
