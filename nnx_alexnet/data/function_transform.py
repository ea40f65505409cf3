"""Wraps a user's function of a batch as the transform of the data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from nnx_alexnet.data.examples import ElementSpec
from nnx_alexnet.data.function_checks import checked_spec, hashable_spec
from nnx_alexnet.devices import usual_promotion

SIGNATURE = "transform(batch, key=None)"
HOW = (
    f"Write it as `{SIGNATURE}`: `batch` is a dict of arrays [B, ...] with the keys of the data, "
    "`mask` and `index`; `key` is a jax.random key in training and None otherwise. It returns the "
    "batch, as in {**batch, 'image': batch['image'] / 255}. Without augmentation, write it as "
    "`transform(batch)`."
)


@dataclass(frozen=True, eq=False)  # a function need not be hashable
class FunctionTransform:
    """Calls a function of the user instead of an `ImageTransform`, inside the compiled step.

    Args:
        function: accepts a batch, and `key` if `takes_key`; returns a batch.
        takes_key: whether the function accepts a key, for augmentation.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.function_transform import FunctionTransform
        >>> transform = FunctionTransform(lambda batch: {"x": batch["x"] / 255}, takes_key=False)
        >>> transform({"x": np.full((1, 2), 255)})["x"].tolist()
        [[1.0, 1.0]]
    """

    function: Callable[..., Any]
    takes_key: bool
    # As in `ImageTransform`, for code that shows the model's input.
    mean: ClassVar[tuple[float, ...]] = (0.0,)
    std: ClassVar[tuple[float, ...]] = (1.0,)

    def __call__(self, batch: Mapping[str, Any], key: jax.Array | None = None) -> Any:
        """Returns the result of the function for a batch."""
        return self.function(batch, key=key) if self.takes_key else self.function(batch)

    def describe(self) -> dict[str, Any]:
        """Returns the name of the function."""
        named = self.function if hasattr(self.function, "__qualname__") else type(self.function)
        return {"function": f"{named.__module__}.{named.__qualname__}"}

    def check(self, spec: ElementSpec, *, may_lack_fields: bool = False) -> ElementSpec:
        """Returns the shapes of one example after the transform.

        Args:
            spec: the shapes and dtypes of one example.
            may_lack_fields: has no effect; the function reads what it needs.

        Raises:
            ValueError: the function cannot be traced, does not return a batch, mixes examples in
                evaluation, draws random numbers while it is traced, or moves the pixels of the
                image but not a field that belongs to it.
        """
        with usual_promotion(), jax.transfer_guard("allow"):
            return checked_spec(
                self, hashable_spec(spec), self.describe()["function"], self.takes_key, HOW
            )


def as_function_transform(value: Any) -> FunctionTransform:
    """Returns a function of a batch as a `FunctionTransform`.

    Args:
        value: a function `(batch)` or `(batch, key=None)`.

    Raises:
        TypeError: the value has another type, or accepts other arguments.

    Example:
        >>> from nnx_alexnet.data.function_transform import as_function_transform
        >>> as_function_transform(lambda batch, key=None: batch).takes_key
        True
    """
    if isinstance(value, type) or not callable(value):
        raise TypeError(
            f"`transform` (={value!r}) must be an ImageTransform, a function, an augmentation "
            f"such as ColorJitter(), or a list of these. {HOW}"
        )
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # functions in C have none
        return FunctionTransform(value, takes_key=False)
    parameters = signature.parameters.values()
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    takes_key = takes_any or "key" in signature.parameters
    if "index" in signature.parameters:
        raise TypeError(
            f"`transform` has the arguments {signature}, but the indices of the examples are "
            f"batch['index']. {HOW}"
        )
    try:
        signature.bind(None, **({"key": None} if takes_key else {}))
    except TypeError as error:
        raise TypeError(f"`transform` has the arguments {signature}: {error}. {HOW}") from None
    return FunctionTransform(value, takes_key=takes_key)
