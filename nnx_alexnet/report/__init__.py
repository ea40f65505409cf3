"""The HTML report of a run, in one file."""

from nnx_alexnet.report.html_report import write_report

__all__ = [
    "write_report",
]
