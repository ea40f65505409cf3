"""What proves that a checkpoint is whole: a digest of every array and of the loop's JSON.

A bit that flips on a disk reads back as other weights without any error, so each checkpoint
carries SHA-256 digests that were taken before it was written and are compared when it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray[Any, Any]]
# The items that say how training goes on; the others are records of the running epoch.
_STATE = ("model/", "optimizer/")


def manifest_of(arrays: Arrays, loop: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the digests of a checkpoint, as JSON values.

    Args:
        arrays: every array by its path, the item first, such as "model/conv1/kernel".
        loop: what JSON holds of the checkpoint.

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
    """Returns whether a JSON object has the structure that `manifest_of` gives it."""
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


def promised_by(manifest: Mapping[str, Any], item: str) -> dict[str, dict[str, Any]]:
    """Returns `dtype`, `shape` and `sha256` of the arrays of one item, by their path inside it."""
    prefix = f"{item}/"
    return {
        path.removeprefix(prefix): about
        for path, about in manifest["arrays"].items()
        if path.startswith(prefix)
    }


def damaged(manifest: Mapping[str, Any], arrays: Arrays, loop: Mapping[str, Any]) -> list[str]:
    """Returns what differs from a manifest: paths of arrays, and "loop"; [] if nothing does.

    Args:
        manifest: what `manifest_of` returned before the checkpoint was written.
        arrays: what was read back; items that were not read at all are not looked for.
        loop: what was read back.
    """
    items = {path.split("/", 1)[0] for path in arrays}
    expected = {p: d for p, d in manifest["arrays"].items() if p.split("/", 1)[0] in items}
    found = manifest_of(arrays, loop)
    paths = sorted({*expected, *found["arrays"]})
    differing = [path for path in paths if expected.get(path) != found["arrays"].get(path)]
    return differing + (["loop"] if manifest["loop"] != found["loop"] else [])


def state_digest(manifest: Mapping[str, Any]) -> str:
    """Returns one digest of the whole training state, by which two runs can be compared.

    It covers path, dtype, shape and bytes of every array of the model and its optimizer,
    dropout keys and counters included, in the order of the paths.
    """
    paths = [path for path in sorted(manifest["arrays"]) if path.startswith(_STATE)]
    return _text_digest([[path, manifest["arrays"][path]] for path in paths])


def _bytes(array: np.ndarray[Any, Any]) -> Any:
    # As bytes, because NumPy lends no buffer of bfloat16.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _text_digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
