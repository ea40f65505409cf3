import io
import logging
from types import SimpleNamespace

import pytest

from nnx_alexnet.callbacks import bar_display
from nnx_alexnet.callbacks.bar_display import BarDisplay
from nnx_alexnet.support.log import logger


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    return terminal


def position(columns):
    return "step {n}/{total} of " + str(columns)


def test_a_terminal_line_is_drawn_over_the_one_before(terminal):
    display = BarDisplay()
    display.open(3, 9, position)
    display.draw(4, 9, position)
    drawn = "\rstep 3/9 of 39\x1b[J\r", "\rstep 4/9 of 39\x1b[J\r"
    assert terminal.getvalue() == "".join(drawn)
    display.close()
    assert not display.is_open


def test_records_are_printed_above_the_bar(terminal, monkeypatch):
    other = logging.NullHandler()
    shown = logging.StreamHandler(terminal)
    shown.setFormatter(logging.Formatter("log: %(message)s"))
    monkeypatch.setattr(logger, "handlers", [shown, other])
    display = BarDisplay()
    display.open(3, 9, position)
    assert logger.handlers[1] is other  # it does not print
    logger.warning("careful")
    printed = terminal.getvalue().replace("\x1b[J", "")
    assert "log: careful\n\rstep 3/9 of 39" in printed  # the bar is drawn again below
    display.close()
    assert logger.handlers == [shown, other]


def test_without_a_terminal_nothing_is_drawn(monkeypatch):
    stream = io.StringIO()
    fake = SimpleNamespace(stderr=stream, stdout=stream)
    monkeypatch.setattr(bar_display, "sys", fake)
    display = BarDisplay()
    display.open(3, 9, position)
    display.draw(4, 9, position)
    display.close()
    assert not display.is_open
    assert stream.getvalue() == ""


def test_a_closed_terminal_does_not_raise(terminal):
    display = BarDisplay()
    display.open(3, 9, position)
    terminal.close()
    display.draw(4, 9, position)
    display.close()
