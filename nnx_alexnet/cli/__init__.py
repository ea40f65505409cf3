"""The command `nnx-alexnet`."""

from nnx_alexnet.cli.commands import main

__all__ = [
    "main",
]
