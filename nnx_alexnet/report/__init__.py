"""One HTML file that shows a whole run."""

from nnx_alexnet.report.html_report import write_report

__all__ = [
    "write_report",
]
