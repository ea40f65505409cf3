"""Messages of the logger."""

import contextlib
import io
import logging

import numpy as np
import pytest
from helpers import HOSTILE
from notebook import FakeNotebook

from nnx_alexnet.support import logger, printable
from nnx_alexnet.support.log import is_configured


def test_an_argument_cannot_break_the_line_of_a_message(printed):
    name = HOSTILE.replace("\udcff\ud800", "")  # which pytest cannot report
    logger.warning("`%s` at %d of %g: %r", name, 3, np.float32(0.5), ValueError("a\nb"))
    logger.info("%s", "two\nlines\x1b")
    logger.info("100% of it")
    assert printed().split("\n") == [
        f"`{printable(name)}` at 3 of 0.5: ValueError('a\\nb')",
        "two", "lines\\x1b", "100% of it", "",
    ]  # fmt: skip


def test_the_logger_writes_to_the_current_standard_error(printed):
    for _ in range(2):
        with contextlib.redirect_stderr(io.StringIO()) as stream:
            logger.info("step %d of %s", 3, "run")
        assert stream.getvalue() == "step 3 of run\n"


def test_in_a_notebook_only_warnings_go_to_standard_error(monkeypatch, printed):
    FakeNotebook.install(monkeypatch)
    with (
        contextlib.redirect_stdout(io.StringIO()) as output,
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        logger.info("step 3")
        logger.warning("careful")
    assert (output.getvalue(), errors.getvalue()) == ("step 3\n", "careful\n")


@pytest.mark.parametrize(
    ("level", "formatted", "configured"),
    [
        ("WARNING", logging.BASIC_FORMAT, False),
        ("INFO", logging.BASIC_FORMAT, True),
        ("WARNING", "%(message)s", True),
    ],
)
def test_a_bare_basic_config_does_not_hide_what_runs_report(level, formatted, configured):
    root, handler = logging.RootLogger(level), logging.StreamHandler()
    handler.setFormatter(logging.Formatter(formatted))
    root.addHandler(handler)
    assert is_configured(root) is configured
