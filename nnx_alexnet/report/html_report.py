"""`write_report`: writes a run as one self-contained HTML file, to send to a colleague.

Everything that comes from the run is escaped, and the page's own policy prevents the browser from
loading anything: images are embedded, curves are SVG, fonts are those of the reader.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from nnx_alexnet.dashboard import read_newest
from nnx_alexnet.report.page_header import end_reason, period, tiles
from nnx_alexnet.report.page_sections import (
    IMAGES,
    SUMMARY,
    configuration,
    curves,
    environment_table,
    images,
    metrics_table,
    model_summary,
    section,
)
from nnx_alexnet.report.page_template import PAGE, STYLE
from nnx_alexnet.runs import read_all
from nnx_alexnet.support import absolute_path, write_whole


def write_report(run_dir: str | Path, path: str | Path | None = None) -> Path:
    """Writes a run's curves, images, metrics, configuration and environment as one HTML file.

    Args:
        run_dir: the folder of the run, which may still be running.
        path: the file to write (default `report.html` in the run's folder).

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
        # Arguments of a command may be bytes that are not valid text.
        write_whole(path, text.encode(errors="replace"))
    except OSError as error:
        raise ValueError(f"`output` (={str(path)!r}) cannot be written: {error}.") from error
    return path


def _page(folder: Path) -> str:
    run, rows, environment = read_all(folder)
    newest = read_newest(folder, [*IMAGES, SUMMARY])
    status = run["status"] or "unknown"
    sections = [
        section("Curves", lambda: curves(rows)),
        section("Metrics", lambda: metrics_table(rows)),
        section("Images", lambda: images(newest)),
        section("Model", lambda: model_summary(newest.get(SUMMARY))),
        section("Configuration", lambda: configuration(folder)),
        section("Environment", lambda: environment_table(environment)),
    ]
    return PAGE.substitute(
        title=escape(f"{folder.parent.name}/{folder.name}"),
        style=STYLE,
        status=escape(status),
        status_class=status if status.isalpha() else "unknown",
        period=period(run),
        reason=end_reason(run),
        tiles=tiles(run, rows, environment),
        sections="\n".join(sections),
    )
