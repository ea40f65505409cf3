"""Numbers and names as users see them."""

import pytest
from helpers import HOSTILE, HOSTILE_SHOWN
from hypothesis import given
from hypothesis import strategies as st

from nnx_alexnet.support import format_count, format_duration, format_value, printable


def test_control_characters_are_escaped():
    assert printable(HOSTILE) == HOSTILE_SHOWN
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"
    assert printable(ValueError("a\nb")) == r"a\nb"


@pytest.mark.parametrize(
    "name",
    ["Übung 1.png", "猫 (2).jpg", "नमस्ते", "می\u200cشود", "👩\u200d🔬", "a\u00a0b", r"a\nb"],
)
def test_printable_names_of_any_script_are_kept(name):
    assert printable(name) == name


@given(st.text())
def test_any_text_becomes_one_line_and_is_escaped_once(text):
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    shown.encode()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"), (0.4, "0s"), (59.4, "59s"), (59.6, "1m00s"), (3599, "59m59s"),
        (3600, "1h00m"), (86_399, "23h59m"), (86_400, "1d00h"), (10**6, "11d13h"),
    ],
)  # fmt: skip
def test_durations_have_their_two_largest_units(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0000"), (0.97222, "0.9722"), (-1.5, "-1.5000"), (999.9, "999.9000"),
        (1000.4, "1,000"), (1e9, "1e+09"), (0.00012, "0.00012"), (float("nan"), "nan"),
    ],
)  # fmt: skip
def test_values_have_about_four_digits(value, text):
    assert format_value(value) == text


def test_counts_have_separators_and_a_plural():
    assert [format_count(number, "step") for number in (0, 1, 2, 1234)] == [
        "0 steps", "1 step", "2 steps", "1,234 steps",
    ]  # fmt: skip
