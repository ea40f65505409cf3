import errno

import pytest

from nnx_alexnet.support.error_messages import first_line, is_of_machine, shown, unknown


def test_an_unknown_name_is_reported_with_the_nearest_known_one():
    error = unknown("mode", "maxx", ["min", "max"])
    assert isinstance(error, ValueError)
    assert str(error) == "`mode` (='maxx') is unknown; did you mean 'max'? Known: 'max', 'min'."


def test_a_name_that_is_far_from_all_known_ones_gets_no_suggestion():
    error = unknown("mode", 7, ["min", "max"])
    assert str(error) == "`mode` (=7) is unknown. Known: 'max', 'min'."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a" * 78, repr("a" * 78)),  # 80 characters with the quotes
        ("a" * 79, "an object of type str"),
        (type("Lines", (), {"__repr__": lambda self: "a\nb"})(), "an object of type Lines"),
    ],
    ids=["80 characters", "81 characters", "two lines"],
)
def test_only_short_values_are_shown(value, text):
    assert shown(value) == text


def test_a_long_error_is_cut_after_its_first_line_and_300_characters():
    assert first_line(OSError("  disk full\nmore")) == "disk full"
    assert first_line(OSError("x" * 400)) == "x" * 300
    assert first_line(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EMFILE, "too many open files"), True),
        (OSError(errno.EIO, "input/output error"), True),
        (OSError(errno.ENOENT, "no such file"), False),
        (MemoryError(), True),
        (EOFError(), False),
    ],
    ids=["EMFILE", "EIO", "ENOENT", "MemoryError", "EOFError"],
)
def test_errors_of_the_machine_are_told_from_those_of_a_file(error, expected):
    assert is_of_machine(error) is expected
