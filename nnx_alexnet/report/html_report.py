"""`write_report`: a run as one HTML file that needs nothing else, to send to a colleague.

Everything that comes from the run is escaped, and the page's own policy forbids the browser to
load anything: pictures are inside it, curves are SVG, fonts are the reader's.
"""

from __future__ import annotations

import base64
import re
import shlex
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nnx_alexnet.dashboard import Newest, Picture, read_newest
from nnx_alexnet.report.page_template import PAGE, STYLE
from nnx_alexnet.report.svg_curves import OTHER, TRAIN, VAL, Curve, draw
from nnx_alexnet.runs import (
    best_step,
    has_best,
    metric_names,
    parse_time,
    read_all,
    series,
)
from nnx_alexnet.support import (
    absolute_path,
    first_line,
    format_count,
    format_duration,
    format_value,
    read_whole,
    write_whole,
)

SUMMARY = "model/summary"
PICTURES = {
    "val/confusion_matrix": "Confusion matrix",
    "val/class_accuracy": "Accuracy of each class",
    "val/mistakes": "Mistakes",
    "model/filters": "Filters",
    "train/images": "Training images, as the model gets them",
}
_MOST_PICTURES = 64  # of one tag
_SMALL = 96  # pixels; a smaller picture is enlarged, without smoothing
_RATES = {"lr": "learning rate", "perf/images_per_second": "images per second"}
Rows = Sequence[Mapping[str, Any]]


def write_report(run_dir: str | Path, path: str | Path | None = None) -> Path:
    """Writes a run's curves, pictures, metrics, configuration and environment as one HTML file.

    Args:
        run_dir: the folder of the run, which may still be going on.
        path: the file to write (default `report.html` in the run's folder).

    Returns:
        The file's absolute path.

    Raises:
        ValueError: `run_dir` is not the folder of a run, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> from nnx_alexnet.report.html_report import write_report
        >>> from nnx_alexnet.runs.folder import create_run_dir, write_record
        >>> run_dir = create_run_dir(tempfile.mkdtemp(), "mine")
        >>> write_record(run_dir, {"seed": 0})
        >>> write_report(run_dir).name
        'report.html'
    """
    folder = absolute_path(run_dir, "run")
    if not any((folder / name).is_file() for name in ("config.yaml", "metrics.jsonl")):
        raise ValueError(
            f"`run` (={str(run_dir)!r}) must be the folder of a run, such as "
            "logs/alexnet/version_0, with its config.yaml or metrics.jsonl."
        )
    if path is None:
        path = folder / "report.html"
    else:
        path = absolute_path(path, "output")
        if path.exists() and not path.is_file():
            raise ValueError(f"`output` (={str(path)!r}) must be a file.")
    text = _page(folder)
    try:
        # Arguments of a command may be bytes that are no text.
        write_whole(path, text.encode(errors="replace"))
    except OSError as error:
        raise ValueError(f"`output` (={str(path)!r}) cannot be written: {error}.") from error
    return path


def _page(folder: Path) -> str:
    run, rows, environment = read_all(folder)
    newest = read_newest(folder, [*PICTURES, SUMMARY])
    name = f"{folder.parent.name}/{folder.name}"
    status = run["status"] or "unknown"
    sections = [
        _section("Curves", lambda: _curves(rows)),
        _section("Metrics", lambda: _metrics_table(rows)),
        _section("Pictures", lambda: _pictures(newest)),
        _section("Model", lambda: _summary(newest.get(SUMMARY))),
        _section("Configuration", lambda: _configuration(folder)),
        _section("Environment", lambda: _environment(environment)),
    ]
    return PAGE.substitute(
        title=escape(name),
        style=STYLE,
        status=escape(status),
        status_class=status if status.isalpha() else "unknown",
        when=_when(run),
        reason=_reason(run),
        tiles=_tiles(run, rows, environment),
        sections="\n".join(sections),
    )


# ---- The head ---------------------------------------------------------------------------------


