"""Checks of arguments: which values they accept, and the text of the error for the others."""

import numpy as np
import pytest

from nnx_alexnet.support import (
    as_number,
    as_python,
    check_bools,
    check_integer,
    check_metric_name,
    check_number,
)

RULES = [
    ({}, "a positive integer"),
    ({"also": (None,)}, "a positive integer or None"),
    ({"also": ("auto", None)}, "a positive integer or 'auto' or None"),
    ({"minimum": 2}, "an integer of at least 2"),
    ({"maximum": 4}, "an integer from 1 to 4"),
    ({"maximum": 4, "also": ("auto",), "reason": "there are 4"},
     "an integer from 1 to 4 or 'auto': there are 4"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "text"), RULES)
@pytest.mark.parametrize("value", [0, -1, True, 2.0, "2", np.int64(2), np.ones(2, int), [2]])
def test_other_values_are_refused_with_argument_value_and_rule(rule, text, value):
    with pytest.raises(ValueError, match="must be") as error:
        check_integer("num", value, **rule)
    assert str(error.value) == f"`num` (={value!r}) must be {text}."


def test_integers_within_the_bounds_are_accepted():
    for rule, _ in RULES:
        for value in (2, 3, 4, *rule.get("also", ())):
            check_integer("num", value, **rule)
    check_integer("num", 0, minimum=0)
    check_integer("num", 10**30)


def test_values_that_only_equal_an_accepted_one_are_refused():
    class Auto(str):
        pass

    with pytest.raises(ValueError, match="`num`"):
        check_integer("num", Auto("auto"), also=("auto",))


@pytest.mark.parametrize(
    ("interval", "accepted", "refused", "rule"),
    [
        ("[0, 1)", [0, 0.5, np.float32(0.9), np.array(0.5)], [-1e-9, 1], "in [0, 1)"),
        ("(0, 1]", [1, 1e-9], [0, 1.1], "in (0, 1]"),
        ("(0, inf)", [1e-300, 10**30], [0, -1], "greater than 0"),
        ("[0, inf)", [0, 1e300], [-1], "of at least 0"),
    ],
)
def test_numbers_are_in_their_interval(interval, accepted, refused, rule):
    for value in accepted:
        check_number("rate", value, interval)
    others = [np.nan, np.inf, 10**400, "0.5", True, None, 1j, [0.5], np.array([0.5])]
    for value in [*refused, *others]:
        with pytest.raises(ValueError, match="must be") as error:
            check_number("rate", value, interval, reason="0.5 is common")
        text = f"`rate` (={value!r}) must be a number {rule}; 0.5 is common."
        assert str(error.value) == text


def test_as_python_converts_scalars_of_numpy_only():
    assert type(as_python(np.uint8(3))) is int
    assert as_python(2.5) == 2.5
    assert type(as_python(np.float32(2.0))) is float
    assert as_python(np.False_) is False
    assert as_python(True) is True


@pytest.mark.parametrize("name", ["loss", "val/é ü", "a b", "{x}%s"])
def test_printable_text_is_a_metric_name(name):
    check_metric_name(name)


@pytest.mark.parametrize(
    ("name", "kind", "match"),
    [
        (3, TypeError, "must be a str"),
        ("step", ValueError, "part of every record"),
        ("epoch", ValueError, "part of every record"),
        ("", ValueError, "printable"),
        ("  ", ValueError, "printable"),
        ("a\x1b[2J", ValueError, "printable"),
    ],
)
def test_other_metric_names_are_refused(name, kind, match):
    with pytest.raises(kind, match=match):
        check_metric_name(name)


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_other_values_than_bools_are_refused(value):
    check_bools(flag=True, other=np.False_)
    with pytest.raises(TypeError, match=r"`flag` \(=.*\) must be True or False"):
        check_bools(other=False, flag=value)


@pytest.mark.parametrize("value", [0.5, np.float64(0.5), np.array(0.5), True, 10**30])
def test_scalars_become_floats(value):
    assert as_number("score", value) == float(value)
    assert type(as_number("score", value)) is float


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (np.zeros((2, 3)), r"an array of shape \(2, 3\)"), ("0.5", "'0.5'"), (b"1", "b'1'"),
        (None, "None"), (1j, "1j"), (10**400, "1000"), ([0.5], r"\[0.5\]"),
    ],
)  # fmt: skip
def test_values_that_are_no_scalars_are_refused(value, what):
    with pytest.raises(TypeError, match=f"The metric 'score' has {what}"):
        as_number("score", value)
