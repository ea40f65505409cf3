import enum
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnx_alexnet.support.plain_json import check_plain

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Color(enum.IntEnum):
    RED = 1


def same(first, second):
    """Whether two values are equal with all types; NaN is equal to itself."""
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float) and math.isnan(first):
        return math.isnan(second)
    return first == second


@given(PLAIN)
def test_what_is_accepted_comes_back_from_json_as_it_was(value):
    check_plain(value, "`state`")
    assert same(json.loads(json.dumps(value)), value)


@pytest.mark.parametrize(
    ("value", "where", "advice"),
    [
        ((1, 2), "`state`", "Use a list."),
        ({"a": [0, {1, 2}]}, r"`state`\['a'\]\[1\]", "Use a sorted list."),
        ({"a": np.float32(1)}, r"`state`\['a'\]", r"Use `.tolist\(\)`."),
        ([Color.RED], r"`state`\[0\]", r"Use `int\(...\)`."),
        ({3: 1}, "`state` has the key 3", "Use '3'."),
        ([1 << 20_000], r"`state`\[0\]", "20,001 bits"),
    ],
    ids=["tuple", "set", "NumPy scalar", "enumeration", "integer key", "huge integer"],
)
def test_what_json_would_change_is_refused_with_its_place(value, where, advice):
    with pytest.raises(TypeError, match=f"{where}.*{advice}"):
        check_plain(value, "`state`")


def test_a_list_that_holds_itself_is_refused():
    value: list = []
    value.append(value)
    with pytest.raises(TypeError, match="nested too deeply"):
        check_plain(value, "`state`")
