"""Digests that prove that a checkpoint is intact: of every array, and of the loop's JSON.

A flipped bit on a disk silently becomes a different weight. Therefore each checkpoint carries
SHA-256 digests that are taken before it is written and compared whenever it is read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray[Any, Any]]
# The items that determine how training continues; the others are records of the running epoch.
_STATE = ("model/", "optimizer/", "evaluation/", "best/")


class ArrayInfo(NamedTuple):
    """Dtype and shape of an array.

    Example:
        >>> from nnx_alexnet.checkpoints.digests import ArrayInfo
        >>> str(ArrayInfo("float32", [2, 3])), ArrayInfo("float32", [2, 3]).num_bytes
        ('float32[2, 3]', 24)
    """

    dtype: str
    shape: list[int]

    @property
    def num_values(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Number of bytes that the values take."""
        return self.num_values * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.dtype}{self.shape}"


def manifest_of(arrays: Arrays, loop: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the digests of a checkpoint as JSON values.

    Args:
        arrays: every array by its path, which begins with the item, such as "model/conv1/kernel".
        loop: the JSON item of the checkpoint.

    Returns:
        `arrays` (path to `dtype`, `shape` and `sha256`) and `loop`, a SHA-256.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.checkpoints.digests import damaged, manifest_of
        >>> arrays = {"model/w": np.ones(3, np.float32)}
        >>> manifest = manifest_of(arrays, {"epoch": 1})
        >>> damaged(manifest, arrays, {"epoch": 1}), damaged(manifest, arrays, {"epoch": 2})
        ([], ['loop'])
    """
    return {
        "arrays": {
            path: {
                "dtype": str(array.dtype),
                "shape": list(array.shape),
                "sha256": hashlib.sha256(_bytes(array)).hexdigest(),
            }
            for path, array in sorted(arrays.items())
        },
        "loop": _text_digest(loop),
    }


def is_manifest(value: Mapping[str, Any]) -> bool:
    """Returns whether a JSON object has the structure that `manifest_of` returns."""
    arrays = value.get("arrays")
    return (
        isinstance(arrays, dict)
        and isinstance(value.get("loop"), str)
        and all(
            isinstance(about, dict)
            and isinstance(about.get("dtype"), str)
            and isinstance(about.get("shape"), list)
            and all(type(size) is int and size >= 0 for size in about["shape"])
            for about in arrays.values()
        )
    )


def arrays_of(manifest: Mapping[str, Any], item: str) -> dict[str, ArrayInfo]:
    """Returns dtype and shape of the arrays of one item, by their path within the item."""
    prefix = f"{item}/"
    return {
        path.removeprefix(prefix): ArrayInfo(about["dtype"], about["shape"])
        for path, about in manifest["arrays"].items()
        if path.startswith(prefix)
    }


def damaged(manifest: Mapping[str, Any], arrays: Arrays, loop: Mapping[str, Any]) -> list[str]:
    """Returns what differs from a manifest: paths of arrays, and "loop"; [] if nothing does.

    Args:
        manifest: the result of `manifest_of` before the checkpoint was written.
        arrays: the arrays that were read; an item without any of them is not compared.
        loop: the JSON item that was read.
    """
    items = {path.split("/", 1)[0] for path in arrays}
    expected = {p: d for p, d in manifest["arrays"].items() if p.split("/", 1)[0] in items}
    found = manifest_of(arrays, loop)
    paths = sorted({*expected, *found["arrays"]})
    differing = [path for path in paths if expected.get(path) != found["arrays"].get(path)]
    return differing + (["loop"] if manifest["loop"] != found["loop"] else [])


def state_digest(manifest: Mapping[str, Any]) -> str:
    """Returns one digest of the whole training state, by which two runs can be compared.

    It covers path, dtype, shape and bytes of every array of the model and its optimizer, including
    dropout keys and counters, in the order of their paths.
    """
    paths = [path for path in sorted(manifest["arrays"]) if path.startswith(_STATE)]
    return _text_digest([[path, manifest["arrays"][path]] for path in paths])


def _bytes(array: np.ndarray[Any, Any]) -> Any:
    # A view of bytes, because NumPy does not expose a buffer of bfloat16.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _text_digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
