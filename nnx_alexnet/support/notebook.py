"""Output in a notebook: content of a cell that is replaced in place."""

from __future__ import annotations

import sys
from typing import Any


def is_notebook() -> bool:
    """Returns whether this process runs a notebook; IPython in a terminal has no kernel.

    Example:
        >>> from nnx_alexnet.support.notebook import is_notebook
        >>> is_notebook()
        False
    """
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class NotebookOutput:
    """One output of the running cell, which each call of `show` replaces.

    Only IPython's `display` and `update_display` are used, which all frontends support; no widgets.

    Example:
        >>> from nnx_alexnet.support.notebook import NotebookOutput, is_notebook
        >>> if is_notebook():
        ...     output = NotebookOutput()
        ...     output.show("<b>epoch 1</b>", "epoch 1")
    """

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, html: str, text: str) -> None:
        """Shows content in place of the previous one.

        Args:
            html: for frontends that show HTML.
            text: the same content for other frontends.
        """
        content = {"text/html": html, "text/plain": text}
        if self._handle is None:
            display = sys.modules["IPython"].display.display
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
