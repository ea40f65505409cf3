"""The command `nnx-alexnet`."""

from nnx_alexnet.cli.entry_point import main

__all__ = [
    "main",
]
