"""The command `nnx-alexnet`."""

from nnx_alexnet.cli.main import main

__all__ = [
    "main",
]
