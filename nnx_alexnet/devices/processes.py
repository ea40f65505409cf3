"""Decisions that all processes of a run share, so that each does the same at the same step.

A single process sends nothing and acts at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

T = TypeVar("T")

# The types of errors that the first process passes on to the others.
_ERRORS = {"ValueError": ValueError, "TypeError": TypeError, "OSError": OSError}


def is_main() -> bool:
    """Whether this is the first process, the only one that writes."""
    return jax.process_index() == 0


def on_main(function: Callable[[], T]) -> T:
    """Runs a function in the first process only, and returns its result in all of them.

    Args:
        function: what it returns must be representable as JSON.

    Returns:
        The result of the first process.

    Raises:
        Exception: the function failed in the first process; all processes raise its error.

    Example:
        >>> from nnx_alexnet.devices.processes import on_main
        >>> on_main(lambda: "logs/alexnet/version_0")
        'logs/alexnet/version_0'
    """
    if jax.process_count() == 1:
        return function()
    message: dict[str, Any] = {}
    failure: Exception | None = None
    if is_main():
        try:
            message = {"result": function()}
        except Exception as error:
            failure = error
            kind = next((name for name, k in _ERRORS.items() if isinstance(error, k)), "other")
            message = {"error": str(error), "kind": kind}
    message = _from_main(message)
    if failure is not None:
        raise failure
    if "error" in message:
        raise _ERRORS.get(message["kind"], RuntimeError)(message["error"])
    result: T = message["result"]
    return result


def _from_main(message: Any) -> Any:
    """Returns the message of the first process, in all of them."""
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(message).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    sent = np.zeros(size, np.uint8)
    sent[: len(text)] = text[:size]
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(sent)).decode())


def check_alike(parts: Mapping[str, Any]) -> None:
    """Raises a `ValueError` in all processes if a part differs between them.

    Args:
        parts: JSON values by the name of the argument that they describe.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    texts = [json.dumps(part, sort_keys=True).encode() for part in parts.values()]
    digests = b"".join(hashlib.sha256(text).digest() for text in texts)
    rows = np.frombuffer(digests, np.uint8).reshape(len(parts), -1)
    everywhere = np.asarray(multihost_utils.process_allgather(rows))  # process, part, 32
    for number, name in enumerate(parts):
        same = (everywhere[:, number] == everywhere[0, number]).all(axis=1)
        if not same.all():
            raise ValueError(
                f"`{name}` differs between the processes of this run: in processes "
                f"{np.flatnonzero(~same).tolist()} it is not that of process 0. All processes run "
                "the same program: give them the same arguments, seeds and data."
            )
