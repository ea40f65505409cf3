import collections
import enum
import json
import math

import numpy as np
import pytest
import torch

from nnx_alexnet.data.state_json import decode, encode

PLAIN = {"next_index": 3, "exhausted": [False, True], "name": "a", "none": None, "share": 0.1}


def through_json(value):
    return decode(json.loads(json.dumps(encode(value, "`state`"))))


def test_plain_values_stay_as_they_are():
    assert encode(PLAIN, "`state`") == PLAIN
    assert through_json(PLAIN) == PLAIN


@pytest.mark.parametrize(
    "value",
    [
        b"\x00\xff", (1, (2.5, "x")), {3: "a", (1, 2): b"b"}, {"__type__": 1}, [], {}, (), "",
        2**70, {"deep": [{"er": ({"est": 1},)}]},
    ],
)  # fmt: skip
def test_other_values_come_back_with_their_types(value):
    back = through_json(value)
    assert back == value
    assert repr(back) == repr(value)  # a tuple is no list


def test_floats_come_back_exactly():
    values = [0.1, 1e-320, math.inf, -0.0, float("nan")]
    assert repr(through_json(values)) == repr(values)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "bool", "complex64", "U3", "S2"])
@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 2)])
def test_arrays_and_scalars_come_back_with_dtype_and_shape(dtype, shape):
    array = np.ones(shape, dtype)
    back = through_json(array)
    assert type(back) is np.ndarray
    assert (back.dtype, back.shape) == (array.dtype, shape)
    np.testing.assert_array_equal(back, array)
    scalar = through_json(np.ones(1, dtype)[0])
    assert type(scalar) is type(np.ones(1, dtype)[0])
    assert scalar == np.ones(1, dtype)[0]


def test_an_array_that_came_back_can_be_changed():
    back = through_json(np.zeros(3))
    back[0] = 1
    assert back.tolist() == [1, 0, 0]


def test_tensors_come_back_as_tensors():
    state = torch.Generator().manual_seed(3).get_state()
    back = through_json({"generator": state})["generator"]
    assert back.dtype == torch.uint8
    assert torch.equal(back, state)


def test_the_encoded_state_does_not_change_with_the_state():
    state = {"counts": [1], "array": np.zeros(2)}
    encoded = encode(state, "`state`")
    state["counts"].append(2)
    state["array"][0] = 7
    back = decode(encoded)
    assert (back["counts"], back["array"].tolist()) == ([1], [0, 0])


class Color(enum.IntEnum):
    RED = 1


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    "value",
    [object(), Color.RED, Pair(1, 2), {1, 2}, lambda: 0, np.array([None]), np.array(["2020"], "M8"),
     collections.OrderedDict(a=1)],
)  # fmt: skip
def test_an_object_that_would_lose_its_type_is_refused_by_its_path(value):
    with pytest.raises(TypeError, match=r"`state`\['a'\]\[0\] is .*cannot hold"):
        encode({"a": [value]}, "`state`")


def test_an_unknown_type_is_no_state():
    with pytest.raises(ValueError, match="unknown type 'pickle'"):
        decode({"__type__": "pickle", "value": ""})
