"""Which values of a metric are better, and in which order steps rank."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnx_alexnet.support.ranking import best_first, check_mode, is_better

NOT_FINITE = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize(
    ("value", "best", "options", "expected"),
    [
        (1.0, None, {"mode": "min"}, True),
        (1.0, 2.0, {"mode": "min"}, True),
        (2.0, 2.0, {"mode": "min"}, False),
        (2.0, 1.0, {"mode": "min"}, False),
        (2.0, 1.0, {"mode": "max"}, True),
        (1.0, 1.0, {"mode": "max"}, False),
        (0.75, 1.0, {"mode": "min", "min_delta": 0.25}, False),
        (0.74, 1.0, {"mode": "min", "min_delta": 0.25}, True),
        (1.25, 1.0, {"mode": "max", "min_delta": 0.25}, False),
        (1.26, 1.0, {"mode": "max", "min_delta": 0.25}, True),
    ],
)
def test_a_value_is_better_by_more_than_min_delta(value, best, options, expected):
    assert is_better(value, best, **options) is expected


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_value_that_is_not_finite_is_never_better(value, mode):
    assert not is_better(value, None, mode=mode)
    assert not is_better(value, 1.0, mode=mode)


def test_equal_values_rank_by_step():
    values = {30: 0.5, 10: 0.7, 40: 0.7, 20: 0.5}
    assert best_first(values, mode="min") == [20, 30, 10, 40]
    assert best_first(values, mode="max") == [10, 40, 20, 30]


def test_values_that_are_not_finite_have_no_rank():
    values = dict(enumerate([*NOT_FINITE, 1.0]))
    assert best_first(values, mode="min") == best_first(values, mode="max") == [3]
    assert best_first({}, mode="min") == []


@given(
    st.dictionaries(st.integers(0, 100), st.floats(), max_size=8), st.sampled_from(["min", "max"])
)
def test_no_value_is_better_than_that_of_the_first_step(values, mode):
    ranked = best_first(values, mode=mode)
    assert bool(ranked) == any(map(math.isfinite, values.values()))
    if ranked:
        assert not any(is_better(value, values[ranked[0]], mode=mode) for value in values.values())


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"`mode` .*'maxx'.* did you mean 'max'"):
        check_mode("maxx")