def _when(run: Mapping[str, Any]) -> str:
    started, ended = parse_time(run["started"]), parse_time(run["ended"])
    parts = [] if started is None else [f"Started {started:%d %B %Y, %H:%M}"]
    if started is not None and ended is not None:
        is_same_day = started.date() == ended.date()
        parts.append(f"ended {ended:%H:%M}" if is_same_day else f"ended {ended:%d %B %Y, %H:%M}")
    return escape(", ".join(parts) or "No record of when it was started")


def _reason(run: Mapping[str, Any]) -> str:
    for name, text in [("error", "Ended by an error"), ("stop_reason", "Stopped")]:
        if run[name] is not None:
            return f'<p class="reason">{text}: {escape(str(run[name]))}</p>'
    return ""


def _tiles(run: Mapping[str, Any], rows: Rows, environment: Mapping[str, Any]) -> str:
    tiles = []
    if (best := best_metric(rows)) is not None:
        name, step, value = best
        tiles.append((f"Best {name}", format_value(value), f"at step {step:,}"))
    tested = [name for name in run if name.startswith("test/")]
    shown = [name for name in tested if name.endswith("accuracy")] or tested[:1]
    tiles += [(name, format_value(run[name]), "") for name in shown]
    if run["steps"] is not None:
        tiles.append(("Steps", f"{run['steps']:,}", format_count(run["epochs"] or 0, "epoch")))
    num_starts = 1 + len(environment.get("before", []))
    starts = f"in {num_starts} starts" if num_starts > 1 else ""
    tiles.append(("Duration", format_duration(run["duration"]), starts))
    if speeds := series(rows, "perf/images_per_second"):
        speed = statistics.median(speeds.values())
        tiles.append(("Images per second", format_value(speed), "median"))
    return "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd><dd>{escape(note)}</dd></div>"
        for label, value, note in tiles
    )


def best_metric(rows: Rows) -> tuple[str, int, float] | None:
    """Returns name, step and value of what a run is judged by: its accuracy, or else its loss.

    Example:
        >>> from nnx_alexnet.report.html_report import best_metric
        >>> best_metric([{"step": 4, "val/loss": 0.7}, {"step": 8, "val/loss": 0.5}])
        ('val/loss', 8, 0.5)
    """
    names = metric_names(rows)
    first = ("val/accuracy", "val/loss", *(n for n in names if n.startswith("val/")), "train/loss")
    for name in first:
        if values := series(rows, name):
            step = best_step(values, name) if has_best(name) else max(values)
            return name, step, values[step]
    return None


# ---- The sections -----------------------------------------------------------------------------


def _section(title: str, make: Callable[[], str]) -> str:
    try:
        body = make()
    except Exception as error:  # whatever is wrong with the records, the rest is shown
        body = _note(f"This cannot be shown: {type(error).__name__}: {first_line(error)}")
    return f"<section>\n<h2>{title}</h2>\n{body}\n</section>"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _curves(rows: Rows) -> str:
    names = metric_names(rows)
    metrics = dict.fromkeys(
        name.partition("/")[2].removesuffix("_step") if name.startswith("train/") else name[4:]
        for name in names
        if name.startswith(("train/", "val/"))
    )
    figures: list[tuple[str, list[Curve], bool]] = []
    for metric in sorted(metrics, key=lambda name: (name != "loss", name != "accuracy")):
        val = series(rows, f"val/{metric}")
        best = best_step(val, metric) if len(val) > 1 and has_best(metric) else None
        curves = [
            Curve("train", series(rows, f"train/{metric}"), TRAIN),
            Curve("val", val, VAL, best=best),
            Curve("train, log points", series(rows, f"train/{metric}_step"), TRAIN, faint=True),
        ]
        figures.append((metric, curves, False))
    for name, title in _RATES.items():
        figures.append((title, [Curve(title, series(rows, name), OTHER)], True))
    drawn = []
    for number, (title, curves, from_zero) in enumerate(figures):
        if there := [curve for curve in curves if curve.values]:
            svg = draw(there, name=f"{title} by step", number=number, from_zero=from_zero)
            head = title[:1].upper() + title[1:]
            drawn.append(f"<figure><figcaption>{escape(head)}</figcaption>{svg}</figure>")
    if not drawn:
        return _note("The run has logged no metrics yet.")
    return f'<div class="curves">{"".join(drawn)}</div>'


