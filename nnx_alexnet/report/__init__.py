"""The HTML report of a run, and the comparison of several, each in one file."""

from nnx_alexnet.report.comparison import write_comparison
from nnx_alexnet.report.html_report import run_folder, write_report

__all__ = [
    "run_folder",
    "write_comparison",
    "write_report",
]
