"""A terminal of 80 columns, for the tests of what is drawn on one."""

import io
from types import SimpleNamespace

import pytest

from nnx_alexnet.callbacks import bar_display


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    stream = Terminal()
    fake = SimpleNamespace(stderr=stream, stdout=stream, modules={})
    monkeypatch.setattr(bar_display, "sys", fake)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    return stream