def _metrics_table(rows: Rows) -> str:
    body = []
    for name in sorted(metric_names(rows), key=lambda name: (_group(name), name)):
        values = series(rows, name)
        if not values or name.endswith("_step"):
            continue
        last = [*values.values()][-1]
        cells = [format_value(last), "", ""]
        if name.startswith(("train/", "val/")) and has_best(name):
            step = best_step(values, name)
            cells[1:] = format_value(values[step]), f"{step:,}"
        # A narrow page breaks the name where it has a joint.
        words = re.sub(r"([/_])", r"\1<wbr>", escape(name))
        body.append(f"<tr><th>{words}</th>{''.join(f'<td>{c}</td>' for c in cells)}</tr>")
    if not body:
        return _note("The run has logged no metrics yet.")
    head = "<tr><th>metric</th><td>last</td><td>best</td><td>best at step</td></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>"


def _group(name: str) -> int:
    order = ("val/", "test/", "train/")
    return next((i for i, split in enumerate(order) if name.startswith(split)), len(order))


def _pictures(newest: Mapping[str, Newest]) -> str:
    there = {tag: newest[tag] for tag in PICTURES if tag in newest and newest[tag].pictures}
    parts = []
    for tag, found in there.items():
        num = len(found.pictures)
        left_out = f", the first {_MOST_PICTURES} of {num}" if num > _MOST_PICTURES else ""
        pictures = "".join(_picture(each, tag) for each in found.pictures[:_MOST_PICTURES])
        kind = "pictures" if num > 1 else "picture"
        caption = f"{PICTURES[tag]} <span>{tag}, step {found.step:,}{left_out}</span>"
        parts.append(
            f"<figure><figcaption>{caption}</figcaption>"
            f'<div class="{kind}">{pictures}</div></figure>'
        )
    missing = [tag for tag in PICTURES if tag not in there]
    if missing:
        parts.append(_note(f"The run has no pictures of {', '.join(missing)}."))
    return "\n".join(parts)


def _picture(picture: Picture, tag: str) -> str:
    data = base64.b64encode(picture.png).decode()
    # Whole multiples keep the pixels square.
    factor = max(1, _SMALL // max(picture.width, picture.height, 1))
    small = ' class="small"' if factor > 1 else ""
    size = f'width="{picture.width * factor}" height="{picture.height * factor}"'
    return f'<img{small} {size} alt="{tag}" src="data:image/png;base64,{data}">'


def _summary(found: Newest | None) -> str:
    if found is None or not found.text.strip():
        return _note(f"The run has not written a summary of its model ({SUMMARY}).")
    # TensorBoard shows texts as Markdown, so a table in it stands in a block of code.
    lines = [line for line in found.text.splitlines() if not line.startswith("```")]
    if all(line.startswith("    ") for line in lines if line.strip()):
        lines = [line[4:] for line in lines]
    return f"<pre>{escape(chr(10).join(lines).strip(chr(10)))}</pre>"


def _configuration(folder: Path) -> str:
    try:
        text = read_whole(folder / "config.yaml").decode(errors="replace")
    except OSError:
        return _note("The run has no config.yaml that can be read.")
    return f"<details><summary>config.yaml</summary><pre>{escape(text)}</pre></details>"


def _environment(environment: Mapping[str, Any]) -> str:
    if not environment:
        return _note("The run has no environment.json that can be read.")
    command, packages = environment.get("command"), environment.get("packages")
    lines: dict[str, Any] = {
        "command": shlex.join(map(str, command)) if isinstance(command, list) else command,
        "commit": environment.get("git_commit"),
        "devices": _listed(environment.get("devices")),
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


def _listed(values: object) -> str | None:
    """Joins words; equal ones are counted."""
    if not isinstance(values, Iterable) or isinstance(values, str):
        return None if values is None else str(values)
    words = [str(value) for value in values]
    counted = {word: words.count(word) for word in words}
    return ", ".join(word if num == 1 else f"{num} x {word}" for word, num in counted.items())
