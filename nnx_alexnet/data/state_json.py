"""Writes the state of an iterator as JSON values, and reads it back with the same types.

Nothing is pickled, so reading a state runs and imports no code from it.
"""

import base64
import sys
from typing import Any

import numpy as np

_TAG = "__type__"


def encode(value: Any, where: str) -> Any:
    """Returns a copy of a state that JSON stores without changing it.

    Args:
        value: None, bool, int, float, str, bytes, a NumPy array or scalar, a torch tensor, or a
            list, tuple or dict of these.
        where: the name of the value in the error.

    Returns:
        JSON values. Types that JSON lacks are dicts with the key `__type__`.

    Raises:
        TypeError: the state contains an object of another type.

    Example:
        >>> from nnx_alexnet.data.state_json import decode, encode
        >>> encode({"place": (3, b"ab")}, "`state`")
        {'place': {'__type__': 'tuple', 'value': [3, {'__type__': 'bytes', 'value': 'YWI='}]}}
        >>> decode(encode({"place": (3, b"ab")}, "`state`"))
        {'place': (3, b'ab')}
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is dict:
        return _encode_dict(value, where)
    if kind in (list, tuple):
        items = [encode(item, f"{where}[{n}]") for n, item in enumerate(value)]
        return items if kind is list else {_TAG: "tuple", "value": items}
    if kind is bytes:
        return {_TAG: "bytes", "value": _text(value)}
    return _encode_array(value, where)


def decode(value: Any) -> Any:
    """Returns the value that `encode` was given.

    Raises:
        ValueError: the value is not a result of `encode`.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if isinstance(value, dict):
        if _TAG in value:
            return _decode_tagged(value[_TAG], value["value"], value)
        return {key: decode(item) for key, item in value.items()}
    return value


def _decode_tagged(kind: str, content: Any, about: dict[str, Any]) -> Any:
    if kind == "tuple":
        return tuple(decode(item) for item in content)
    if kind == "dict":
        return {decode(key): decode(item) for key, item in content}
    if kind == "bytes":
        return base64.b64decode(content)
    if kind not in ("array", "scalar", "tensor"):
        raise ValueError(f"a state has an unknown type {kind!r}")
    flat = np.frombuffer(base64.b64decode(content), np.dtype(about["dtype"]))
    array = flat.reshape(about["shape"]).copy()
    if kind == "tensor":
        import torch

        return torch.from_numpy(array)
    return array if kind == "array" else array[()]


def _encode_dict(value: dict[Any, Any], where: str) -> dict[str, Any]:
    if all(type(key) is str for key in value) and _TAG not in value:
        return {key: encode(item, f"{where}[{key!r}]") for key, item in value.items()}
    pairs = [
        [encode(key, f"a key of {where}"), encode(item, f"{where}[{key!r}]")]
        for key, item in value.items()
    ]
    return {_TAG: "dict", "value": pairs}


def _encode_array(value: Any, where: str) -> dict[str, Any]:
    kind, torch = type(value), sys.modules.get("torch")
    if torch is not None and kind is torch.Tensor:
        name, array = "tensor", value.detach().cpu().numpy()
    elif kind is np.ndarray or isinstance(value, np.generic):
        name, array = "array" if kind is np.ndarray else "scalar", np.asarray(value)
    else:
        name, array = "", np.empty(0, object)
    if array.dtype.kind not in "biufcSU":
        raise TypeError(
            f"{where} is {value!r:.100} ({kind.__module__}.{kind.__qualname__}), which a "
            "checkpoint cannot hold. It can hold None, bool, int, float, str, bytes, arrays of "
            "NumPy and torch, and lists, tuples and dicts of these."
        )
    about = {"dtype": array.dtype.str, "shape": list(array.shape)}
    return {_TAG: name, **about, "value": _text(array.tobytes())}


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
