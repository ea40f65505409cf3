"""The sections of a report: each function returns the body of one section, as HTML."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nnx_alexnet.dashboard import Newest, StoredImage
from nnx_alexnet.report.svg_curves import OTHER, TRAIN, VAL, Curve, draw
from nnx_alexnet.runs import best_step, has_best, metric_names, series
from nnx_alexnet.support import first_line, format_value, read_whole

SUMMARY = "model/summary"  # the tag of the text
IMAGES = {  # tag to title
    "val/confusion_matrix": "Confusion matrix",
    "val/class_accuracy": "Accuracy per class",
    "val/mistakes": "Mistakes",
    "model/filters": "Filters of the first convolution",
    "train/images": "Training images as the model receives them",
}
_MAX_IMAGES = 64  # of one tag
_SMALL = 96  # pixels; a smaller image is enlarged, without smoothing
_RATES = {"lr": "learning rate", "perf/images_per_second": "examples per second"}
Rows = Sequence[Mapping[str, Any]]


def section(title: str, make_body: Callable[[], str]) -> str:
    """Returns a section, which shows the error if building its body fails."""
    try:
        body = make_body()
    except Exception as error:  # the records of a run may hold anything
        body = _note(f"This section cannot be shown: {type(error).__name__}: {first_line(error)}")
    return f"<section>\n<h2>{title}</h2>\n{body}\n</section>"


def curves(rows: Rows) -> str:
    """Returns the curves of each training and validation metric, and of the rates."""
    figures = []
    for number, (title, lines, from_zero) in enumerate([*_metric_curves(rows), *_rates(rows)]):
        if logged := [line for line in lines if line.values]:
            svg = draw(logged, name=f"{title} by step", number=number, from_zero=from_zero)
            caption = title[:1].upper() + title[1:]
            figures.append(f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>")
    if not figures:
        return _note("The run has logged no metrics yet.")
    return f'<div class="curves">{"".join(figures)}</div>'


def _metric_curves(rows: Rows) -> Iterable[tuple[str, list[Curve], bool]]:
    metrics = dict.fromkeys(
        name.partition("/")[2].removesuffix("_step") if name.startswith("train/") else name[4:]
        for name in metric_names(rows)
        if name.startswith(("train/", "val/"))
    )
    for metric in sorted(metrics, key=lambda name: (name != "loss", name != "accuracy")):
        val = series(rows, f"val/{metric}")
        best = best_step(val, metric) if len(val) > 1 and has_best(metric) else None
        lines = [
            Curve("train", series(rows, f"train/{metric}"), TRAIN),
            Curve("val", val, VAL, best=best),
            Curve("train, log points", series(rows, f"train/{metric}_step"), TRAIN, faint=True),
        ]
        yield metric, lines, False


def _rates(rows: Rows) -> Iterable[tuple[str, list[Curve], bool]]:
    for name, title in _RATES.items():
        yield title, [Curve(title, series(rows, name), OTHER)], True


def metrics_table(rows: Rows) -> str:
    """Returns a table of the last and the best value of each metric."""
    body = []
    for name in sorted(metric_names(rows), key=lambda name: (_split_order(name), name)):
        values = series(rows, name)
        if not values or name.endswith("_step"):
            continue
        last = [*values.values()][-1]
        cells = [format_value(last), "", ""]
        if name.startswith(("train/", "val/")) and has_best(name):
            step = best_step(values, name)
            cells[1:] = format_value(values[step]), f"{step:,}"
        # On a narrow page, the name breaks after these characters.
        words = re.sub(r"([/_])", r"\1<wbr>", escape(name))
        body.append(f"<tr><th>{words}</th>{''.join(f'<td>{c}</td>' for c in cells)}</tr>")
    if not body:
        return _note("The run has logged no metrics yet.")
    head = "<tr><th>metric</th><td>last</td><td>best</td><td>best step</td></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>"


def _split_order(name: str) -> int:
    order = ("val/", "test/", "train/")
    return next((i for i, split in enumerate(order) if name.startswith(split)), len(order))


def images(newest: Mapping[str, Newest]) -> str:
    """Returns the newest images of each tag, and which tags have none.

    Args:
        newest: the newest value by tag, as `read_newest` returns it.
    """
    found = {tag: newest[tag] for tag in IMAGES if tag in newest and newest[tag].images}
    parts = []
    for tag, value in found.items():
        num = len(value.images)
        left_out = f", the first {_MAX_IMAGES} of {num}" if num > _MAX_IMAGES else ""
        elements = "".join(_image(each, tag) for each in value.images[:_MAX_IMAGES])
        kind = "images" if num > 1 else "image"
        caption = f"{IMAGES[tag]} <span>{tag}, step {value.step:,}{left_out}</span>"
        parts.append(
            f"<figure><figcaption>{caption}</figcaption>"
            f'<div class="{kind}">{elements}</div></figure>'
        )
    missing = [tag for tag in IMAGES if tag not in found]
    if missing:
        parts.append(_note(f"The run has no images for {', '.join(missing)}."))
    return "\n".join(parts)


def _image(image: StoredImage, tag: str) -> str:
    data = base64.b64encode(image.png).decode()
    # An integer factor keeps the pixels square.
    factor = max(1, _SMALL // max(image.width, image.height, 1))
    small = ' class="small"' if factor > 1 else ""
    size = f'width="{image.width * factor}" height="{image.height * factor}"'
    return f'<img{small} {size} alt="{tag}" src="data:image/png;base64,{data}">'


def model_summary(found: Newest | None) -> str:
    """Returns the table of the model's layers.

    Args:
        found: the newest text of the tag; None if there is none.
    """
    if found is None or not found.text.strip():
        return _note(f"The run has no summary of its model ({SUMMARY}).")
    # TensorBoard shows texts as Markdown, so the table is in a code block.
    lines = [line for line in found.text.splitlines() if not line.startswith("```")]
    if all(line.startswith("    ") for line in lines if line.strip()):
        lines = [line[4:] for line in lines]
    return f"<pre>{escape(chr(10).join(lines).strip(chr(10)))}</pre>"


def configuration(folder: Path) -> str:
    """Returns the configuration of the run in a folder, collapsed."""
    try:
        text = read_whole(folder / "config.yaml").decode(errors="replace")
    except OSError:
        return _note("The run has no readable config.yaml.")
    return f"<details><summary>config.yaml</summary><pre>{escape(text)}</pre></details>"


def environment_table(environment: Mapping[str, Any]) -> str:
    """Returns a table of the command, the commit, the devices and the versions of packages.

    Args:
        environment: the content of `environment.json`; empty if it cannot be read.
    """
    if not environment:
        return _note("The run has no readable environment.json.")
    command, packages = environment.get("command"), environment.get("packages")
    lines: dict[str, Any] = {
        "command": shlex.join(map(str, command)) if isinstance(command, list) else command,
        "commit": environment.get("git_commit"),
        "devices": _counted(environment.get("devices")),
        "platform": environment.get("platform"),
        "python": environment.get("python"),
        **(packages if isinstance(packages, dict) else {}),
    }
    body = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in lines.items()
        if value is not None
    )
    return f'<table class="environment"><tbody>{body}</tbody></table>'


def _counted(values: object) -> str | None:
    """Joins words; shows equal words once, with their number."""
    if not isinstance(values, Iterable) or isinstance(values, str):
        return None if values is None else str(values)
    words = [str(value) for value in values]
    counted = {word: words.count(word) for word in words}
    return ", ".join(word if num == 1 else f"{num} x {word}" for word, num in counted.items())


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'
